"""A blocked event loop is named in the log of its own node, which says that it does not serve."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import HealthStatus
from aegis_core._node.stalls import (
    LATE_CHECKS,
    MIN_STALL,
    STARVED,
    TIMELY_CHECKS,
    Starvation,
)
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel
from grpc_health.v1 import health_pb2, health_pb2_grpc

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


def test_a_loop_is_starved_after_late_checks_in_a_row_and_recovers_after_timely_ones() -> None:
    starvation = Starvation()
    for _ in range(3):
        assert not any(starvation.note_check(STARVED) for _ in range(LATE_CHECKS - 1))
        assert not starvation.note_check(0.0), "one stall is not enough"
    changes = [starvation.note_check(STARVED) for _ in range(LATE_CHECKS + 2)]
    assert changes.index(True) == LATE_CHECKS - 1
    assert sum(changes) == 1
    assert starvation.is_starved
    assert not any(starvation.note_check(0.0) for _ in range(TIMELY_CHECKS - 1))
    assert not starvation.note_check(STARVED)
    assert [starvation.note_check(0.0) for _ in range(TIMELY_CHECKS)].index(True)
    assert not starvation.is_starved


@contextmanager
def watched_health(tls: TLSConfig, address: str) -> Iterator[list[str]]:
    """Watches the standard health service on a thread; yields what it said so far."""
    said: list[str] = []
    credentials = grpc.ssl_channel_credentials(
        tls.trust_bundle, tls.private_key, tls.certificate_chain
    )
    options = [("grpc.ssl_target_name_override", "a")]
    with grpc.secure_channel(address, credentials, options=options) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        call = watch(health_pb2.HealthCheckRequest(), timeout=60)

        def read() -> None:
            with suppress(grpc.RpcError):
                said.extend(one.ServingStatus.Name(one.status) for one in call)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield said
        finally:
            call.cancel()
            thread.join()


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_a_node_whose_event_loop_is_starved_says_so_until_it_is_not(
    server: str,
    identity: MakeIdentity,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("aegis_core._node.stalls.CHECK_EVERY", 0.05)
    monkeypatch.setattr("aegis_core._node.stalls.STARVED", 0.1)
    async with Node("a", address="127.0.0.1:0", tls=identity("a"), grace=0) as node:

        async def starve() -> None:
            while node.topology.nodes["a"].health is not HealthStatus.UNHEALTHY:
                time.sleep(0.2)  # noqa: ASYNC251 - this mistake is what the test is about
                await asyncio.sleep(0)

        with watched_health(identity("client"), node.address) as said:
            await until(lambda: said[-1:] == ["SERVING"])
            async with asyncio.timeout(15):
                await starve()
            await until(lambda: said[-2:] == ["NOT_SERVING", "SERVING"])
            await until(lambda: node.topology.nodes["a"].health is HealthStatus.HEALTHY)
    assert "event loop: it is behind" in caplog.text


@pytest.mark.parametrize("server", ["blocking"], indirect=True)
async def test_a_blocking_node_says_that_it_does_not_serve_while_its_event_loop_stands_still(
    server: str, identity: MakeIdentity, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core._node.stalls.CHECK_EVERY", 0.05)
    monkeypatch.setattr("aegis_core._server.sync.mesh_services.STANDS_STILL", 0.5)
    monkeypatch.setattr("aegis_core._server.sync.mesh_services.HEALTH_CHECK_EVERY", 0.05)
    async with Node("a", address="127.0.0.1:0", tls=identity("a"), grace=0) as node:
        with watched_health(identity("client"), node.address) as said:
            await until(lambda: said[-1:] == ["SERVING"])
            deadline = time.monotonic() + 15
            while said[-1] != "NOT_SERVING" and time.monotonic() < deadline:
                time.sleep(0.01)  # noqa: ASYNC251 - the event loop of the node has no turn
            assert said[-1] == "NOT_SERVING"
            await until(lambda: said[-1] == "SERVING")
