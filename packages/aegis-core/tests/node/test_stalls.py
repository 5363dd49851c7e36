"""A handler that blocks the event loop is named in the log of its own node."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core._node.stalls import MIN_STALL
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]

STALL = re.compile(r"the event loop of a stood still for at least ([0-9.]+) s")


async def test_a_stall_of_the_event_loop_is_one_warning_with_its_length(
    identity: MakeIdentity, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    async def block(request: bytes, context: Any) -> bytes:
        time.sleep(2 * MIN_STALL)  # noqa: ASYNC251 - this mistake is what the test is about
        return b""

    def register(server: Any) -> None:
        handlers = {"Block": grpc.unary_unary_rpc_method_handler(block)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])

    def stalls() -> list[float]:
        found = [STALL.search(r.getMessage()) for r in caplog.records if r.levelname == "WARNING"]
        return [float(line[1]) for line in found if line]

    tls = identity("a")
    async with (
        Node("a", address="127.0.0.1:0", tls=tls, registrars=[register], grace=0) as node,
        open_channel(identity("client"), "a", node.address) as channel,
    ):
        for _ in range(2):
            await channel.unary_unary("/t/Block")(b"", timeout=15)
        await until(stalls)
    assert len(stalls()) == 1
    assert stalls()[0] >= MIN_STALL
