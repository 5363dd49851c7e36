"""Callers send frames of HTTP/2 that gRPC reads and shows to nobody."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from aegis_core._server.held import frame_guard, growth
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel

from .test_one_caller import (
    WAIT,
    MakeIdentity,
    Mallory,
    StartVictim,
    Until,
    both,
    frames,
    mallory,
    start_victim,
)

__all__ = ["mallory", "start_victim"]  # fixtures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux counts bytes")

TEXT = b"x" * 1_000
FRAMES = {
    "GOAWAY": frames.frame(frames.GOAWAY, 0, bytes(8) + TEXT),
    "unknown": frames.frame(0xBE, 0, TEXT),
}
BATCH = 1_000
ENDLESS = 5_000
"""Batches that take longer than a node needs, 5 GB."""

MESSAGE_EVERY = 2
"""Batches between two small messages: one of 4 MB would explain what arrives in between."""

CANCEL = (8).to_bytes(4)

CROWD = 100

SILENT = 5
"""Connections of a caller on which nothing arrives that shows a flood."""

MIB = 1 << 20


def count(requests: Iterator[bytes], context: Any) -> bytes:
    return b"%d" % sum(map(len, requests))


def echo(request: bytes, context: Any) -> bytes:
    return b"%d" % len(request)


def register(server: Any) -> None:
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.stream_unary_rpc_method_handler(count),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets nodes look all the time, as if their process grew without a pause."""
    monkeypatch.setattr(growth, "GROWN", -(1 << 40))
    monkeypatch.setattr(frame_guard, "SHARE", 1.0)


def flood(connection: Any, one: bytes, among: str) -> None:
    """Sends frames, among calls or the messages of one call if told, until it is closed."""
    with suppress(OSError):
        if among:
            connection.await_settings()
        stream = start_call(connection, "/t/Count") if among == "messages" else 0
        for number in range(ENDLESS):
            connection.send(one * BATCH)
            if number % MESSAGE_EVERY or not among:
                continue
            stream = stream if among == "messages" else start_call(connection, "/t/Echo")
            flags = frames.END_STREAM if among == "calls" else 0
            if among == "cancelled calls":
                connection.send(frames.frame(frames.RST_STREAM, stream, CANCEL))
            else:
                connection.send(frames.frame(frames.DATA, stream, frames.message(b"x"), flags))
        pytest.fail("the node takes frames for ever")


def start_call(connection: Any, method: str) -> int:
    stream: int = connection.next_stream()
    block = frames.request_headers(method, "a")
    connection.send(frames.frame(frames.HEADERS, stream, block, frames.END_HEADERS))
    return stream


@both
@pytest.mark.usefixtures("looks_always")
async def test_all_connections_of_who_floods_with_frames_are_closed(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    until: Until,
) -> None:
    node = await start_victim(registrars=[register])
    async with open_channel(identity("honest"), "a", node.address) as channel:
        echo = channel.unary_unary("/t/Echo")
        assert await echo(b"x", timeout=WAIT) == b"1"
        attacker = mallory(node)

        def attack() -> None:
            silent = [attacker.connect() for _ in range(SILENT)]
            for connection in silent:
                connection.await_settings()
            flood(attacker.connect(), FRAMES["unknown"], "")

        await asyncio.to_thread(attack)
        await until(lambda: node.stats().calls.closed_connections >= SILENT + 1)
        assert await echo(b"x", timeout=WAIT) == b"1", "the connection is as it was"


@both
@pytest.mark.parametrize(
    ("kind", "among"),
    [
        ("GOAWAY", ""),
        ("unknown", ""),
        ("unknown", "messages"),
        ("unknown", "calls"),
        ("unknown", "cancelled calls"),
    ],
)
@pytest.mark.usefixtures("looks_always")
async def test_who_floods_with_frames_of_no_message_is_named_and_disconnected(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    logged: Callable[..., list[str]],
    until: Until,
    kind: str,
    among: str,
) -> None:
    node = await start_victim(registrars=[register])
    async with open_channel(identity("honest"), "a", node.address) as channel:
        echo = channel.unary_unary("/t/Echo")
        assert await echo(b"x", timeout=WAIT) == b"1"
        connection = mallory(node).connect()
        over = threading.Event()

        def attack() -> None:
            try:
                flood(connection, FRAMES[kind], among)
            finally:
                over.set()

        attacking = asyncio.create_task(asyncio.to_thread(attack))
        while not over.is_set():
            assert await echo(b"x", timeout=WAIT) == b"1"
        await attacking
        assert await echo(b"x", timeout=WAIT) == b"1"
    # What is in no message may be counted as parts of one that is not complete.
    lines = ("mallory sends frames", "mallory sends parts", "mallory cancels calls, and sends")
    await until(lambda: any(map(logged, lines)))
    assert len(logged("mallory")) <= 2
    assert node.stats().calls.closed_connections == 1
    if logged("mallory sends frames"):  # honest callers might do the others as well
        assert node.server._checks.callers.is_blocked("mallory")
    assert logged("Traceback") == []


@both
async def test_a_flood_is_found_while_the_node_does_not_grow(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    logged: Callable[..., list[str]],
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(growth, "GROWN", 1 << 40)
    node = await start_victim(registrars=[register])
    await asyncio.to_thread(flood, mallory(node).connect(), FRAMES["GOAWAY"], "")
    await until(lambda: logged("mallory sends frames"))


@both
@pytest.mark.usefixtures("looks_always")
async def test_a_flood_behind_a_hundred_idle_connections_is_found(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    logged: Callable[..., list[str]],
    until: Until,
) -> None:
    node = await start_victim(registrars=[register])
    attacker = mallory(node)
    crowd = [await asyncio.to_thread(attacker.connect) for _ in range(CROWD)]
    await asyncio.to_thread(flood, attacker.connect(), FRAMES["unknown"], "calls")
    await until(lambda: logged("mallory sends frames") or logged("mallory sends parts"))
    for connection in crowd:
        connection.close()
    assert logged("a look at the memory failed") == []


@both
@pytest.mark.usefixtures("looks_always")
async def test_honest_callers_send_as_fast_as_they_can(
    start_victim: StartVictim, identity: MakeIdentity, logged: Callable[..., list[str]]
) -> None:
    node = await start_victim(registrars=[register])
    async with open_channel(identity("honest"), "a", node.address) as channel:
        upload = channel.stream_unary("/t/Count", request_serializer=bytes)
        for size, messages in ((4 * MIB - 1_000, 15), (64 * 1024, 400), (1_000, 2_000)):
            sent = await upload(iter([bytes(size)] * messages), timeout=WAIT)
            assert int(sent) == size * messages
        echo = channel.unary_unary("/t/Echo")
        size = 3_900_000
        answers = [echo(bytes(size), timeout=WAIT) for _ in range(16)]
        assert await asyncio.gather(*answers) == [b"%d" % size] * 16
        answers = [echo(bytes(300_000), timeout=WAIT) for _ in range(200)]
        assert await asyncio.gather(*answers) == [b"300000"] * 200
        for _ in range(4):  # 31 MB: more in one look would show who cancels
            given_up = [echo(bytes(size), timeout=0.01), upload(iter([bytes(size)]), timeout=0.01)]
            await asyncio.gather(*given_up, return_exceptions=True)
        assert await echo(b"x", timeout=WAIT) == b"1"
    assert node.stats().calls.closed_connections == 0
    assert logged("honest") == []
