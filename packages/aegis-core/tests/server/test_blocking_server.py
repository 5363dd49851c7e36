"""What a blocking node holds against callers that would occupy its threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import CallRule, Node, Policy, caller_from_context
from aegis_core._server.sync import grpc_internals, mesh_services, streams
from aegis_core._server.sync.calls import current_call
from aegis_discovery import DEFAULT_MESH
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import mesh_pb2

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]
WAIT = 15.0
THREADS = 2
WATCH = "/aegis.mesh.v1.Mesh/Watch"


class Handlers:
    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.running = 0
        self.parsed = 0
        self.complete: list[int] = []
        self.given_up = 0

    def echo(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return request

    def parse(self, request: bytes) -> bytes:
        self.parsed += 1
        if request == b"bad":
            raise ValueError(request)
        return request

    def wait(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.running += 1
        assert self.go_on.wait(WAIT)
        return b"waited"

    def count(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        try:
            number = len(list(requests))
        except grpc.RpcError:
            self.given_up += 1
            raise
        self.complete.append(number)
        return str(number).encode()

    def flood(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        while True:
            yield b"x" * 100_000

    def leave(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        raise SystemExit(3)

    async def chat(self, requests: Any, context: grpc.aio.ServicerContext) -> None:
        """Reads and writes at the same time: its answers do not depend on requests."""
        await context.send_initial_metadata((("caller", caller_from_context(context).node_id),))

        async def tick() -> None:
            while True:
                await context.write(b"tick")
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        async for request in requests:
            if request == b"abort":
                ticking.cancel()
                await context.abort(grpc.StatusCode.ABORTED, "as you wish", (("why", "asked"),))

    def register(self, server: Any) -> None:
        handlers = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo, self.parse),
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "Count": grpc.stream_unary_rpc_method_handler(self.count),
            "Flood": grpc.unary_stream_rpc_method_handler(self.flood),
            "Leave": grpc.unary_unary_rpc_method_handler(self.leave),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])


@pytest.fixture
def handlers() -> Iterator[Handlers]:
    handlers = Handlers()
    yield handlers
    handlers.go_on.set()


@pytest.fixture
async def node(handlers: Handlers, identity: MakeIdentity, server: str) -> AsyncIterator[Node]:
    options: dict[str, Any] = {"tls": identity("node"), "registrars": [handlers.register]}
    options["policy"] = Policy(call=[CallRule(ids=["caller", "another"], services=["t"])])
    node = Node("node", address="127.0.0.1:0", max_workers=THREADS, grace=0, **options)
    await asyncio.to_thread(node.start)
    yield node
    await asyncio.to_thread(node.stop)


@pytest.fixture
async def channel(node: Node, identity: MakeIdentity) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(identity("caller"), "node", node.address) as opened:
        yield opened


@pytest.fixture
async def another(node: Node, identity: MakeIdentity) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(identity("another"), "node", node.address) as opened:
        yield opened


both = pytest.mark.parametrize("server", ["blocking", "public"], indirect=True)
direct = pytest.mark.parametrize("server", ["blocking"], indirect=True)


def begin_without_request(channel: grpc.aio.Channel, method: str, count: int) -> list[Any]:
    """Begins calls of a unary method that send headers, and nothing else."""
    return [channel.stream_stream(f"/t/{method}")() for _ in range(count)]


def watch(channel: grpc.aio.Channel) -> Any:
    method = channel.unary_stream(
        WATCH,
        request_serializer=mesh_pb2.WatchRequest.SerializeToString,
        response_deserializer=mesh_pb2.WatchResponse.FromString,
    )
    return method(mesh_pb2.WatchRequest(mesh=DEFAULT_MESH), timeout=4 * WAIT)


def test_gRPC_is_as_the_server_expects_it(  # noqa: N802 - that is its name
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert grpc_internals.is_usable()
    monkeypatch.setattr(grpc_internals._server, "_abort", lambda state, call, status: None)
    grpc_internals.is_usable.cache_clear()
    assert not grpc_internals.is_usable()
    monkeypatch.undo()
    grpc_internals.is_usable.cache_clear()


@both
async def test_calls_without_a_request_and_handlers_that_block_hold_up_no_one_else(
    node: Node,
    channel: grpc.aio.Channel,
    another: grpc.aio.Channel,
    handlers: Handlers,
    until: Until,
) -> None:
    held = begin_without_request(another, "Echo", 40)
    for path in ("/grpc.health.v1.Health/Check", "/aegis.MeshService/Ping"):
        held += [another.stream_stream(path)() for _ in range(10)]
    echo = channel.unary_unary("/t/Echo")
    assert await asyncio.gather(*(echo(b"x", timeout=WAIT) for _ in range(50))) == [b"x"] * 50
    blocked = [channel.unary_unary("/t/Wait")(b"", timeout=4 * WAIT) for _ in range(THREADS)]
    await until(lambda: handlers.running == THREADS)
    later = echo(b"later", timeout=4 * WAIT)
    for path in ("/grpc.health.v1.Health/Check", "/aegis.MeshService/Ping"):
        assert isinstance(await channel.unary_unary(path)(b"", timeout=WAIT), bytes)
    feed = watch(channel)
    assert (await feed.read()).complete
    assert (await feed.read()).digest == node.topology.digest, "a heartbeat"
    assert not later.done(), "all threads are blocked"
    handlers.go_on.set()
    assert await asyncio.gather(*blocked, later) == [b"waited"] * THREADS + [b"later"]
    for call in [*held, feed]:
        call.cancel()
    await until(lambda: node.stats().calls.running == 0)


@both
async def test_the_requests_of_a_caller_that_may_not_call_are_not_parsed(
    node: Node, channel: grpc.aio.Channel, handlers: Handlers, identity: MakeIdentity
) -> None:
    async with open_channel(identity("mallory"), "node", node.address) as other:
        code = await other.unary_unary("/t/Echo")(b"x", timeout=WAIT).code()
    assert (code, handlers.parsed) == (grpc.StatusCode.PERMISSION_DENIED, 0)
    bad = channel.unary_unary("/t/Echo")(b"bad", timeout=WAIT)
    assert (await bad.code(), handlers.parsed) == (grpc.StatusCode.INTERNAL, 1)


@both
async def test_a_unary_call_that_ends_without_a_request_is_an_error_of_the_caller(
    node: Node, channel: grpc.aio.Channel
) -> None:
    call = channel.stream_stream("/t/Echo")(timeout=WAIT)
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "requires exactly one request message" in str(await call.details())


@both
async def test_no_cancelled_upload_looks_complete(
    node: Node, channel: grpc.aio.Channel, handlers: Handlers, until: Until
) -> None:
    calls = 200
    for _ in range(calls):
        call: Any = channel.stream_unary("/t/Count")(timeout=WAIT)
        await call.write(b"x")
        call.cancel()
    assert await channel.stream_unary("/t/Count")(iter([b"x"] * 3), timeout=WAIT) == b"3"
    await until(lambda: node.stats().calls.running == 0)
    assert handlers.complete == [3]
    assert handlers.given_up > 0


@both
async def test_a_handler_that_ends_its_thread_answers_and_loses_no_thread(
    node: Node, channel: grpc.aio.Channel
) -> None:
    for _ in range(2 * THREADS):
        call = channel.unary_unary("/t/Leave")(b"", timeout=WAIT)
        assert await call.code() is grpc.StatusCode.UNKNOWN
        assert await call.details() == "the handler raised SystemExit"
    assert await channel.unary_unary("/t/Echo")(b"x", timeout=WAIT) == b"x"


@both
async def test_a_coroutine_reads_and_writes_at_the_same_time_and_aborts(
    node: Node, channel: grpc.aio.Channel
) -> None:
    call: Any = channel.stream_stream("/t/Chat")(timeout=WAIT)
    assert dict(tuple(await call.initial_metadata())) == {"caller": "caller"}
    for _ in range(3):
        assert await call.read() == b"tick"
    await call.write(b"go on")
    assert await call.read() == b"tick"
    await call.write(b"abort")
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    assert (await call.code(), await call.details()) == (grpc.StatusCode.ABORTED, "as you wish")
    assert dict(tuple(await call.trailing_metadata())) == {"why": "asked"}


@both
async def test_calls_without_a_request_end_as_unavailable_when_the_node_stops(
    node: Node, channel: grpc.aio.Channel, until: Until
) -> None:
    held = begin_without_request(channel, "Echo", 3)
    # A later call on the connection is answered after these have arrived.
    assert await channel.unary_unary("/t/Echo")(b"x", timeout=WAIT) == b"x"
    await asyncio.to_thread(node.stop)
    assert {await call.code() for call in held} == {grpc.StatusCode.UNAVAILABLE}


@direct
async def test_a_hundred_feeds_hold_few_threads(
    node: Node, channel: grpc.aio.Channel, identity: MakeIdentity
) -> None:
    before = threading.active_count()
    async with open_channel(identity("watcher"), "node", node.address) as other:
        feeds = [watch(one) for one in (channel, other) for _ in range(50)]
        for feed in feeds:
            assert (await feed.read()).complete
        assert len(node._parts.server.watchers) == 2
        assert node.stats().feeds.served == 2
        for feed in feeds:
            assert (await feed.read()).digest == node.topology.digest, "a heartbeat"
        assert threading.active_count() < before + 30


class _Endless:
    """A stream that always has something to send."""

    is_finished = False

    def __init__(self) -> None:
        self.closed = threading.Event()

    def take(self) -> Iterator[bytes]:
        while True:
            yield b"x" * 100_000

    def delay(self, *, has_changed: bool) -> float:
        return 0.0

    def close(self) -> None:
        self.closed.set()


@direct
async def test_a_stream_that_nobody_reads_does_not_hold_its_sender_for_ever(
    identity: MakeIdentity, until: Until, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    monkeypatch.setattr(streams, "STUCK_AFTER", 0.2)
    monkeypatch.setattr(streams, "CHECK_STUCK_EVERY", 0.1)
    source = _Endless()
    senders = streams.StreamSenders("test")

    def flood(request: bytes, context: Any, send: Any = None) -> None:
        senders.open(current_call(), source)

    flood.experimental_non_blocking = True  # type: ignore[attr-defined]  # gRPC's name
    handler = grpc.unary_stream_rpc_method_handler(flood)

    def register(server: Any) -> None:
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("t", {"Flood": handler})]
        )

    node = Node("node", address="127.0.0.1:0", tls=identity("node"), registrars=[register], grace=0)
    with node:
        async with open_channel(identity("caller"), "node", node.address) as channel:
            call = channel.unary_stream("/t/Flood")(b"")
            await until(source.closed.is_set)
            call.cancel()
    senders.close()


@both
async def test_a_feed_that_was_given_up_while_the_loop_stood_still_holds_nothing_later(
    node: Node, channel: grpc.aio.Channel, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_services, "LOOP_TIMEOUT", 0.1)
    stands_still, may_go_on, went_on = (threading.Event() for _ in range(3))

    def stand_still() -> None:
        stands_still.set()
        assert may_go_on.wait(WAIT)

    background = node._loop
    background.call_soon(stand_still)
    assert await asyncio.to_thread(stands_still.wait, WAIT)
    assert await watch(channel).code() is grpc.StatusCode.UNAVAILABLE
    background.call_soon(lambda: background.call_soon(lambda: background.call_soon(went_on.set)))
    may_go_on.set()
    assert await asyncio.to_thread(went_on.wait, WAIT)
    feeds: Any = node._parts.server
    account = feeds._feeds._admission._rate_limiter._accounts["caller"]
    await until(lambda: (account.open, feeds.watchers) == (0, frozenset()))
