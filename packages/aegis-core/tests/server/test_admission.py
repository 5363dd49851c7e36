"""Calls above the limit are shed, except the mesh's own; a stopping node drains its calls."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import CallRule, ConfigError, Policy
from aegis_core._server.admission import MANY, PRUNE_ABOVE, AdmissionControl, AdmissionRefused
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]


class FakeCall:
    def __init__(self) -> None:
        self.over = False

    def done(self) -> bool:
        return self.over


def arrive(admission: AdmissionControl[FakeCall], call: FakeCall) -> AdmissionRefused | None:
    refused = admission.arrive()
    if refused is None:
        admission.await_begin(call)
    return refused


def test_calls_are_admitted_up_to_the_limit_and_again_when_a_call_ends() -> None:
    admission = AdmissionControl[FakeCall](2)
    a, b, c, d, e = (FakeCall() for _ in range(5))
    assert [arrive(admission, call) for call in (a, b, c)] == [None, None, None]
    assert [admission.begin(call) for call in (a, b, c)] == [True, True, False]
    assert repr(admission) == "<AdmissionControl 2/2 running>"
    assert arrive(admission, d) is AdmissionRefused.FULL
    admission.end(a)
    admission.end(a)
    assert arrive(admission, e) is None
    assert admission.begin(e)
    assert (
        admission.begun,
        admission.shed,
        admission.arrived_after_close,
        len(admission.running),
    ) == (3, 2, 0, 2)
    assert admission.arrived == 5


def test_after_the_close_no_call_is_admitted_and_admitted_calls_finish() -> None:
    admission = AdmissionControl[FakeCall]()
    running, pending, given_up = FakeCall(), FakeCall(), FakeCall()
    assert [arrive(admission, call) for call in (running, pending, given_up)] == [None] * 3
    assert admission.begin(running)
    admission.close()
    assert arrive(admission, FakeCall()) is AdmissionRefused.CLOSED
    assert repr(admission) == "<AdmissionControl 1 running closed>"
    admission.end(running)
    given_up.over = True
    assert not admission.empty
    assert admission.begin(pending), "it was admitted before"
    admission.end(pending)
    assert (admission.empty, admission.arrived, admission.arrived_after_close) == (True, 4, 1)


def test_calls_that_were_cancelled_before_they_ran_are_released() -> None:
    admission = AdmissionControl[FakeCall]()
    for _ in range(10 * PRUNE_ABOVE):
        call = FakeCall()
        arrive(admission, call)
        call.over = True
    assert len(admission.waiting) <= PRUNE_ABOVE


def test_a_call_that_ends_before_it_runs_is_forgotten_at_once() -> None:
    admission = AdmissionControl[FakeCall]()
    call = FakeCall()
    arrive(admission, call)
    admission.end(call)
    assert not admission.pending, "it may hold megabytes of headers"


class Slow:
    """Handlers of all kinds, sync and async, that run until they are released."""

    def __init__(self) -> None:
        self.go_on_sync = threading.Event()
        self.begun = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def _go_on(self) -> None:
        """Waits, on any loop, until it is released."""
        self._waiting.append((asyncio.get_running_loop(), go_on := asyncio.Event()))
        if not self.go_on_sync.is_set():
            await go_on.wait()

    async def uu(self, request: bytes, context: Any) -> bytes:
        await self._go_on()
        return b"done"

    async def us(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await self._go_on()
        yield b"done"

    async def su(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        await self._go_on()
        return b"done"

    async def ss(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await self._go_on()
        yield b"done"

    def sync_uu(self, request: bytes, context: Any) -> bytes:
        self.begun += 1
        assert self.go_on_sync.wait(15)
        return b"done"

    def sync_us(self, request: bytes, context: Any) -> Iterator[bytes]:
        self.begun += 1
        assert self.go_on_sync.wait(15)
        yield b"done"

    def sync_su(self, requests: Iterator[bytes], context: Any) -> bytes:
        self.begun += 1
        assert self.go_on_sync.wait(15)
        return b"done"

    def sync_ss(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self.begun += 1
        assert self.go_on_sync.wait(15)
        yield b"done"

    def release(self) -> None:
        self.go_on_sync.set()
        for loop, go_on in self._waiting:
            with contextlib.suppress(RuntimeError):  # the node has stopped, and its loop ended
                loop.call_soon_threadsafe(go_on.set)

    def register(self, server: Any) -> None:
        handlers = {
            name: getattr(grpc, f"{KINDS[name[-2:]]}_rpc_method_handler")(getattr(self, name))
            for name in NAMES
        }
        generic = grpc.method_handlers_generic_handler("t", handlers)
        server.add_generic_rpc_handlers((generic,))


KINDS = {"uu": "unary_unary", "us": "unary_stream", "su": "stream_unary", "ss": "stream_stream"}
NAMES = [*KINDS, *(f"sync_{name}" for name in KINDS)]
ON_BLOCKING = ["uu", "ss", *(f"sync_{name}" for name in KINDS)]
each_server = pytest.mark.parametrize(
    ("server", "name"),
    [("aio", name) for name in NAMES]
    + [("blocking", name) for name in ON_BLOCKING]
    + [("public", name) for name in ("ss", "sync_uu", "sync_ss")],
    indirect=["server"],
)


def begin(channel: grpc.aio.Channel, name: str) -> Any:
    """Begins a call. A call that streams requests sends none.

    The aio client of gRPC (1.78 to 1.85) sometimes reports INTERNAL if a call ends while the
    client writes, whatever the status was.
    """
    kind = KINDS[name[-2:]]
    requests = [b"x"] if kind.startswith("unary") else []
    return getattr(channel, kind)(f"/t/{name}")(*requests, timeout=20)


async def end_of(call: Any) -> grpc.StatusCode:
    """Reads the messages, because the status of a stream follows them, and returns the status."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while hasattr(call, "read") and await call.read() is not grpc.aio.EOF:
            pass
    code: grpc.StatusCode = await call.code()
    return code


@pytest.fixture
async def slow() -> AsyncIterator[Slow]:
    handlers = Slow()
    yield handlers
    handlers.release()


@pytest.fixture
def node_of(identity: MakeIdentity) -> Callable[..., Node]:
    def make(slow: Slow, **options: Any) -> Node:
        options = {"grace": 0, **options}
        return Node(
            "node",
            address="127.0.0.1:0",
            tls=identity("node"),
            registrars=[slow.register],
            **options,
        )

    return make


@each_server
async def test_a_call_above_the_limit_is_shed_at_once_and_marked(
    node_of: Callable[..., Node],
    identity: MakeIdentity,
    slow: Slow,
    until: Until,
    name: str,
    server: str,
) -> None:
    async with (
        node_of(slow, max_concurrent_calls=2) as node,
        open_channel(identity("caller"), "node", node.address) as channel,
    ):
        running = [begin(channel, name) for _ in range(2)]
        await until(lambda: node.stats().calls.running == 2)
        for other in NAMES:
            call = begin(channel, other)
            assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, other
            assert tuple(await call.trailing_metadata()) == (("aegis-shed", "1"),), other
        assert node.stats().calls.shed == len(NAMES)
        for path in ("/grpc.health.v1.Health/Check", "/aegis.MeshService/Ping"):
            assert isinstance(await channel.unary_unary(path)(b"", timeout=10), bytes)
        slow.release()
        for call in running:
            assert await end_of(call) is grpc.StatusCode.OK
        await until(lambda: node.stats().calls.running == 0)
        assert await end_of(begin(channel, name)) is grpc.StatusCode.OK
        assert node.stats().calls.begun == 3


@pytest.mark.parametrize(
    ("server", "name"),
    [
        *(("aio", name) for name in ("uu", "sync_uu", "us", "sync_us")),
        *(("blocking", name) for name in ("sync_uu", "sync_us")),
        ("public", "sync_us"),
    ],
    indirect=["server"],
)
async def test_a_thread_that_still_runs_for_a_caller_that_gave_up_counts(
    node_of: Callable[..., Node],
    identity: MakeIdentity,
    slow: Slow,
    until: Until,
    name: str,
    server: str,
) -> None:
    async with (
        node_of(slow, max_concurrent_calls=1) as node,
        open_channel(identity("caller"), "node", node.address) as channel,
    ):
        call = begin(channel, name)
        await until(lambda: node.stats().calls.running == 1)
        if name.startswith("sync"):
            await until(lambda: slow.begun)
        call.cancel()
        if name.startswith("sync"):
            # A later call on the connection is answered after the node noticed the cancellation.
            health = channel.unary_unary("/grpc.health.v1.Health/Check")
            assert isinstance(await health(b"", timeout=10), bytes)
            assert await begin(channel, "uu").code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            slow.go_on_sync.set()
        await until(lambda: node.stats().calls.running == 0)


@pytest.mark.parametrize(
    ("server", "name"),
    [
        *(("aio", name) for name in ("uu", "sync_uu", "us", "sync_us")),
        *(("blocking", name) for name in ("sync_uu", "us")),
    ],
    indirect=["server"],
)
async def test_denied_callers_do_not_use_up_the_limit(
    node_of: Callable[..., Node],
    identity: MakeIdentity,
    slow: Slow,
    until: Until,
    name: str,
    server: str,
) -> None:
    policy = Policy(call=[CallRule(ids=["caller"], services=["t"])])
    never = asyncio.Event()

    async def keep_waiting() -> AsyncIterator[bytes]:
        await never.wait()
        yield b""

    async with (
        node_of(slow, max_concurrent_calls=1, policy=policy) as node,
        open_channel(identity("caller"), "node", node.address) as channel,
        open_channel(identity("mallory"), "node", node.address) as another,
    ):
        # The server waits for requests that never arrive, so it does not know the caller yet.
        held = [another.stream_stream(f"/t/{name}")(keep_waiting()) for _ in range(3)]
        await until(lambda: node.server._admission.arrived == 3)
        for _ in range(20):
            code = await begin(another, name).code()
            assert code is grpc.StatusCode.PERMISSION_DENIED
        # A blocking node judges each call when its headers arrive, an asyncio one all but a few.
        assert node.stats().calls.denied == (23 if server == "blocking" else 20 + 3 - MANY)
        slow.release()
        assert await end_of(begin(channel, name)) is grpc.StatusCode.OK
        assert (node.stats().calls.begun, node.stats().calls.shed) == (1, 0)
        for call in held:
            call.cancel()


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_calls_that_wait_for_a_thread_count(
    node_of: Callable[..., Node], identity: MakeIdentity, slow: Slow, until: Until, server: str
) -> None:
    async with (
        node_of(slow, max_concurrent_calls=3, max_workers=1) as node,
        open_channel(identity("caller"), "node", node.address) as channel,
    ):
        calls = [begin(channel, "sync_uu")]
        await until(lambda: slow.begun == 1)
        calls += [begin(channel, "sync_uu") for _ in range(2)]
        await until(lambda: node.stats().calls.running == 3)
        assert await begin(channel, "sync_uu").code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert slow.begun == 1
        calls.pop().cancel()
        await until(lambda: node.stats().calls.running == 2)
        slow.release()
        assert {await end_of(call) for call in calls} == {grpc.StatusCode.OK}
        assert slow.begun == 2


@pytest.mark.parametrize("server", ["aio", "blocking", "public"], indirect=True)
async def test_requests_that_cannot_be_parsed_are_one_line_that_names_the_caller(
    node_of: Callable[..., Node],
    identity: MakeIdentity,
    slow: Slow,
    caplog: pytest.LogCaptureFixture,
    server: str,
) -> None:
    async with (
        node_of(slow) as node,
        open_channel(identity("caller"), "node", node.address) as channel,
    ):
        for _ in range(20):
            call = channel.unary_unary("/aegis.MeshService/Ping")(b"\xff", timeout=20)
            assert await call.code() is grpc.StatusCode.INTERNAL
    (line,) = [record for record in caplog.records if record.levelname != "INFO"]
    assert line.getMessage().startswith("caller sent a request for /aegis.MeshService/Ping that")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_would_refuse_every_call_is_an_error(
    identity: MakeIdentity, limit: int
) -> None:
    with pytest.raises(ConfigError, match="would refuse every call"):
        Node("node", address="127.0.0.1:0", tls=identity("node"), max_concurrent_calls=limit)


@each_server
async def test_calls_in_flight_finish_and_later_calls_are_sent_to_other_providers(
    node_of: Callable[..., Node],
    identity: MakeIdentity,
    slow: Slow,
    until: Until,
    name: str,
    server: str,
) -> None:
    async with open_channel_to(node_of(slow, grace=15), identity) as (node, channel):
        call = begin(channel, name)
        await until(lambda: node.stats().calls.running == 1)
        admission = node.server._admission
        stopping = asyncio.create_task(node.stop())
        await until(lambda: admission.closed)
        for other in NAMES:
            late = begin(channel, other)
            assert await late.code() is grpc.StatusCode.UNAVAILABLE
            assert not await late.trailing_metadata()
        slow.release()
        assert await end_of(call) is grpc.StatusCode.OK
        await stopping


@each_server
async def test_calls_that_do_not_end_in_time_end_as_unavailable(
    node_of: Callable[..., Node],
    identity: MakeIdentity,
    slow: Slow,
    until: Until,
    name: str,
    server: str,
) -> None:
    async with open_channel_to(node_of(slow, grace=0.3), identity) as (node, channel):
        calls = [begin(channel, name) for _ in range(20)]
        await until(lambda: node.stats().calls.running == 20)
        await node.stop()
        assert {await end_of(call) for call in calls} == {grpc.StatusCode.UNAVAILABLE}


class open_channel_to:  # noqa: N801 - a context manager, used as a function
    """Starts a node, and a channel to it that outlives the node."""

    def __init__(self, node: Node, identity: MakeIdentity) -> None:
        self._node, self._identity = node, identity

    async def __aenter__(self) -> tuple[Node, grpc.aio.Channel]:
        await self._node.start()
        self._channel = open_channel(self._identity("caller"), "node", self._node.address)
        return self._node, self._channel

    async def __aexit__(self, *_: object) -> None:
        await self._node.stop(grace=0)
        await self._channel.close()
