"""A member sends floods of SETTINGS and PING, which every end of HTTP/2 has to answer."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aegis_core.aio import Node

from .test_one_caller import (
    MakeIdentity,
    Mallory,
    StartVictim,
    both,
    call_honestly,
    frames,
    mallory,
    start_victim,
)

__all__ = ["mallory", "start_victim"]  # fixtures

MIB = 1 << 20
BATCH = 500
BATCHES = 20
ENDLESS = 6_000
"""Batches that no buffer of the system holds, 45 MB and more."""

FLOODS = {
    "SETTINGS": frames.frame(frames.SETTINGS, 0, struct.pack(">HI", 4, 65_535)),
    "PING": frames.frame(frames.PING, 0, b"12345678"),
}


def resident() -> int:
    """Returns the memory of this process, which is that of the node, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line)


def flood_and_read(connection: Any, one: bytes) -> None:
    """Sends frames and reads the answers, unless gRPC closes the connection of who pings often."""
    answers = 0
    with suppress(OSError):
        for _ in range(BATCHES):
            connection.send(one * BATCH)
            while select.select([connection.socket], [], [], 0)[0] or connection.socket.pending():
                answers += sum(got.flags & frames.ACK for got in connection.receive())
        while answers < BATCH * BATCHES:
            answers += sum(got.flags & frames.ACK for got in connection.receive())


def flood_until_it_blocks(connection: Any, one: bytes) -> None:
    """Sends frames, and reads no answer, until the node takes no more or closes the connection."""
    for name in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.socket.setsockopt(socket.SOL_SOCKET, name, 64 * 1024)
    connection.socket.settimeout(0.3)
    with suppress(OSError):  # TimeoutError is one
        for _ in range(ENDLESS):
            connection.send(one * BATCH)
        pytest.fail("the node takes frames for ever, and so keeps answers for ever")


@both
@pytest.mark.parametrize("flood", [flood_and_read, flood_until_it_blocks])
@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_frames_that_want_answers_takes_little_and_keeps_nobody_out(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    identity: MakeIdentity,
    logged: Callable[..., list[str]],
    kind: str,
    flood: Callable[[Any, bytes], object],
) -> None:
    node = await start_victim()
    honest = identity("honest")
    await call_honestly(node, honest)
    before = resident()
    connection = mallory(node).connect()
    over = threading.Event()

    def attack() -> None:
        try:
            flood(connection, FLOODS[kind])
        finally:
            over.set()

    attacking = asyncio.create_task(asyncio.to_thread(attack))
    answered, peak = 0, before
    while not over.is_set():
        await call_honestly(node, honest)
        answered, peak = answered + 1, max(peak, resident())
    await attacking
    assert answered
    assert peak < before + 50 * MIB
    await call_honestly(node, honest)
    connection.close()
    if logged("its connections are closed"):
        assert node.server._checks.callers.is_blocked("mallory"), "for a while"
    else:
        await call_honestly(node, identity("mallory"))
    assert len(logged("mallory")) <= 1
    assert logged("Traceback") == []
