"""Handlers that are not coroutines get all of gRPC's blocking API, and lose no thread."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import caller_from_context
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]
WAIT = 15.0
THREADS = 2
each_server = pytest.mark.parametrize("server", ["aio", "blocking", "public"], indirect=True)


class Handlers:
    """Blocking handlers that record what they notice."""

    def __init__(self) -> None:
        self.observed: list[str] = []
        self.closed = 0
        self.started = threading.Semaphore(0)
        self.over = threading.Event()

    def uu_who(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return request + caller_from_context(context).node_id.encode()

    def us_endless(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            while True:
                yield request
        finally:
            self.closed += 1

    def uu_waits(self, request: bytes, context: Any) -> bytes:
        assert context.is_active()
        assert context.add_callback(self.over.set)
        self.started.release()
        assert self.over.wait(WAIT)
        self.observed.append(f"active {context.is_active()}, late {context.add_callback(print)}")
        return b""

    def su_counts(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self.started.release()
        try:
            return str(len(list(requests))).encode()
        except grpc.RpcError as error:
            self.observed.append(str(error))
            raise

    def uu_asks(self, request: bytes, context: Any) -> bytes:
        context.set_compression(grpc.Compression.Gzip)
        context.send_initial_metadata((("first", "1"),))
        context.set_trailing_metadata((("last", "2"),))
        context.disable_next_message_compression()
        given = dict(context.invocation_metadata())["given"]
        key = context.peer_identity_key()
        facts = [
            given,
            key,
            b"caller" in context.peer_identities(),
            context.auth_context()[key][0],
            context.peer()[:5],
            0 < context.time_remaining() <= WAIT,
            context.trailing_metadata(),
            context.code(),
        ]
        return repr(facts).encode()

    def uu_sets(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.DATA_LOSS)
        context.set_details("half of it")
        assert (context.code(), context.details()) == (grpc.StatusCode.DATA_LOSS, "half of it")
        return b""

    def us_aborts(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"one"
        context.abort(grpc.StatusCode.ABORTED, "as you wish")

    def uu_rich(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        status = SimpleNamespace(
            code=grpc.StatusCode.NOT_FOUND,
            details="no such",
            trailing_metadata=(("grpc-status-details-bin", b"\x08\x05"),),
        )
        context.abort_with_status(status)
        return b""

    def uu_cancels(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.cancel()
        assert self.over.wait(WAIT)
        return b""

    def uu_stops_iterating(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return next(iter(()))

    def us_fails(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"one"
        raise LookupError("no more")

    def us_list(self, request: bytes, context: grpc.ServicerContext) -> Any:
        return [b"one", b"two"]

    def register(self, server: Any) -> None:
        kinds = {"uu": "unary_unary", "us": "unary_stream", "su": "stream_unary"}
        handlers = {
            name: getattr(grpc, f"{kinds[name[:2]]}_rpc_method_handler")(getattr(self, name))
            for name in dir(self)
            if name[:3] in ("uu_", "us_", "su_")
        }
        # As generated code does, which also adds a generic handler before.
        server.add_registered_method_handlers("t", handlers)


@pytest.fixture
def handlers() -> Iterator[Handlers]:
    handlers = Handlers()
    yield handlers
    handlers.over.set()


@pytest.fixture
async def node(handlers: Handlers, identity: MakeIdentity, server: str) -> AsyncIterator[Node]:
    tls = identity("node")
    options: dict[str, Any] = {"tls": tls, "registrars": [handlers.register], "grace": 0}
    options["max_workers"] = THREADS
    async with Node("node", address="127.0.0.1:0", **options) as running:
        yield running


@pytest.fixture
async def channel(node: Node, identity: MakeIdentity) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(identity("caller"), "node", node.address) as opened:
        yield opened


@each_server
async def test_callers_that_give_up_streams_leave_no_thread_busy(
    node: Node, channel: grpc.aio.Channel, handlers: Handlers, until: Until
) -> None:
    calls = 3 * THREADS
    for _ in range(calls):
        call: Any = channel.unary_stream("/t/us_endless")(b"x", timeout=WAIT)
        assert await call.read() == b"x"
        call.cancel()
    assert await channel.unary_unary("/t/uu_who")(b"I am ", timeout=WAIT) == b"I am caller"
    await until(lambda: handlers.closed == calls)
    await until(lambda: node.stats().calls.running == 0)


@each_server
async def test_a_handler_is_notified_when_its_caller_gives_up(
    node: Node, channel: grpc.aio.Channel, handlers: Handlers, until: Until
) -> None:
    call = channel.unary_unary("/t/uu_waits")(b"", timeout=WAIT)
    assert await asyncio.to_thread(handlers.started.acquire, timeout=WAIT)
    call.cancel()
    await until(lambda: handlers.observed == ["active False, late False"])
    await until(lambda: node.stats().calls.running == 0)


async def test_a_call_given_up_before_a_thread_was_free_is_released(
    node: Node, channel: grpc.aio.Channel, handlers: Handlers, until: Until
) -> None:
    held = [channel.unary_unary("/t/uu_waits")(b"", timeout=WAIT) for _ in range(THREADS)]
    for _ in held:
        assert await asyncio.to_thread(handlers.started.acquire, timeout=WAIT)
    contexts: weakref.WeakSet[Any] = weakref.WeakSet()
    submit = node.server._threads._pool.submit

    submitted: list[str] = []

    def record(*args: Any) -> Any:
        contexts.add(args[-1][-1])
        submitted.append(type(args[-1][-1]).__name__)
        return submit(*args)

    node.server._threads._pool.submit = record  # type: ignore[method-assign]
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary("/t/uu_who")(b"x", timeout=0.2)

    def is_free() -> bool:
        gc.collect()
        return not contexts

    await until(is_free)
    assert submitted == ["ThreadContext"]
    handlers.over.set()
    for call in held:
        await call


@each_server
async def test_no_thread_waits_for_requests_after_the_call_is_over(
    node: Node, channel: grpc.aio.Channel, handlers: Handlers, until: Until, server: str
) -> None:
    for _ in range(2 * THREADS):
        call: Any = channel.stream_unary("/t/su_counts")(timeout=WAIT)
        await call.write(b"x")
        assert await asyncio.to_thread(handlers.started.acquire, timeout=WAIT)
        call.cancel()
    await until(lambda: len(handlers.observed) == 2 * THREADS)
    # gRPC's own server raises an error without a text.
    expected = {"the call is over" if server == "aio" else ""}
    assert {text[:16] for text in handlers.observed} == expected
    requests = iter([b"a", b"b", b"c"])
    assert await channel.stream_unary("/t/su_counts")(requests, timeout=WAIT) == b"3"


@each_server
async def test_a_handler_has_all_of_the_blocking_context(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/t/uu_asks")(b"", metadata=(("given", "0"),), timeout=WAIT)
    key = "x509_subject_alternative_name"
    expected = ["0", key, True, b"caller", "ipv4:", True, (("last", "2"),), None]
    assert await call == repr(expected).encode()
    assert dict(tuple(await call.initial_metadata()))["first"] == "1"
    assert dict(tuple(await call.trailing_metadata()))["last"] == "2"


@each_server
@pytest.mark.parametrize(
    ("name", "code", "details"),
    [
        ("uu_sets", grpc.StatusCode.DATA_LOSS, "half of it"),
        ("uu_rich", grpc.StatusCode.NOT_FOUND, "no such"),
        ("uu_cancels", grpc.StatusCode.CANCELLED, "the handler cancelled the call"),
        ("uu_stops_iterating", grpc.StatusCode.UNKNOWN, "the handler raised StopIteration"),
        ("us_aborts", grpc.StatusCode.ABORTED, "as you wish"),
        ("us_fails", grpc.StatusCode.UNKNOWN, "no more"),
    ],
)
async def test_a_call_ends_with_the_status_of_its_handler(
    channel: grpc.aio.Channel, server: str, name: str, code: grpc.StatusCode, details: str
) -> None:
    if server != "aio":
        # As every user of grpc.server knows it.
        details = {"uu_cancels": "", "uu_stops_iterating": "Exception"}.get(name, details)
    call: Any
    if name.startswith("us"):
        call = channel.unary_stream(f"/t/{name}")(b"", timeout=WAIT)
        assert await call.read() == b"one"
    else:
        call = channel.unary_unary(f"/t/{name}")(b"", timeout=WAIT)
    assert await call.code() is code
    assert details in str(await call.details())
    if name == "uu_rich":
        assert dict(tuple(await call.trailing_metadata()))["grpc-status-details-bin"] == b"\x08\x05"


@each_server
async def test_a_stream_may_be_any_iterable(channel: grpc.aio.Channel) -> None:
    call = channel.unary_stream("/t/us_list")(b"", timeout=WAIT)
    assert [message async for message in call] == [b"one", b"two"]


async def test_no_method_is_registered_with_the_core_of_grpc(node: Node, channel: Any) -> None:
    # With gRPC 1.85, each registered method makes every call to the server slower.
    known = node.server._server._server
    assert not getattr(known, "_registered_method_handlers", None)
    assert node.server.services == ("t",)
    assert await channel.unary_unary("/t/uu_who")(b"", timeout=WAIT) == b"caller"
