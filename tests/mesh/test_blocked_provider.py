"""A provider whose event loop stands still cannot say so: its callers eject it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from aegis_certs import TLSConfig
from aegis_core.aio import Node
from aegis_discovery import EndpointState, connect

from ..conftest import StartNode

TIMEOUT = 0.3
"""Seconds of a call."""

WAIT = 20.0


class Blocked:
    """An asyncio node with an event loop of its own, which can be blocked."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._ready, self._over, self._go_on = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with Node(**self._options):
            self._ready.set()
            await asyncio.to_thread(self._over.wait)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            assert self._ready.wait(WAIT)
            yield
        finally:
            self._go_on.set()
            self._over.set()
            self._thread.join()

    def block(self) -> None:
        self._loop.call_soon_threadsafe(self._go_on.wait)

    def go_on(self) -> None:
        self._go_on.set()


async def test_callers_eject_a_provider_whose_event_loop_stands_still_until_it_goes_on(
    start: StartNode,
    identity: Callable[[str], TLSConfig],
    provider: Callable[..., dict[str, Any]],
) -> None:
    good = await start("good", **provider("good"))
    blocked = Blocked(
        {
            "id": "blocked",
            "address": "127.0.0.1:0",
            "tls": identity("blocked"),
            "seed_peers": [good.address],
            "grace": 0,
            **provider("blocked"),
        }
    )

    def call_all_along() -> None:
        with blocked.running(), connect(good.address, tls=identity("caller")) as mesh:
            channel: Any = mesh.pool.channel("echo", "v1")
            say = channel.unary_unary("/test.Echo/Say")
            answered = _callers_until(say, {"good", "blocked"})
            assert answered == {"good", "blocked"}

            blocked.block()
            began, failed = time.monotonic(), 0
            while EndpointState.EJECTED not in _states(mesh.pool):
                assert time.monotonic() - began < WAIT
                try:
                    say(b"", timeout=TIMEOUT)
                except grpc.RpcError:
                    failed += 1
            assert failed <= 10
            for _ in range(100):
                assert say(b"", timeout=TIMEOUT).startswith(b"good ")
            assert "blocked" in mesh.topology.nodes

            blocked.go_on()
            assert _callers_until(say, {"blocked"}) >= {"blocked"}

    await asyncio.to_thread(call_all_along)


def _callers_until(say: Any, wanted: set[str]) -> set[str]:
    """Calls until all of these providers have answered; returns which did."""
    answered: set[str] = set()
    deadline = time.monotonic() + WAIT
    while not answered >= wanted and time.monotonic() < deadline:
        answered.add(say(b"", timeout=WAIT).split(b" ")[0].decode())
    return answered


def _states(pool: Any) -> set[EndpointState]:
    (service,) = pool.stats().services
    return {endpoint.state for endpoint in service.endpoints}
