"""What a node says to options that cannot work."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from aegis_core import ConfigError, Node, ServiceInfo, aio


class SyncInterceptor(grpc.ServerInterceptor):
    def intercept_service(self, continuation: Any, details: Any) -> Any:
        return continuation(details)


class AsyncInterceptor(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return await continuation(details)


@pytest.mark.parametrize("face", [Node, aio.Node])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("services", ["stock"], r"^services: 'stock' is no service; give ServiceInfo\("),
        ("services", "stock", r"^services: 'stock' is not a list; give \['stock'\]"),
        ("services", ServiceInfo("s", "v1"), r"is not a list; give \[ServiceInfo\(name='s'"),
        ("seed_peers", "host:5", r"^seed_peers: 'host:5' is not a list; give \['host:5'\]"),
        ("region", "eu\nwest", r"^region: 'eu\\nwest' is not printable text; give a name such as"),
        ("region", "\udcff", r"^region: '\\udcff' is not printable text"),
        ("region", "x" * 10_000, r"^region: x{20}\.\.\. has 10000 bytes, the limit is 64"),
        ("zone", None, r"^zone: None is not printable text"),
        ("boundary", "zone", r"^boundary: 'zone' is not known; give 'region' or none"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused_with_what_to_give(
    face: Any, option: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        face("a", address="127.0.0.1:0", **{option: value})


@pytest.mark.parametrize(
    ("face", "interceptor", "message"),
    [
        (Node, AsyncInterceptor(), r"a blocking node takes a grpc\.ServerInterceptor"),
        (aio.Node, SyncInterceptor(), r"a node of asyncio takes a grpc\.aio\.ServerInterceptor"),
    ],
)
def test_an_interceptor_of_the_other_api_is_refused(
    face: Any, interceptor: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^interceptors: .* is not usable here; {message}"):
        face("a", address="127.0.0.1:0", interceptors=[interceptor])


@pytest.mark.parametrize("face", [Node, aio.Node])
def test_the_error_of_an_unknown_keyword_names_the_node(face: Any) -> None:
    with pytest.raises(TypeError, match=r"^Node\(\) got an unexpected keyword argument 'adress'"):
        face("a", adress="127.0.0.1:0")  # codespell:ignore adress
    with pytest.raises(TypeError, match=r"^Node\(\) missing 1 required .* argument: 'address'"):
        face("a")
