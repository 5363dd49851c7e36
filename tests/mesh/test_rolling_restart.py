"""All providers are restarted in turn by SIGTERM under load, and no call fails."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import aegis_discovery
import aegis_discovery.aio
import grpc
import pytest
from aegis_certs import TLSConfig

from .process import PATIENCE, NodeProcess

CALLERS = 8
"""Callers with blocking calls, and as many with asyncio calls."""

PAUSE = 0.01
"""Seconds after a call of each kind: most callers are in a call, and the nodes can still start."""


class Load:
    """Makes calls until `stop` is set; records the failures.

    Args:
        streams: Whether it makes all four kinds of calls, or those with one message each way only.
    """

    def __init__(self, *, streams: bool = True) -> None:
        self._streams = streams
        self.stop = threading.Event()
        self.done = 0
        self.failures: list[str] = []

    def attempt(self, kind: str, work: Callable[[], object]) -> None:
        try:
            work()
        except grpc.RpcError as error:
            self.failures.append(f"{kind}: {error.code()} {error.details()}")  # type: ignore[attr-defined]  # it is also a call
        else:
            self.done += 1

    def call_sync(self, channel: grpc.Channel) -> None:
        say = channel.unary_unary("/test.Echo/Say")
        count = channel.unary_stream("/test.Echo/Count")
        join = channel.stream_unary("/test.Echo/Join")
        chat = channel.stream_stream("/test.Echo/Chat")
        while not self.stop.wait(PAUSE):
            self.attempt("sync unary", lambda: say(b"x", timeout=10))
            if not self._streams:
                continue
            self.attempt("sync responses", lambda: list(count(b"3", timeout=10)))
            self.attempt("sync requests", lambda: join(iter([b"a", b"b"]), timeout=10))
            self.attempt("sync both", lambda: list(chat(iter([b"a", b"b"]), timeout=10)))

    async def call_aio(self, channel: grpc.aio.Channel) -> None:
        say = channel.unary_unary("/test.Echo/Say")
        count = channel.unary_stream("/test.Echo/Count")
        join = channel.stream_unary("/test.Echo/Join")
        chat = channel.stream_stream("/test.Echo/Chat")

        async def read(call: Any) -> None:
            async for _ in call:
                pass

        kinds = (
            ("aio unary", lambda: say(b"x", timeout=10)),
            ("aio responses", lambda: read(count(b"3", timeout=10))),
            ("aio requests", lambda: join(iter([b"a", b"b"]), timeout=10)),
            ("aio both", lambda: read(chat(iter([b"a", b"b"]), timeout=10))),
        )
        while not self.stop.is_set():
            await asyncio.sleep(PAUSE)
            for kind, begin in kinds if self._streams else kinds[:1]:
                try:
                    await begin()
                except grpc.aio.AioRpcError as error:
                    self.failures.append(f"{kind}: {error.code()} {error.details()}")
                else:
                    self.done += 1


@contextmanager
def callers(
    seeds: list[str], identity: Callable[[str], TLSConfig], *, streams: bool = True
) -> Iterator[Load]:
    load = Load(streams=streams)

    async def run_aio() -> None:
        connected = await aegis_discovery.aio.connect(*seeds, tls=identity("aio-caller"))
        async with connected as mesh:
            channel = mesh.pool.channel("echo", "v1")
            await asyncio.gather(*(load.call_aio(channel) for _ in range(CALLERS)))

    with (
        aegis_discovery.connect(*seeds, tls=identity("sync-caller")) as mesh,
        ThreadPoolExecutor(CALLERS + 1) as threads,
    ):
        channel = mesh.pool.channel("echo", "v1")
        running = [threads.submit(load.call_sync, channel) for _ in range(CALLERS)]
        running.append(threads.submit(asyncio.run, run_aio()))
        try:
            yield load
        finally:
            load.stop.set()
            for future in running:
                future.result(PATIENCE)


def wait_for_more(load: Load, calls: int) -> None:
    wanted, deadline = load.done + calls, time.monotonic() + PATIENCE
    while load.done < wanted:
        assert time.monotonic() < deadline, (load.done, load.failures[:5])
        load.stop.wait(0.02)


@pytest.mark.soak
def test_no_call_fails_during_a_rolling_restart_of_all_providers(
    trio: list[NodeProcess], spawn: Callable[..., Any], identity: Callable[[str], TLSConfig]
) -> None:
    nodes = {node.id: node for node in trio}
    with callers([node.address for node in trio], identity) as load:
        wait_for_more(load, 200)
        for node_id in list(nodes):
            nodes[node_id].signal(signal.SIGTERM)
            assert nodes[node_id].wait_exit() == 0
            wait_for_more(load, 50)
            others = [node for other, node in nodes.items() if other != node_id]
            nodes[node_id] = spawn(node_id, *others)
            new_address = nodes[node_id].address
            for other in others:
                other.wait(
                    lambda message, new=new_address: (
                        message.get("event") == f"joined {node_id}" and message["address"] == new  # noqa: B023 - evaluated in this iteration
                    )
                )
            wait_for_more(load, 200)
    assert load.failures == []
