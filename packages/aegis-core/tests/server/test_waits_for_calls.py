"""A server that waits for the next call itself behaves as one of `grpc.aio` does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_certs import TLSConfig
from aegis_core._server.aio import grpc_internals
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]
WAIT = 15.0
MANY = 300
WAITS_BY_TASKS = tuple(map(int, grpc.__version__.split(".")[:2])) >= (1, 84)
"""Older ones wait for the call itself, so this module has nothing to do."""


class Handlers:
    def __init__(self) -> None:
        self.cancelled = 0
        self.running = 0

    async def echo(self, request: bytes, context: Any) -> bytes:
        return request

    async def sleep(self, request: bytes, context: Any) -> bytes:
        self.running += 1
        try:
            await asyncio.sleep(4 * WAIT)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return b""

    async def abort(self, request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("first", "1"),))
        await context.abort(grpc.StatusCode.DATA_LOSS, "lost", (("last-bin", b"2"),))
        return b""

    async def twice(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        yield request

    async def join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([request async for request in requests])

    def services(self) -> tuple[grpc.GenericRpcHandler, ...]:
        methods: dict[str, Any] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Sleep": grpc.unary_unary_rpc_method_handler(self.sleep),
            "Abort": grpc.unary_unary_rpc_method_handler(self.abort),
            "Twice": grpc.unary_stream_rpc_method_handler(self.twice),
            "Join": grpc.stream_unary_rpc_method_handler(self.join),
        }
        return (grpc.method_handlers_generic_handler("t", methods),)


def call_of(channel: grpc.aio.Channel, method: str) -> Any:
    return channel.unary_unary(f"/t/{method}")


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def forgets() -> Iterator[None]:
    """Makes gRPC be looked at again, before and after a test."""
    grpc_internals._is_usable.cache_clear()
    yield
    grpc_internals._is_usable.cache_clear()


@pytest.fixture(params=["ours", "gRPC's"])
async def server(
    request: pytest.FixtureRequest, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    if request.param != "ours":
        monkeypatch.setattr(grpc_internals, "_is_usable", lambda: False)
    server = grpc_internals.new_server(handlers.services(), (), ())
    assert (type(server) is grpc_internals._Server) == (WAITS_BY_TASKS and request.param == "ours")
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield server, f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.fixture
async def channel(server: tuple[grpc.aio.Server, str]) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server[1]) as channel:
        yield channel


def test_gRPC_is_as_the_server_expects_it() -> None:  # noqa: N802 - that is its name
    assert grpc_internals._is_usable() == WAITS_BY_TASKS


@pytest.mark.usefixtures("forgets")
@pytest.mark.parametrize(
    ("of", "name", "value"),
    [
        (grpc, "__version__", "1.99.0"),
        (grpc_internals.cygrpc, "AioServer", object),
        (grpc_internals.cygrpc, "asyncio", object()),
        (grpc_internals._server, "Server", object),
        (grpc_internals._server, "_augment_channel_arguments", object),
    ],
)
def test_another_grpc_serves_in_its_own_way(
    monkeypatch: pytest.MonkeyPatch, of: Any, name: str, value: Any
) -> None:
    monkeypatch.setattr(of, name, value)
    assert not grpc_internals._is_usable()


async def test_each_kind_of_call_is_served(channel: grpc.aio.Channel) -> None:
    assert await call_of(channel, "Echo")(b"x", timeout=WAIT) == b"x"
    twice: Any = channel.unary_stream("/t/Twice")
    answers = [answer async for answer in twice(b"x", timeout=WAIT)]
    assert answers == [b"x", b"x"]
    join: Any = channel.stream_unary("/t/Join")
    assert await join([b"x", b"y"], timeout=WAIT) == b"xy"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call_of(channel, "None")(b"x", timeout=WAIT)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_many_calls_at_once_are_all_answered(channel: grpc.aio.Channel) -> None:
    echo = call_of(channel, "Echo")
    sent = [b"%d" % number for number in range(MANY)]
    assert await asyncio.gather(*(echo(one, timeout=WAIT) for one in sent)) == sent


async def test_a_status_has_its_details_and_metadata(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call_of(channel, "Abort")(b"x", timeout=WAIT)
    error = raised.value
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "lost")
    assert list(error.initial_metadata()) == [("first", "1")]
    assert ("last-bin", b"2") in list(error.trailing_metadata())


async def test_a_cancelled_call_and_a_late_one_end_their_handlers(
    channel: grpc.aio.Channel, handlers: Handlers, until: Until
) -> None:
    sleep = call_of(channel, "Sleep")
    call = sleep(b"", timeout=WAIT)
    await until(lambda: handlers.running)
    call.cancel()
    await until(lambda: handlers.cancelled == 1)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await sleep(b"", timeout=0.2)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: handlers.cancelled == handlers.running == 2)


async def test_a_stop_ends_calls_and_refuses_further_ones(
    server: tuple[grpc.aio.Server, str],
    channel: grpc.aio.Channel,
    handlers: Handlers,
    until: Until,
) -> None:
    call = call_of(channel, "Sleep")(b"", timeout=WAIT)
    await until(lambda: handlers.running)
    await asyncio.wait_for(server[0].stop(0), WAIT)
    for late in (call, call_of(channel, "Echo")(b"x", timeout=WAIT)):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await late
        assert raised.value.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


async def test_a_server_that_was_never_called_stops(server: tuple[grpc.aio.Server, str]) -> None:
    await asyncio.wait_for(server[0].stop(WAIT), WAIT)


async def test_other_servers_of_the_process_serve_as_before(
    channel: grpc.aio.Channel, handlers: Handlers
) -> None:
    other = grpc.aio.server(handlers=handlers.services())
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as to_other:
        for one in (to_other, channel, to_other):
            assert await call_of(one, "Echo")(b"x", timeout=WAIT) == b"x"
    await asyncio.wait_for(other.stop(0), WAIT)
    assert await call_of(channel, "Echo")(b"x", timeout=WAIT) == b"x"


def test_servers_on_two_event_loops_serve_at_once(handlers: Handlers) -> None:
    both_serve = threading.Barrier(2, timeout=WAIT)

    async def serve() -> bytes:
        server = grpc_internals.new_server(handlers.services(), (), ())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await asyncio.to_thread(both_serve.wait)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            answer: bytes = await call_of(channel, "Echo")(b"x", timeout=WAIT)
            await asyncio.to_thread(both_serve.wait)
        await server.stop(0)
        return answer

    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: answers.append(asyncio.run(serve()))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert answers == [b"x", b"x"]


async def test_a_call_that_fails_to_arrive_is_an_error_of_its_result() -> None:
    async def fails() -> None:
        raise grpc.aio.InternalError("none")

    call = grpc_internals._NextCall(fails())
    assert not call.done()
    assert await call == ((call,), ())
    assert call.done()
    with pytest.raises(grpc.aio.InternalError, match="none"):
        call.result()


async def test_a_call_that_is_given_up_is_waited_for_no_more() -> None:
    call = grpc_internals._NextCall(asyncio.Event().wait())

    async def wait() -> None:
        await grpc_internals._Asyncio.wait([call])

    waits = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert not call.done()
    call.cancel()
    assert call.done()
    await asyncio.gather(call, return_exceptions=True)  # as gRPC does at the end


@pytest.mark.parametrize("has_interceptor", [False, True])
async def test_a_node_waits_for_calls_itself(
    identity: MakeIdentity, monkeypatch: pytest.MonkeyPatch, has_interceptor: bool
) -> None:
    made: list[grpc.aio.Server] = []

    def new_server(*arguments: Any) -> grpc.aio.Server:
        made.append(grpc_internals.new_server(*arguments))
        return made[-1]

    monkeypatch.setattr("aegis_core._server.aio.server.new_server", new_server)

    class Interceptor(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return await continuation(details)

    handlers = Handlers()
    node = Node(
        "node",
        address="127.0.0.1:0",
        tls=identity("node"),
        registrars=[lambda server: server.add_generic_rpc_handlers(handlers.services())],
        interceptors=[Interceptor()] if has_interceptor else (),
        grace=0,
    )
    async with node, open_channel(identity("caller"), "node", node.address) as channel:
        assert [type(one) is grpc_internals._Server for one in made] == [WAITS_BY_TASKS]
        assert await call_of(channel, "Echo")(b"x", timeout=WAIT) == b"x"
