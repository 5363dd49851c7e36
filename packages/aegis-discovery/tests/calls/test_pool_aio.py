"""Behaviour that only the async pool has."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_certs import TLSConfig
from aegis_discovery._calls.aio.pool import ServiceClientPool
from aegis_discovery._calls.balancers import LeastRequests
from aegis_discovery._model import ServiceInfo
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import EventLoopError, NoProvidersError
from aegis_discovery.transport._aio_channels import ChannelCache

WAIT = 10.0
ECHO = ServiceInfo("echo", "v1")

Start = Callable[..., Any]


async def acquired(semaphore: Any) -> bool:
    return await asyncio.to_thread(semaphore.acquire, timeout=WAIT)


@pytest.fixture
async def pool(topology: Topology, tls: TLSConfig) -> AsyncIterator[ServiceClientPool]:
    async with ServiceClientPool(topology, tls) as pool:
        yield pool


async def who(channel: grpc.aio.Channel) -> str:
    return str(await channel.unary_unary("/t/Who", None, bytes.decode)(b"", timeout=WAIT))


async def collect(call: Any) -> list[Any]:
    return [message async for message in call]


async def test_a_cancelled_call_is_not_retried(
    pool: ServiceClientPool, two: list[Any], attempts: Any, until: Any
) -> None:
    call: Any = pool.channel("echo", "v1").unary_unary("/t/Hang")(b"", timeout=WAIT)
    await until(lambda: sum(attempts(two, "Hang")) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert sum(attempts(two, "Hang")) == 1


async def test_callers_that_give_up_early_eject_a_frozen_provider(
    pool: ServiceClientPool, topology: Topology, two: list[Any], killable_provider: Any
) -> None:
    topology.add_node(killable_provider.info)
    channel = pool.channel("echo", "v1")
    for _ in range(3):
        await who(channel)
    killable_provider.freeze()
    for _ in range(45):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await who(channel)
    assert "ejected" in str(pool.stats())
    assert {await who(channel) for _ in range(20)} == {"a", "b"}
    killable_provider.thaw()
    async with asyncio.timeout(WAIT):
        while await who(channel) != "mortal":
            pass


async def test_an_ended_call_is_not_under_way_even_if_nothing_awaits_it(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    stub = pool.channel("echo", "v1").unary_unary("/t/Echo")
    over = asyncio.Semaphore(0)
    held: list[Any] = [stub(b"x", timeout=WAIT) for _ in range(4)]
    for call in held:
        call.add_done_callback(lambda _: over.release())
    for _ in held:
        await asyncio.wait_for(over.acquire(), WAIT)
    assert [endpoint.under_way for endpoint in pool.stats().services[0].endpoints] == [0, 0]
    assert [await call.code() for call in held] == [grpc.StatusCode.OK] * 4
    assert [await call for call in held] == [b"x"] * 4


async def test_calls_count_as_under_way_until_they_end_or_are_dropped(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    def under_way(pool: ServiceClientPool) -> list[int]:
        return sorted(endpoint.under_way for endpoint in pool.stats().services[0].endpoints)

    async with ServiceClientPool(topology, tls, balancers={"echo": LeastRequests}) as pool:
        channel = pool.channel("echo", "v1")
        hang, count = channel.unary_unary("/t/Hang"), channel.unary_stream("/t/Count")
        calls: list[Any] = [hang(b"", timeout=WAIT) for _ in range(2)]
        assert under_way(pool) == [1, 1], "the second call goes to the other provider"
        calls.append(count(b"1?", timeout=WAIT))
        assert await calls[2].read() == b"0"
        assert under_way(pool) == [1, 2]
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        calls[2].cancel()
        assert await calls[2].code() is grpc.StatusCode.CANCELLED
        assert under_way(pool) == [0, 1]
        del calls
        gc.collect()
        assert under_way(pool) == [0, 0]
        await who(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await hang(b"", timeout=0.05)
        assert await collect(count(b"2", timeout=WAIT)) == [b"0", b"1"]
        assert under_way(pool) == [0, 0]


async def test_probes_do_not_pass_through_interceptors_of_the_user(
    topology: Topology, tls: TLSConfig, two: list[Any], start_provider: Start
) -> None:
    class Echoes(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
            assert bytes(details.method).startswith(b"/t/"), "not a method of the user"
            return await go_on(details, request)

    async with ServiceClientPool(topology, tls, interceptors=[Echoes()]) as pool:
        channel = pool.channel("echo", "v1")
        await asyncio.to_thread(two[0].stop)
        assert [await who(channel) for _ in range(4)] == ["b"] * 4
        start_provider("a", port=two[0].port)
        async with asyncio.timeout(WAIT):
            while await who(channel) != "a":
                pass


async def test_without_providers_a_call_fails_with_a_grpc_error(pool: ServiceClientPool) -> None:
    channel = pool.channel("echo", "v1")

    async def write() -> None:
        await channel.stream_stream("/t/Chat")().write(b"")

    outcomes: list[Any] = [
        channel.unary_unary("/t/Echo")(b""),
        anext(aiter(channel.unary_stream("/t/Count")(b"1"))),
        channel.unary_stream("/t/Count")(b"1").read(),
        channel.stream_unary("/t/Join")(iter([])),
        channel.stream_stream("/t/Chat")(iter([])).read(),
        write(),
        channel.unary_unary("/t/Echo")(b"").wait_for_connection(),
    ]
    for outcome in outcomes:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await outcome
        error: Any = caught.value
        assert isinstance(error, NoProvidersError)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == str(error)
        assert (error.name, error.version, error.known) == ("echo", "v1", 0)
        assert "no live node provides echo/v1 (0 nodes known)" in str(error)
    call: Any = channel.unary_unary("/t/Echo")(b"")
    assert isinstance(call, grpc.aio.UnaryUnaryCall)
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert "no live node" in await call.details()
    assert len(await call.initial_metadata()) == len(await call.trailing_metadata()) == 0
    assert call.done()
    assert not call.cancel()
    reported: list[Any] = []
    call.add_done_callback(reported.append)
    assert reported == [call]
    with pytest.raises(NoProvidersError):
        pool.get_conn("echo", "v1")


async def test_a_provider_that_left_is_disconnected_after_its_calls_end(
    pool: ServiceClientPool, topology: Topology, two: list[Any], connections_to: Any, until: Any
) -> None:
    channel = pool.channel("echo", "v1")
    hang, count = channel.unary_unary("/t/Hang"), channel.unary_stream("/t/Count")
    calls: list[Any] = [hang(b"x", timeout=WAIT) for _ in two]
    streams: list[Any] = [count(b"1?", timeout=WAIT) for _ in two]
    chats: list[Any] = [channel.stream_stream("/t/Chat")(timeout=WAIT) for _ in two]
    for chat in chats:
        await chat.write(b"1")
        assert await chat.read() == b"re: 1"
    assert [await stream.read() for stream in streams] == [b"0", b"0"]
    leaving, staying = two
    for provider in (leaving, leaving, staying, staying):
        assert await acquired(provider.hanging)
    topology.remove_node("a")
    staying.go_on.set()
    assert await who(channel) == "b"
    gc.collect()
    assert connections_to(leaving.port) == 1, "the connection stays open for its calls"
    leaving.go_on.set()
    assert await asyncio.gather(*calls) == [b"x", b"x"]
    assert [await stream.read() for stream in streams] == [grpc.aio.EOF, grpc.aio.EOF]
    for chat in chats:
        await chat.write(b"2")
        assert await chat.read() == b"re: 2"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
    del calls, streams, chats, chat, hang, count

    def is_disconnected() -> bool:
        gc.collect()  # calls of gRPC and their callbacks reference each other
        return connections_to(leaving.port) == 0

    await until(is_disconnected)
    assert repr(pool) == "<ServiceClientPool channels=[b]>"


async def test_a_pool_closed_with_grace_lets_calls_end(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    stub = pool.channel("echo", "v1").unary_unary("/t/Hang")
    calls = [asyncio.ensure_future(stub(b"x", timeout=WAIT)) for _ in two]
    for provider in two:
        assert await acquired(provider.hanging)
    closing = asyncio.create_task(pool.close(grace=WAIT))
    await asyncio.sleep(0)
    for provider in two:
        provider.go_on.set()
    assert await asyncio.gather(*calls) == [b"x", b"x"]
    await closing


async def test_a_pool_leaves_no_task_behind(
    topology: Topology, tls: TLSConfig, two: list[Any], until: Any
) -> None:
    before = asyncio.all_tasks()
    async with ServiceClientPool(topology, tls) as pool:
        channel = pool.channel("echo", "v1")
        await asyncio.gather(*(who(channel) for _ in range(10)))
        call: Any = channel.unary_stream("/t/Count")(b"1?", timeout=WAIT)
        await call.read()
        topology.remove_node("a")
        await who(channel)
        call.cancel()
    await until(lambda: asyncio.all_tasks() == before)


async def test_a_pool_belongs_to_one_event_loop(
    pool: ServiceClientPool, topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    channel = pool.channel("echo", "v1")
    stub = channel.unary_unary("/t/Who")
    await stub(b"", timeout=WAIT)
    cache = ChannelCache(tls)
    held = cache.get("a", two[0].address)

    async def elsewhere() -> None:
        for use in (
            lambda: stub(b""),
            lambda: channel.stream_stream("/t/Chat")(iter([])),
            lambda: pool.get_conn("echo", "v1"),
            lambda: cache.get("a", two[0].address),
        ):
            with pytest.raises(EventLoopError, match="belongs to another event loop"):
                use()

    await asyncio.to_thread(asyncio.run, elsewhere())

    def outside() -> None:
        with pytest.raises(EventLoopError):
            stub(b"")

    await asyncio.to_thread(outside)
    assert await stub(b"", timeout=WAIT) in {b"a", b"b"}
    await held.close()


def test_a_pool_may_be_made_before_its_event_loop(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    pool = ServiceClientPool(topology, tls)
    channel = pool.channel("echo", "v1")
    stub = channel.unary_unary("/t/Who")

    async def main() -> bytes:
        async with pool:
            return bytes(await stub(b"", timeout=WAIT))

    assert asyncio.run(main()) in {b"a", b"b"}


async def test_a_stream_that_waits_for_a_provider_takes_written_requests(
    pool: ServiceClientPool, topology: Topology, start_provider: Any, until: Any
) -> None:
    call: Any = pool.channel("echo", "v1").stream_stream("/t/Chat")(wait_for_ready=True)
    writing = asyncio.ensure_future(call.write(b"late"))
    await until(lambda: len(pool._registry.waiters) == 1)
    topology.add_node(start_provider("one").info)
    await writing
    assert await call.read() == b"re: late"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
