"""One caller sends whole large requests to handlers that take long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from aegis_core._server.held.running_requests import COPIES, MOST, USUAL_MESSAGE
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel

from .test_one_caller import (
    UNJUDGED,
    WAIT,
    MakeIdentity,
    StartVictim,
    Until,
    all_three,
    both,
    call_honestly,
    echo,
    start_victim,
)

__all__ = ["start_victim"]  # a fixture

ManyWaiting = Callable[..., AbstractAsyncContextManager[tuple[Node, Any, list[Any]]]]

LARGE = bytes(3_900_000)
MANY = 12
METHODS = 9
AT_ONCE = 2
"""Requests of this size that the handlers of one method have at once."""

BEFORE_TURNS = UNJUDGED + 2
"""Those that are read when a node does not know yet how large they are."""


class Slow:
    """Handlers that end when they are told to."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.running = 0
        self._lock = threading.Lock()

    def wait(self, request: bytes, context: Any) -> bytes:
        with self._lock:
            self.running += 1
        assert self.may_end.wait(WAIT)
        with self._lock:
            self.running -= 1
        return b"%d" % len(request)

    async def wait_async(self, request: bytes, context: Any) -> bytes:
        self.running += 1
        assert await asyncio.to_thread(self.may_end.wait, WAIT)
        self.running -= 1
        return b"%d" % len(request)

    def register(self, server: Any) -> None:
        waits = {f"Wait{number}": self.wait for number in range(METHODS)}
        made = {"Echo": echo, "Async": self.wait_async, **waits}
        methods: Any = {name: grpc.unary_unary_rpc_method_handler(f) for name, f in made.items()}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", methods)])


@pytest.fixture
async def slow() -> AsyncIterator[Slow]:
    slow = Slow()
    yield slow
    slow.may_end.set()


def call_many(channel: Any, *methods: str) -> list[Any]:
    return [channel.unary_unary(f"/t/{name}")(LARGE, timeout=WAIT) for name in methods]


async def all_wait(node: Node, slow: Slow, until: Until, calls: int = MANY) -> None:
    """Waits until some of the calls run, and the others wait for these."""
    reads = node.server._checks.reads
    await until(lambda: len(reads) + slow.running == calls and not reads.started("caller"))


@pytest.fixture
def many_waiting(
    start_victim: StartVictim, slow: Slow, identity: MakeIdentity, until: Until
) -> ManyWaiting:
    """Starts a node, and a caller of which some calls run and the others wait for these."""

    @asynccontextmanager
    async def start(method: str = "Wait0") -> AsyncIterator[tuple[Node, Any, list[Any]]]:
        node = await start_victim(registrars=[slow.register])
        async with open_channel(identity("caller"), "a", node.address) as channel:
            calls = call_many(channel, *[method] * MANY)
            await all_wait(node, slow, until)
            yield node, channel, calls

    return start


@both
@pytest.mark.parametrize("method", ["Wait0", "Async"])
async def test_handlers_have_few_large_requests_of_one_caller_at_once(
    many_waiting: ManyWaiting, slow: Slow, identity: MakeIdentity, until: Until, method: str
) -> None:
    async with many_waiting(method) as (node, channel, calls):
        assert AT_ONCE <= slow.running <= AT_ONCE + BEFORE_TURNS
        await call_honestly(node, identity("other"))
        assert await channel.unary_unary("/t/Echo")(b"small", timeout=WAIT) == b"small"
        slow.may_end.set()
        assert await asyncio.gather(*calls) == [b"%d" % len(LARGE)] * MANY
    await until(lambda: not len(node.server._checks.reads.running))


@both
async def test_the_request_of_a_call_that_was_given_up_counts_until_its_handler_ends(
    many_waiting: ManyWaiting, slow: Slow, until: Until
) -> None:
    async with many_waiting() as (node, channel, calls):
        running = slow.running
        for call in calls:
            call.cancel()
        await until(lambda: not len(node.server._checks.reads))
        assert len(node.server._checks.reads.running) == running == slow.running
        calls = call_many(channel, *["Wait0"] * MANY)
        await all_wait(node, slow, until, MANY + running)
        assert slow.running == running, "nothing of the new calls is read"
        slow.may_end.set()
        assert len(await asyncio.gather(*calls)) == MANY
    await until(lambda: not len(node.server._checks.reads.running))


@both
async def test_a_node_stops_while_large_requests_wait(
    many_waiting: ManyWaiting, slow: Slow
) -> None:
    async with many_waiting() as (node, _, calls):
        stopped = asyncio.create_task(node.stop())
        ended = await asyncio.gather(*calls, return_exceptions=True)
        slow.may_end.set()
        await stopped
    assert all(isinstance(error, grpc.aio.AioRpcError) for error in ended)


@all_three
async def test_large_requests_of_many_methods_are_refused_at_last(
    start_victim: StartVictim, slow: Slow, identity: MakeIdentity, until: Until
) -> None:
    node = await start_victim(registrars=[slow.register])
    ended: list[Any] = []

    async def call(channel: Any, number: int) -> None:
        waits = channel.unary_unary(f"/t/Wait{number}")(LARGE, timeout=WAIT)
        with suppress(grpc.aio.AioRpcError):
            await waits
        ended.append(await waits.code())

    async with open_channel(identity("caller"), "a", node.address) as channel:
        calls = []
        for number in range(METHODS):
            calls.append(asyncio.create_task(call(channel, number)))
            await until(lambda: len(ended) + slow.running == len(calls))
        assert ended[0] == ended[-1] == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert COPIES * (slow.running - 1) * len(LARGE) < MOST * 4 * USUAL_MESSAGE
        assert await channel.unary_unary("/t/Echo")(b"small", timeout=WAIT) == b"small"
        slow.may_end.set()
        await asyncio.gather(*calls)
    assert set(ended) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    await until(lambda: not len(node.server._checks.reads.running))
