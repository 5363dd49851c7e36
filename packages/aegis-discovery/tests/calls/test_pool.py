"""Behaviour that the sync and the async pool share; each test runs on both."""

from __future__ import annotations

import asyncio
import gc
import math
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_certs import TLSConfig
from aegis_discovery._model import NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery._runtime.edges import OTHER, SWEEP_INTERVAL, EdgeTable
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import ClosedError, NoProvidersError

WAIT = 10.0
ECHO = ServiceInfo("echo", "v1")

Start = Callable[..., Any]
Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
async def pool(new_pool: Any) -> AsyncIterator[Any]:
    async with new_pool() as pool:
        yield pool


@pytest.fixture
def channel(pool: Any) -> Any:
    return pool.channel("echo", "v1")


async def acquired(semaphore: threading.Semaphore) -> bool:
    return await asyncio.to_thread(semaphore.acquire, timeout=WAIT)


async def until_answered_by(node_id: str, calls: Any, channel: Any) -> None:
    async with asyncio.timeout(WAIT):
        while await calls.who(channel) != node_id:
            pass


async def test_calls_of_a_balanced_channel_rotate_over_the_providers(
    channel: Any, providers: list[Any], calls: Any, connections_to: Any
) -> None:
    answers = await asyncio.gather(*(calls.who(channel) for _ in range(30)))
    assert Counter(answers) == {"a": 10, "b": 10, "c": 10}
    assert [connections_to(provider.port) for provider in providers] == [1, 1, 1]


async def test_an_edge_that_had_to_make_room_is_counted_apart_again(
    pool: Any, topology: Topology, provider: Any, calls: Any
) -> None:
    topology.add_node(provider.info)
    now = 0.0
    pool._registry.edges = table = EdgeTable("client", max_edges=2, clock=lambda: now)
    edges = table.of("echo/v1", "/t/Who")
    stub = pool.channel("echo", "v1").unary_unary("/t/Who")
    same_stub = SimpleNamespace(unary_unary=lambda _: stub)
    assert await calls.who(same_stub) == "one"
    edges["b"].rejected(14)
    edges["c"].rejected(14)  # the table is full: a first look notes the counts
    now = SWEEP_INTERVAL
    edges["c"].rejected(14)  # those without a call since then make room
    assert set(edges) == {"c"}
    assert await calls.who(same_stub) == "one"
    assert {edge.provider: edge.started for edge in table.stats("me")} == {
        "one": 1, "c": 1, OTHER: 3,
    }  # fmt: skip


async def test_all_stubs_of_a_service_share_its_balancer(
    pool: Any, providers: list[Any], calls: Any
) -> None:
    answers = [await calls.who(pool.channel("echo", "v1")) for _ in range(6)]
    assert Counter(answers) == {"a": 2, "b": 2, "c": 2}


async def test_get_conn_returns_the_channels_of_the_providers_in_turn_and_they_may_be_closed(
    pool: Any, channel: Any, providers: list[Any], calls: Any
) -> None:
    answers = []
    for _ in range(6):
        async with calls.opened(pool.get_conn("echo", "v1")) as borrowed:
            answers.append(await calls.who(borrowed))
    assert Counter(answers) == {"a": 2, "b": 2, "c": 2}
    assert await calls.who(channel) in {"a", "b", "c"}


async def test_a_node_has_one_connection_for_all_its_services(
    topology: Topology,
    tls: TLSConfig,
    start_provider: Start,
    new_pool: Any,
    calls: Any,
    connections_to: Any,
) -> None:
    provider = start_provider("a")
    services = (ECHO, ServiceInfo("other", "v1"))
    topology.add_node(NodeInfo("a", address=provider.address, services=services))
    cache = calls.cache_type(tls)
    async with new_pool(channels=cache) as pool:
        for service in services:
            await calls.who(pool.channel(service.name, service.version))
            await calls.who(pool.get_conn(service.name, service.version))
        assert len(cache) == 1
        assert connections_to(provider.port) == 1
        assert cache.get("a", provider.address) is cache.get("a", provider.address)
        shared = cache.get("a", provider.address)
    assert await calls.who(shared) == "a", "shared channels outlive the pool"
    await calls.close(cache)
    with pytest.raises(ClosedError):
        cache.get("a", provider.address)


async def test_shared_channels_bring_their_own_options(
    topology: Topology, tls: TLSConfig, calls: Any
) -> None:
    for shared in (calls.cache_type(tls), calls.cache_type(tls)):
        with pytest.raises(ValueError, match="their own"):
            calls.pool_type(topology, tls, channels=shared, options=[("grpc.x", 1)])
        await calls.close(shared)


async def test_the_source_may_be_a_node_or_mesh(
    topology: Topology, two: list[Any], new_pool: Any, calls: Any
) -> None:
    async with new_pool(SimpleNamespace(topology=topology)) as pool:
        assert await calls.who(pool.channel("echo", "v1")) in {"a", "b"}


async def test_a_pool_shows_its_connected_providers(
    pool: Any, channel: Any, providers: list[Any], calls: Any
) -> None:
    assert repr(pool) == "<ServiceClientPool channels=[]>"
    for _ in providers:
        await calls.who(channel)
    assert repr(pool) == "<ServiceClientPool channels=[a, b, c]>"
    assert repr(channel) == "<BalancedChannel <echo/v1: a, b, c>>"
    await calls.close(pool)
    assert repr(pool) == "<ServiceClientPool channels=[] closed>"


async def test_another_node_at_the_address_is_refused(
    channel: Any, topology: Topology, start_provider: Start, calls: Any
) -> None:
    impostor = start_provider("mallory")
    topology.add_node(NodeInfo("a", address=impostor.address, services=(ECHO,)))
    with pytest.raises(grpc.RpcError) as caught:
        await calls.who(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert impostor.calls == []


async def test_no_call_fails_when_a_provider_is_killed_under_load(
    channel: Any,
    topology: Topology,
    two: list[Any],
    killable_provider: Any,
    calls: Any,
    until: Until,
) -> None:
    topology.add_node(killable_provider.info)
    answers: Counter[str] = Counter()
    killed = False

    async def work() -> None:
        after = 0
        while after < 50:
            after += killed
            answers[await calls.who(channel)] += 1
            await calls.stream(channel, b"0")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(work())
        await until(lambda: answers["mortal"] > 20)
        await asyncio.to_thread(killable_provider.kill)
        killed = True


async def test_a_call_goes_on_at_a_provider_whose_connection_was_never_opened(
    channel: Any, two: list[Any], calls: Any
) -> None:
    first = await calls.who(channel)
    gone, other = sorted(two, key=lambda provider: provider.node_id != first)
    gone.stop()
    assert {await calls.who(channel) for _ in range(3)} == {other.node_id}


async def test_a_provider_that_failed_and_is_back_at_its_port_is_called_at_once(
    pool: Any, topology: Topology, start_provider: Start, calls: Any, until: Until
) -> None:
    provider = start_provider("a")
    topology.add_node(provider.info)
    channel = pool.channel("echo", "v1")
    assert await calls.who(channel) == "a"
    provider.stop()
    held = [weakref.ref(one.channel) for one in pool._registry.connected_endpoints()]

    def is_probed() -> bool:
        [endpoint] = pool._registry.connected_endpoints()
        return bool(endpoint.excluded and endpoint.probe_at == math.inf)

    # gRPC connects again and again, with longer and longer pauses, as long as a probe waits.
    failed_until = time.monotonic() + 0.5
    while time.monotonic() < failed_until or not is_probed():
        with pytest.raises(grpc.RpcError):
            await calls.who(channel)
        await asyncio.sleep(0.02)  # in a real program, the caller's next request
    record = topology.get_record("a")
    assert record is not None
    topology.set_status("a", record.stamp, NodeStatus.FAILED)
    with pytest.raises(NoProvidersError):
        await calls.who(channel)
    gc.collect()  # the errors of futures
    async with asyncio.timeout(5):  # half of the time for which a probe waits
        await until(lambda: held[0]() is None)
    start_provider("a", int(provider.address.rpartition(":")[2]))
    topology.set_status("a", record.stamp, NodeStatus.ALIVE)
    assert await calls.who(channel) == "a"


@pytest.mark.parametrize("use", ["result", "code", "callback", "stream", "read"])
async def test_an_unanswered_call_is_retried_at_another_provider(
    channel: Any, two: list[Any], use: str, calls: Any, attempts: Any, until: Until
) -> None:
    for _ in two:
        await calls.who(channel)

    async def outcome() -> Any:
        if use == "result":
            return await calls.unary(channel, "/t/Hang", b"x")
        if use == "stream":
            return await calls.stream(channel, b"0?")
        if use == "read":
            return await calls.read(channel.unary_stream("/t/Count")(b"0?", timeout=WAIT))
        call = calls.start(channel, "/t/Hang", b"x")
        if use == "code":
            return await calls.code(call)
        reported: list[Any] = []
        call.add_done_callback(reported.append)
        await until(lambda: reported)
        assert reported == [call]
        return await calls.result(call)

    task = asyncio.create_task(outcome())
    await until(lambda: sum(attempts(two, "Hang") + attempts(two, "Count")) == 1)
    first = next(p for p in two if p.calls[-1] in {"Hang", "Count"})
    second = next(p for p in two if p is not first)
    assert await acquired(first.hanging)
    first._server.stop(None)
    assert await acquired(second.hanging), "the retry goes to the other provider"
    assert not task.done()
    second.go_on.set()
    expected = {"stream": [], "read": grpc.aio.EOF, "code": grpc.StatusCode.OK}
    assert await task == expected.get(use, b"x")


async def test_a_retry_has_what_is_left_of_the_deadline(
    channel: Any, two: list[Any], calls: Any
) -> None:
    with pytest.raises(grpc.RpcError):
        await calls.unary(channel, "/t/Late")
    first, second = sorted((provider.time_left[0] for provider in two), reverse=True)
    assert first <= WAIT
    assert second <= first - 0.1


async def test_a_call_has_three_attempts_at_most(
    channel: Any,
    topology: Topology,
    providers: list[Any],
    start_provider: Start,
    calls: Any,
    attempts: Any,
) -> None:
    fourth = start_provider("d")
    topology.add_node(fourth.info)
    with pytest.raises(grpc.RpcError) as caught:
        await calls.unary(channel, "/t/Fail", b"UNAVAILABLE")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "as you wish"
    assert sorted(attempts([*providers, fourth], "Fail")) == [0, 1, 1, 1]
    call = calls.start(channel, "/t/Fail", b"UNAVAILABLE")
    assert await calls.code(call) is grpc.StatusCode.UNAVAILABLE
    assert await calls.details(call) == "as you wish"
    assert call.done()
    assert sum(attempts([*providers, fourth], "Fail")) == 6


async def test_a_call_is_not_retried_at_the_same_provider(
    channel: Any, topology: Topology, start_provider: Start, calls: Any, attempts: Any
) -> None:
    provider = start_provider("a")
    topology.add_node(provider.info)
    with pytest.raises(grpc.RpcError):
        await calls.unary(channel, "/t/Fail", b"UNAVAILABLE")
    assert attempts([provider], "Fail") == [1]


async def test_other_failures_and_answered_calls_are_not_retried(
    channel: Any, two: list[Any], calls: Any, attempts: Any
) -> None:
    for request in (b"INTERNAL", b"DEADLINE_EXCEEDED", b"UNAVAILABLE+"):
        with pytest.raises(grpc.RpcError):
            await calls.unary(channel, "/t/Fail", request)
    assert sum(attempts(two, "Fail")) == 3
    for number, request in enumerate(calls.answered_streams, 1):
        with pytest.raises(grpc.RpcError):
            await calls.stream(channel, request)
        assert sum(attempts(two, "Count")) == number


async def test_streams_of_requests_are_not_retried(
    channel: Any, two: list[Any], calls: Any, attempts: Any
) -> None:
    for number, requests in enumerate((calls.sent(b"fail"), iter([b"fail"])), 1):
        with pytest.raises(grpc.RpcError) as caught:
            await calls.chat(channel, requests)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert sum(attempts(two, "Chat")) == number


async def test_a_stream_that_fails_right_after_its_first_message_is_not_retried(
    channel: Any, two: list[Any], calls: Any, attempts: Any
) -> None:
    stub = channel.unary_stream("/t/Count")

    async def one(number: int) -> None:
        call = stub(b"1!", timeout=WAIT)
        take = calls.read if number % 2 else calls.iterate
        assert await take(call) == b"0"
        assert await calls.code(call) is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError):
            await take(call)

    for _ in range(10):  # the end of the stream races with the message on its way to the caller
        await asyncio.gather(*(one(number) for number in range(20)))
    assert sum(attempts(two, "Count")) == 200


async def test_a_stream_whose_metadata_was_read_is_not_retried(
    channel: Any, two: list[Any], calls: Any, attempts: Any
) -> None:
    call = channel.unary_stream("/t/Count")(b"meta0?", timeout=WAIT)
    assert await calls.initial_metadata(call)
    provider = next(p for p in two if p.calls)
    await asyncio.to_thread(provider.stop)
    with pytest.raises(grpc.RpcError):
        await calls.read(call)
    assert sum(attempts(two, "Count")) == 1


async def test_without_retry_a_call_has_one_attempt(
    new_pool: Any, two: list[Any], calls: Any, attempts: Any
) -> None:
    async with new_pool(retry=False) as pool:
        with pytest.raises(grpc.RpcError):
            await calls.unary(pool.channel("echo", "v1"), "/t/Fail", b"UNAVAILABLE")
    assert sum(attempts(two, "Fail")) == 1


async def test_a_channel_may_turn_retries_off_and_on_for_itself(
    pool: Any, two: list[Any], calls: Any, attempts: Any
) -> None:
    for retry, attempted in ((False, 1), (None, 3), (True, 5)):
        with pytest.raises(grpc.RpcError):
            await calls.unary(pool.channel("echo", "v1", retry=retry), "/t/Fail", b"UNAVAILABLE")
        assert sum(attempts(two, "Fail")) == attempted


async def test_a_service_config_sets_retries_and_timeouts_by_method(
    new_pool: Any, two: list[Any], calls: Any, attempts: Any
) -> None:
    aborted = {"maxAttempts": 2, "retryableStatusCodes": ["ABORTED"]}
    config = {
        "methodConfig": [
            {"name": [{"service": "t", "method": "Fail"}], "retryPolicy": aborted},
            {"name": [{"service": "t"}], "timeout": "0.05s"},
        ]
    }
    async with new_pool(service_config=config) as pool:
        channel = pool.channel("echo", "v1")
        for request, attempted in ((b"UNAVAILABLE", 1), (b"ABORTED", 3)):
            with pytest.raises(grpc.RpcError):
                await calls.unary(channel, "/t/Fail", request)
            assert sum(attempts(two, "Fail")) == attempted
        for late in (
            calls.unary(channel, "/t/Hang", timeout=None),
            calls.unary(channel, "/t/Hang"),
            calls.stream(channel, b"0?", timeout=None),
            calls.join(channel, calls.stalled(), timeout=None),
            calls.chat(channel, calls.stalled(), timeout=None),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                await late
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_shed_call_is_retried_at_another_provider_and_ejects_none(
    pool: Any, channel: Any, two: list[Any], calls: Any
) -> None:
    two[0].sheds = True
    assert {await calls.unary(channel, "/t/Load") for _ in range(8)} == {b"b"}
    (service,) = pool.stats().services
    assert service.sheds == service.retries >= 4
    assert [str(endpoint.state) for endpoint in service.endpoints] == ["ready", "ready"]
    two[1].sheds = True
    with pytest.raises(grpc.RpcError) as caught:
        await calls.unary(channel, "/t/Load")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("waits", [None, True])
async def test_retries_stop_when_the_budget_is_spent(
    pool: Any, channel: Any, two: list[Any], waits: bool | None, calls: Any, attempts: Any
) -> None:
    for _ in range(20):
        with pytest.raises(grpc.RpcError):
            await calls.unary(channel, "/t/Fail", b"UNAVAILABLE", wait_for_ready=waits)
    assert sum(attempts(two, "Fail")) == 20 + 10 + 20 * 0.2
    (service,) = pool.stats().services
    assert (service.picks, service.retries, service.retries_refused) == (34, 14, 6)


async def test_a_frozen_provider_is_ejected_and_is_used_again_when_it_runs(
    pool: Any, channel: Any, topology: Topology, two: list[Any], killable_provider: Any, calls: Any
) -> None:
    topology.add_node(killable_provider.info)
    await until_answered_by("mortal", calls, channel)
    killable_provider.freeze()
    waiting = [
        asyncio.create_task(calls.result(calls.start(channel, "/t/Who", timeout=None)))
        for _ in range(3)
    ]
    # A provider whose answers were slow, as on a busy machine, may be silent four times as long.
    async with asyncio.timeout(4 * WAIT):
        while "ejected" not in str(pool.stats()):
            call = calls.start(channel, "/t/Who")
            await asyncio.sleep(0.01)
            call.cancel()
    answers = {await calls.who(channel) for _ in range(20)}
    assert answers == {"a", "b"}, "the pool does not use calls as probes"
    killable_provider.thaw()
    assert {await call for call in waiting} == {b"a", b"b", b"mortal"}
    await until_answered_by("mortal", calls, channel)
    assert pool.stats().services[0].ejections == 1


async def test_interceptors_of_the_pool_see_every_attempt(
    new_pool: Any, two: list[Any], calls: Any
) -> None:
    seen: list[str] = []
    async with new_pool(interceptors=[calls.interceptor(seen)]) as pool:
        with pytest.raises(grpc.RpcError):
            await calls.unary(pool.channel("echo", "v1"), "/t/Fail", b"UNAVAILABLE")
    assert seen == ["/t/Fail"] * 2


# gRPC 1.78 fails on such calls itself when it drops them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_error_of_an_interceptor_reaches_the_caller(
    new_pool: Any, two: list[Any], calls: Any, attempts: Any
) -> None:
    interceptor = calls.interceptor([], calls.InterceptorError("no token"))
    async with new_pool(interceptors=[interceptor]) as pool:
        with pytest.raises(calls.InterceptorError, match="no token"):
            await calls.unary(pool.channel("echo", "v1"), "/t/Echo")
        (service,) = pool.stats().services
        assert [endpoint.under_way for endpoint in service.endpoints] == [0, 0]
    assert attempts(two, "Echo") == [0, 0]


async def test_metadata_from_an_iterator_is_sent_with_every_attempt(
    channel: Any, two: list[Any], calls: Any
) -> None:
    with pytest.raises(grpc.RpcError):
        await calls.unary(channel, "/t/Fail", b"UNAVAILABLE", metadata=iter([("who", "me")]))
    assert [provider.metadata[-1]["who"] for provider in two] == ["me", "me"]


async def test_an_unreachable_provider_is_skipped_until_it_is_back(
    pool: Any, channel: Any, two: list[Any], start_provider: Start, calls: Any
) -> None:
    down, _ = two
    await asyncio.to_thread(down.stop)
    assert [await calls.who(channel) for _ in range(4)] == ["b"] * 4
    assert "unreached" in str(pool._registry.connected_endpoints())
    start_provider("a", port=down.port)
    await until_answered_by("a", calls, channel)
    assert Counter([await calls.who(channel) for _ in range(10)]) == {"a": 5, "b": 5}


async def test_waiting_for_ready_does_not_wait_for_a_provider_that_left(
    channel: Any, two: list[Any], calls: Any
) -> None:
    await asyncio.to_thread(two[0].stop)
    answers = [await calls.unary(channel, "/t/Who", wait_for_ready=True) for _ in range(4)]
    assert answers == [b"b"] * 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_channel_becomes_ready_with_a_provider_that_is_reachable(
    pool: Any, two: list[Any], calls: Any
) -> None:
    await asyncio.to_thread(two[0].stop)
    for _ in two:
        await calls.ready(pool.channel("echo", "v1"))


async def test_no_call_waits_for_a_new_provider_that_does_not_answer_yet(
    channel: Any, topology: Topology, start_provider: Start, calls: Any
) -> None:
    topology.add_node(start_provider("a").info)
    assert await calls.who(channel) == "a"
    with socket.create_server(("127.0.0.1", 0)) as starting:
        port = starting.getsockname()[1]
        topology.add_node(NodeInfo("b", address=f"127.0.0.1:{port}", services=(ECHO,)))
        assert {await calls.who(channel) for _ in range(20)} == {"a"}
    topology.update_node(start_provider("b").info)
    await until_answered_by("b", calls, channel)


async def test_names_that_nothing_provides_or_uses_are_forgotten(
    pool: Any, calls: Any, until: Until
) -> None:
    for number in range(20):
        with pytest.raises(NoProvidersError):
            await calls.who(pool.channel(f"no-{number}", "v1"))
    # Threads may hold their last call until they do something else.
    await until(lambda: gc.collect() >= 0 and not pool.stats().services)


async def test_a_new_provider_is_called_by_earlier_stubs(
    channel: Any, topology: Topology, start_provider: Start, calls: Any
) -> None:
    with pytest.raises(NoProvidersError):
        await calls.who(channel)
    topology.add_node(start_provider("a").info)
    assert await calls.who(channel) == "a"


async def test_a_provider_with_a_new_address_is_called_there(
    channel: Any,
    topology: Topology,
    start_provider: Start,
    calls: Any,
    connections_to: Any,
    until: Until,
) -> None:
    before = start_provider("a")
    topology.add_node(before.info)
    await calls.who(channel)
    after = start_provider("a")
    topology.update_node(after.info)
    await calls.who(channel)
    assert after.calls == ["Who"]
    await until(lambda: connections_to(before.port) == 0)


async def test_a_closed_pool_cancels_calls_and_refuses_new_ones(
    pool: Any, channel: Any, two: list[Any], calls: Any
) -> None:
    stub = channel.unary_unary("/t/Hang")
    hanging = [calls.start(channel, "/t/Hang") for _ in two]
    streams = [channel.unary_stream("/t/Count")(b"1?", timeout=WAIT) for _ in two]
    results = [asyncio.create_task(calls.result(call)) for call in hanging]
    for provider in (*two, *two):
        assert await acquired(provider.hanging)
    await calls.close(pool)
    await calls.close(pool)
    for call in (*hanging, *(streams if calls.unread_streams_are_cancelled else ())):
        assert await calls.code(call) is grpc.StatusCode.CANCELLED
    for result in results:
        with pytest.raises(calls.cancelled_error):
            await result
    for refused in (
        lambda: stub(b""),
        lambda: calls.start(channel, "/t/Hang"),
        lambda: channel.stream_stream("/t/Chat")(iter([])),
        lambda: pool.channel("echo", "v1"),
        lambda: pool.get_conn("echo", "v1"),
    ):
        with pytest.raises(ClosedError, match="the pool is closed"):
            refused()


async def test_a_closed_channel_refuses_calls_and_the_pool_stays_open(
    pool: Any, two: list[Any], calls: Any
) -> None:
    async with calls.opened(pool.channel("echo", "v1")) as channel:
        await calls.who(channel)
    with pytest.raises(ClosedError, match="the channel is closed"):
        await calls.who(channel)
    assert await calls.who(pool.channel("echo", "v1")) in {"a", "b"}


async def test_a_call_of_a_version_that_nobody_provides_names_those_that_exist(
    pool: Any, topology: Topology, providers: list[Any], calls: Any
) -> None:
    with pytest.raises(NoProvidersError, match=r"provides echo/V1, but echo/v1 exists;") as caught:
        await calls.who(pool.channel("echo", "V1"))
    assert caught.value.versions == ("v1",)
    services = tuple(ServiceInfo("many", f"v{number}") for number in range(8))
    topology.add_node(NodeInfo("a", services=services))
    with pytest.raises(NoProvidersError, match=r"many/v3, many/v4, \.\.\. exist; call one of them"):
        await calls.who(pool.channel("many", "v9"))
    with pytest.raises(NoProvidersError, match="nodes known"):
        await calls.who(pool.channel("other", "v1"))
