"""All errors can be pickled without loss, so that worker processes can send them."""

from __future__ import annotations

import inspect
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import errors as certs_errors
from aegis_core import errors as core_errors
from aegis_discovery import ServiceClientPool, Topology
from aegis_discovery import aio as discovery_aio
from aegis_discovery import errors as discovery_errors

SAMPLES = {
    "str": "some text",
    "int": 7,
    "float": 7.5,
    "object": 7,
    "datetime": datetime(2027, 1, 2, tzinfo=UTC),
    "Path": Path("/some/path"),
    "str | Path": Path("/some/path"),
    "str | None": "some text",
    "Sequence[str]": ("a", "b"),
    "Mapping[str, str]": {"a": "some text"},
}
ERRORS = [
    getattr(module, name)
    for module in (certs_errors, discovery_errors, core_errors)
    for name in module.__all__
]


def make(error: type[Exception]) -> Exception:
    if "__init__" not in dir(error) or error.__init__ is Exception.__init__:
        return error("some text")
    parameters = list(inspect.signature(error.__init__).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return error("some text")
    return error(*(SAMPLES[p.annotation] for p in parameters if p.default is p.empty))


def same(one: BaseException, other: BaseException) -> bool:
    return (type(one), str(one), vars(one)) == (type(other), str(other), vars(other))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_an_error_is_equal_after_pickling(error: type[Exception], protocol: int) -> None:
    sent = make(error)
    assert same(pickle.loads(pickle.dumps(sent, protocol)), sent)  # noqa: S301 - our own bytes


def test_a_call_error_without_providers_is_equal_after_pickling(identity: Any) -> None:
    with (
        ServiceClientPool(Topology(), identity("a")) as pool,
        pytest.raises(discovery_errors.NoProvidersError) as caught,
    ):
        pool.channel("echo", "v1").unary_unary("/test.Echo/Say")(b"")
    assert same(pickle.loads(pickle.dumps(caught.value)), caught.value)  # noqa: S301 - our own bytes


async def test_an_asyncio_call_error_keeps_code_and_details_after_pickling(identity: Any) -> None:
    async with discovery_aio.ServiceClientPool(Topology(), identity("a")) as pool:
        with pytest.raises(discovery_errors.NoProvidersError) as caught:
            await pool.channel("echo", "v1").unary_unary("/test.Echo/Say")(b"")
    arrived = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (arrived.code(), arrived.details()) == (caught.value.code(), caught.value.details())
