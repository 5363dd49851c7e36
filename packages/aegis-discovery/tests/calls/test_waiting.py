"""Calls that wait until there is a provider; each test runs on both APIs."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_discovery._model import ServiceInfo
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import ClosedError, NoProvidersError

WAIT = 10.0

Start = Callable[..., Any]
Until = Callable[[Callable[[], object]], Awaitable[None]]

KINDS = ["unary", "stream", "join", "chat"]


@pytest.fixture
async def pool(new_pool: Any) -> AsyncIterator[Any]:
    async with new_pool() as pool:
        yield pool


@pytest.fixture
def channel(pool: Any) -> Any:
    return pool.channel("echo", "v1")


def begin(calls: Any, channel: Any, kind: str, **options: Any) -> asyncio.Task[Any]:
    """Starts a call that waits, of one of the four kinds."""
    work = {
        "unary": lambda: calls.unary(channel, "/t/Echo", b"hello", **options),
        "stream": lambda: calls.stream(channel, b"2", **options),
        "join": lambda: calls.join(channel, calls.sent(b"a", b"b"), **options),
        "chat": lambda: calls.chat(channel, calls.sent(b"x"), **options),
    }[kind]
    return asyncio.ensure_future(work())


ANSWERS: dict[str, Any] = {
    "unary": b"hello",
    "stream": [b"0", b"1"],
    "join": b"a+b",
    "chat": [b"re: x"],
}


def waiters(pool: Any) -> int:
    """Counts what waits; the futures of a pool count as one."""
    return len(pool._registry.waiters)


@pytest.mark.parametrize("timeout", [WAIT, None])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_waits_for_the_first_provider(
    kind: str, timeout: Any, calls: Any, pool: Any, channel: Any, provider: Any,
    topology: Topology, until: Until,
) -> None:  # fmt: skip
    call = begin(calls, channel, kind, wait_for_ready=True, timeout=timeout)
    await until(lambda: waiters(pool) == 1)
    topology.add_node(replace(provider.info, services=(ServiceInfo("other", "v1"),)))
    assert not call.done()
    topology.add_node(provider.info)
    assert await asyncio.wait_for(call, WAIT) == ANSWERS[kind]
    await until(lambda: waiters(pool) == 0)


@pytest.mark.parametrize(("kind", "retry"), [("unary", False), *((kind, None) for kind in KINDS)])
async def test_a_call_that_waits_for_a_dead_provider_goes_to_the_one_that_joins(
    kind: str, retry: Any, calls: Any, pool: Any, provider: Any, closed_port: int,
    topology: Topology, until: Until,
) -> None:  # fmt: skip
    dead = replace(provider.info, id="dead", address=f"127.0.0.1:{closed_port}")
    topology.add_node(dead)
    call = begin(calls, pool.channel("echo", "v1", retry=retry), kind, wait_for_ready=True)
    await until(lambda: waiters(pool) == 1)
    topology.remove_node("dead")
    assert not call.done()
    topology.add_node(provider.info)
    assert await asyncio.wait_for(call, WAIT) == ANSWERS[kind]
    await until(lambda: waiters(pool) == 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_waits_goes_to_its_dead_provider_when_that_is_back(
    kind: str, calls: Any, pool: Any, channel: Any, start_provider: Start, topology: Topology,
    until: Until,
) -> None:  # fmt: skip
    first = start_provider("one")
    topology.add_node(first.info)
    assert await calls.who(channel) == "one"
    await asyncio.to_thread(first.stop)
    # gRPC 1.78 may hang in a read that begins while a connection breaks.
    with pytest.raises(grpc.RpcError):
        await calls.who(channel)
    call = begin(calls, channel, kind, wait_for_ready=True, timeout=2 * WAIT)
    await until(lambda: waiters(pool) == 1)
    start_provider("one", port=first.port)
    assert await call == ANSWERS[kind]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_reaches_no_provider_until_its_deadline_names_them(
    kind: str, calls: Any, pool: Any, channel: Any, provider: Any, closed_port: int,
    topology: Topology, until: Until,
) -> None:  # fmt: skip
    topology.add_node(replace(provider.info, id="dead", address=f"127.0.0.1:{closed_port}"))
    with pytest.raises(NoProvidersError, match=r"until its deadline and could not reach dead;"):
        await begin(calls, channel, kind, wait_for_ready=True, timeout=0.3)
    await until(lambda: waiters(pool) == 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_waits_until_its_deadline_at_most(
    kind: str, calls: Any, pool: Any, channel: Any, until: Until
) -> None:
    with pytest.raises(grpc.RpcError, match=r"provider of echo/v1 until its deadline") as caught:
        await begin(calls, channel, kind, wait_for_ready=True, timeout=0.05)
    error: Any = caught.value
    assert isinstance(error, NoProvidersError)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: waiters(pool) == 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["pool", "channel"])
async def test_closing_ends_a_call_that_waits(
    what: str, kind: str, calls: Any, pool: Any, channel: Any, until: Until
) -> None:
    call = begin(calls, channel, kind, wait_for_ready=True, timeout=None)
    await until(lambda: waiters(pool) == 1)
    await calls.close(pool if what == "pool" else channel)
    with pytest.raises(grpc.RpcError, match=f"until its {what} was closed") as caught:
        await asyncio.wait_for(call, WAIT)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.CANCELLED
    with pytest.raises(ClosedError):
        await begin(calls, channel, kind, wait_for_ready=True)
    await until(lambda: waiters(pool) == 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_service_config_may_ask_to_wait(
    kind: str, calls: Any, new_pool: Any, provider: Any, topology: Topology, until: Until
) -> None:
    config = {"methodConfig": [{"name": [{}], "waitForReady": True}]}
    async with new_pool(service_config=config) as pool:
        channel = pool.channel("echo", "v1")
        call = begin(calls, channel, kind)
        await until(lambda: waiters(pool) == 1)
        with pytest.raises(NoProvidersError):
            await begin(calls, channel, kind, wait_for_ready=False)
        topology.add_node(provider.info)
        assert await call == ANSWERS[kind]


async def test_a_timeout_of_the_service_config_limits_the_wait(calls: Any, new_pool: Any) -> None:
    config = {"methodConfig": [{"name": [{}], "waitForReady": True, "timeout": "0.05s"}]}
    async with new_pool(service_config=config) as pool:
        with pytest.raises(grpc.RpcError) as caught:
            await begin(calls, pool.channel("echo", "v1"), "unary", timeout=None)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_many_calls_wait_and_are_balanced(
    calls: Any, pool: Any, channel: Any, start_provider: Start, topology: Topology, until: Until
) -> None:
    if calls.pool_type.__module__.endswith("sync.pool"):
        stub = channel.unary_unary("/t/Who")
        started = [stub.future(b"", timeout=WAIT, wait_for_ready=True) for _ in range(60)]
        assert [t.name for t in threading.enumerate()].count("aegis-waiting") == 1
        answers = [asyncio.to_thread(call.result) for call in started]
    else:
        answers = [
            calls.unary(channel, "/t/Who", wait_for_ready=True, timeout=WAIT) for _ in range(60)
        ]
    tasks = [asyncio.ensure_future(answer) for answer in answers]
    await until(lambda: waiters(pool))
    providers = [start_provider(node_id) for node_id in "ab"]
    together = Topology()
    for one in providers:
        together.add_node(one.info)
    topology.merge(together)
    assert Counter(await asyncio.gather(*tasks)) == {b"a": 30, b"b": 30}
    await until(lambda: "aegis-waiting" not in [t.name for t in threading.enumerate()])


async def test_a_call_waits_until_its_provider_is_allowed(
    calls: Any, new_pool: Any, provider: Any, topology: Topology, until: Until
) -> None:
    allowed: set[str] = set()
    async with new_pool(may_provide=lambda node, *_: node.id in allowed) as pool:
        topology.add_node(provider.info)
        call = begin(calls, pool.channel("echo", "v1"), "unary", wait_for_ready=True)
        await until(lambda: waiters(pool) == 1)
        allowed.add("one")
        pool.reevaluate()
        assert await call == b"hello"


async def test_a_call_waits_again_after_the_last_provider_left(
    calls: Any, pool: Any, channel: Any, provider: Any, topology: Topology, until: Until
) -> None:
    topology.add_node(provider.info)
    assert await calls.who(channel) == "one"
    topology.remove_node("one")
    call = begin(calls, channel, "unary", wait_for_ready=True)
    await until(lambda: waiters(pool) == 1)
    topology.add_node(provider.info)
    assert await call == b"hello"


def start(calls: Any, channel: Any, kind: str) -> Any:
    """Starts a call that waits without a deadline; returns the call of gRPC's API."""
    method = {"unary": "Echo", "stream": "Count", "join": "Join", "chat": "Chat"}[kind]
    make = {
        "unary": channel.unary_unary,
        "stream": channel.unary_stream,
        "join": channel.stream_unary,
        "chat": channel.stream_stream,
    }[kind]
    stub = make(f"/t/{method}")
    if kind in ("unary", "join") and hasattr(stub, "future"):
        stub = stub.future
    request = b"2" if kind in ("unary", "stream") else calls.sent(b"a")
    return stub(request, wait_for_ready=True)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_waiting_call_can_be_cancelled(
    kind: str, calls: Any, pool: Any, channel: Any, until: Until
) -> None:
    call = start(calls, channel, kind)
    await until(lambda: waiters(pool) == 1)
    ended: list[Any] = []
    call.add_done_callback(ended.append)
    assert not call.done()
    assert call.cancel()
    assert await calls.code(call) is grpc.StatusCode.CANCELLED
    assert "until it was cancelled" in await calls.details(call)
    assert call.cancelled()
    assert call.done()
    await until(lambda: ended == [call])
    await until(lambda: waiters(pool) == 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_waiting_call_that_is_dropped_ends(
    kind: str, calls: Any, pool: Any, channel: Any, until: Until
) -> None:
    call = start(calls, channel, kind)
    await until(lambda: waiters(pool) == 1)
    del call
    await until(lambda: waiters(pool) == 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_waiting_call_becomes_the_call_that_it_started(
    kind: str, calls: Any, pool: Any, channel: Any, provider: Any, topology: Topology, until: Until
) -> None:
    call = start(calls, channel, kind)
    await until(lambda: waiters(pool) == 1)
    assert call.time_remaining() is None
    ended: list[Any] = []
    call.add_done_callback(ended.append)
    topology.add_node(provider.info)
    if kind in ("unary", "join"):
        assert await calls.result(call) == {"unary": b"2", "join": b"a"}[kind]
    else:
        assert await calls.collect(call) == {"stream": [b"0", b"1"], "chat": [b"re: a"]}[kind]
    assert await calls.code(call) is grpc.StatusCode.OK
    assert not await calls.details(call)
    assert not dict(await calls.trailing_metadata(call))
    await until(lambda: ended == [call])
    assert call.done()
    assert not call.cancelled()


async def test_a_channel_becomes_ready_with_the_first_provider_that_can_be_reached(
    calls: Any, pool: Any, channel: Any, provider: Any, closed_port: int, topology: Topology,
    until: Until,
) -> None:  # fmt: skip
    ready = asyncio.ensure_future(calls.ready(channel))
    await until(lambda: waiters(pool) == 1)
    topology.add_node(replace(provider.info, id="dead", address=f"127.0.0.1:{closed_port}"))
    await until(lambda: "dead" in repr(channel))
    assert not ready.done()
    topology.add_node(provider.info)
    await ready
    await until(lambda: waiters(pool) == 0)


async def test_closing_a_channel_ends_the_wait_for_its_first_provider(
    calls: Any, pool: Any, channel: Any, until: Until
) -> None:
    if calls.pool_type.__module__.endswith("sync.pool"):
        states: list[Any] = []
        channel.subscribe(states.append, try_to_connect=True)
        await until(lambda: waiters(pool) == 1)
        assert states == [grpc.ChannelConnectivity.TRANSIENT_FAILURE]
        channel.close()
    else:
        assert channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        ready = asyncio.ensure_future(channel.channel_ready())
        await until(lambda: waiters(pool) == 1)
        await channel.close()
        with pytest.raises(ClosedError):
            await ready
    await until(lambda: waiters(pool) == 0)


async def test_a_provider_that_could_not_connect_elsewhere_is_called_once(
    calls: Any, pool: Any, channel: Any, provider: Any, topology: Topology,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def pass_on(status: str, context: grpc.ServicerContext) -> None:
        details = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: no"
        context.abort(grpc.StatusCode.UNAVAILABLE, details)

    monkeypatch.setattr(provider, "fail", pass_on)
    topology.add_node(provider.info)
    with pytest.raises(grpc.RpcError) as caught:
        await calls.unary(channel, "/t/Fail", b"", wait_for_ready=True, timeout=WAIT)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert provider.calls.count("Fail") == 1
