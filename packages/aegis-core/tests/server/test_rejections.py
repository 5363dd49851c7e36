"""How a call ends that is rejected twice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import ServiceInfo
from aegis_core._server.aio.handlers import reject
from aegis_core._server.rejections import NO_REQUEST
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel

WAIT = 15.0


async def test_a_call_that_is_being_ended_is_not_ended_again_with_a_traceback(
    identity: Callable[[str], TLSConfig], caplog: pytest.LogCaptureFixture
) -> None:
    """As when a node ends a call whose connection it closed, while it rejects it as incomplete."""

    async def end_twice(_: bytes, context: Any) -> bytes:
        with contextlib.suppress(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.ABORTED, "first")
        await reject(context, NO_REQUEST)
        return b""

    def register(server: Any) -> None:
        handlers = {"End": grpc.unary_unary_rpc_method_handler(end_twice)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])

    options: dict[str, Any] = {"services": [ServiceInfo("t", "v1")], "registrars": [register]}
    async with (
        Node("a", address="127.0.0.1:0", tls=identity("a"), grace=0, **options) as node,
        open_channel(identity("caller"), "a", node.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await channel.unary_unary("/t/End")(b"", timeout=WAIT)
    assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.ABORTED, "first")
    assert [record.message for record in caplog.records if record.exc_info] == []
