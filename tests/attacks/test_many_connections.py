"""Callers make more calls at once than a node can see, over several connections."""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from aegis_certs import CertificateAuthority
from aegis_core._node.options import MAX_STREAMS
from aegis_core._server.held.unseen_calls import MAX_UNDER_WAY
from aegis_discovery.aio.transport import open_channel

from .test_one_caller import (
    WAIT,
    MakeIdentity,
    Mallory,
    StartVictim,
    both,
    frames,
    start_victim,
)

__all__ = ["start_victim"]  # a fixture

CONNECTIONS = 8
BEGIN = 50
HONEST_CALLS = 20


def flood(attacker: Mallory, path: str) -> int:
    """Makes two calls for each one that ends, until connections have as many open as they may.

    It goes on until the node has closed all of these, and returns how many calls it has made.
    """
    block, data = frames.request_headers(path, "a"), frames.message(b"x")
    open_calls: dict[Any, int] = {}

    def call(connection: Any, count: int) -> int:
        out = b""
        for _ in range(count):
            stream = connection.next_stream()
            out += frames.frame(frames.HEADERS, stream, block, frames.END_HEADERS)
            out += frames.frame(frames.DATA, stream, data, frames.END_STREAM)
        connection.send(out)
        open_calls[connection] = open_calls.get(connection, 0) + count
        return count

    connections = [attacker.connect() for _ in range(CONNECTIONS)]
    made = sum(call(connection, BEGIN) for connection in connections)
    left = {connection.socket: connection for connection in connections}
    while left:
        readable, _, _ = select.select([*left], [], [], WAIT)
        assert readable, "the node neither answers nor closes the connections"
        for socket in readable:
            one = left[socket]
            try:
                ended = sum(got.ends_stream for got in one.receive())
                open_calls[one] -= ended
                made += call(one, min(2 * ended, MAX_STREAMS - open_calls[one]))
            except OSError:
                del left[socket]
    return made


@both
@pytest.mark.parametrize("has_token", [False, True])
async def test_a_flood_over_many_connections_displaces_no_call_of_others(
    start_victim: StartVictim,
    ca: CertificateAuthority,
    identity: MakeIdentity,
    logged: Callable[..., list[str]],
    has_token: bool,
) -> None:
    node = await start_victim()
    token = ca.create_token("fresh", ttl=timedelta(minutes=5)) if has_token else None
    name = "enroll/fresh" if token else "mallory"
    with ExitStack() as stack:
        attacker = Mallory(token.tls() if token else identity(name), node.address)
        stack.callback(attacker.close)
        async with open_channel(identity("honest"), "a", node.address) as channel:
            echo = channel.unary_unary("/t/Echo")
            assert await echo(b"x", timeout=WAIT) == b"x"
            over = threading.Event()

            def attack() -> int:
                try:
                    return flood(attacker, "/t/Echo")
                finally:
                    over.set()

            attacking = asyncio.create_task(asyncio.to_thread(attack))
            count = 0
            while not over.is_set() or count < HONEST_CALLS:
                assert await echo(b"x", timeout=WAIT) == b"x"
                count += 1
            assert await attacking > MAX_UNDER_WAY
    assert node.stats().calls.closed_connections >= CONNECTIONS
    assert len(logged(f"{name} has", "calls under way to this node")) == 1
    assert logged("Traceback") == []
