"""A server with a valid certificate at the address of etcd that is no etcd."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_discovery import ConnectError
from aegis_discovery.aio import connect

StartEtcd = Callable[[str], Awaitable[str]]


class Answers(grpc.GenericRpcHandler):
    """Answers every call in the same way."""

    def __init__(self, how: str) -> None:
        self._how = how

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._answer)

    async def _answer(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        if self._how == "refuse":
            text = "no\nWARNING b failed\x1b[31m" + "x" * 5000
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)
        if self._how == "garbage":
            yield b"\xff" * 64


@pytest.fixture
async def bad_etcd(identity: Callable[..., TLSConfig]) -> AsyncIterator[StartEtcd]:
    servers = []

    async def start(how: str) -> str:
        tls = identity("etcd-1")
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Answers(how),))
        pairs = [(tls.private_key, tls.certificate_chain)]
        credentials = grpc.ssl_server_credentials(pairs, tls.trust_bundle, True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        servers.append(server)
        return f"etcd://etcd-1@127.0.0.1:{port}/aegis"

    yield start
    for server in servers:
        await server.stop(None)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("end", "it ended a call of KV/Range without an answer"),
        ("refuse", "no WARNING b failed "),
        ("garbage", "127.0.0.1:"),
    ],
)
async def test_what_is_no_etcd_gets_one_line_without_a_traceback(
    how: str, said: str, bad_etcd: StartEtcd, identity: Callable[[str], TLSConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "aegis")
    with pytest.raises(ConnectError) as caught:
        await connect(registry=await bad_etcd(how), tls=identity("client"), timeout=1)
    assert said in str(caught.value)
    texts = [str(caught.value), *(record.getMessage() for record in caplog.records)]
    assert all(text.isprintable() and len(text) < 500 for text in texts)
    assert [record for record in caplog.records if record.exc_info] == []
