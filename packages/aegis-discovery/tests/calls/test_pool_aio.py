from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_certs import TLSConfig
from aegis_discovery._calls.aio.pool import ServiceClientPool
from aegis_discovery._calls.balancers import LeastRequests
from aegis_discovery._model import NodeInfo, ServiceInfo
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import ClosedError, EventLoopError, NoProvidersError
from aegis_discovery.transport._aio_channels import ChannelCache

WAIT = 10.0
ECHO = ServiceInfo("echo", "v1")

Start = Callable[..., Any]


async def until(condition: Callable[[], object]) -> None:
    """Waits for what gRPC's threads bring about."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 - sockets of the system tell no event
            await asyncio.sleep(0.005)


async def acquired(semaphore: Any) -> bool:
    return await asyncio.to_thread(semaphore.acquire, timeout=WAIT)


def connections_to(port: int) -> int:
    """Counts the established connections of this machine to a local port."""
    tables = (Path(name).read_text() for name in ("/proc/net/tcp", "/proc/net/tcp6"))
    rows = [row.split() for table in tables for row in table.splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.fixture
async def pool(topology: Topology, tls: TLSConfig) -> AsyncIterator[ServiceClientPool]:
    async with ServiceClientPool(topology, tls) as pool:
        yield pool


@pytest.fixture
def providers(start_provider: Start, topology: Topology) -> list[Any]:
    started = [start_provider(node_id) for node_id in ("a", "b", "c")]
    for provider in started:
        topology.add_node(provider.info)
    return started


@pytest.fixture
def two(start_provider: Start, topology: Topology) -> list[Any]:
    started = [start_provider(node_id) for node_id in ("a", "b")]
    for provider in started:
        topology.add_node(provider.info)
    return started


async def who(channel: grpc.aio.Channel) -> str:
    return str(await channel.unary_unary("/t/Who", None, bytes.decode)(b"", timeout=WAIT))


async def collect(call: Any) -> list[Any]:
    return [message async for message in call]


def attempts(providers: list[Any], method: str) -> list[int]:
    return [provider.calls.count(method) for provider in providers]


async def test_calls_of_a_balanced_channel_go_to_the_providers_in_turn(
    pool: ServiceClientPool, providers: list[Any]
) -> None:
    channel = pool.channel("echo", "v1")
    answers = await asyncio.gather(*(who(channel) for _ in range(30)))
    assert Counter(answers) == {"a": 10, "b": 10, "c": 10}
    assert [connections_to(provider.port) for provider in providers] == [1, 1, 1]


async def test_get_conn_gives_the_channels_of_the_providers_in_turn(
    pool: ServiceClientPool, providers: list[Any]
) -> None:
    answers = []
    for _ in range(6):
        async with pool.get_conn("echo", "v1") as channel:  # closing it does no harm
            answers.append(await who(channel))
    assert Counter(answers) == {"a": 2, "b": 2, "c": 2}


async def test_a_node_has_one_connection_whatever_services_it_is_called_for(
    topology: Topology, tls: TLSConfig, start_provider: Start
) -> None:
    provider = start_provider("a")
    services = (ECHO, ServiceInfo("other", "v1"))
    topology.add_node(NodeInfo("a", address=provider.address, services=services))
    cache = ChannelCache(tls)
    async with ServiceClientPool(topology, tls, channels=cache) as pool:
        for service in services:
            await who(pool.channel(service.name, service.version))
            await who(pool.get_conn(service.name, service.version))
        assert len(cache) == 1
        assert connections_to(provider.port) == 1
        channel = cache.get("a", provider.address)
    assert await who(channel) == "a", "shared channels outlive the pool"
    await cache.close()
    with pytest.raises(ClosedError):
        cache.get("a", provider.address)
    with pytest.raises(ValueError, match="their own"):
        ServiceClientPool(topology, tls, channels=cache, options=[("grpc.x", 1)])


async def test_the_pool_shows_to_whom_it_has_channels(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    async with ServiceClientPool(SimpleNamespace(topology=topology), tls) as pool:
        channel = pool.channel("echo", "v1")
        for _ in two:
            await who(channel)
        assert repr(pool) == "<ServiceClientPool channels=[a, b]>"
        assert repr(channel) == "<BalancedChannel <echo/v1: a, b>>"
    assert repr(pool) == "<ServiceClientPool channels=[] closed>"


async def test_another_node_at_the_address_is_not_believed(
    pool: ServiceClientPool, topology: Topology, start_provider: Start
) -> None:
    impostor = start_provider("mallory")
    topology.add_node(NodeInfo("a", address=impostor.address, services=(ECHO,)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await who(pool.channel("echo", "v1"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert impostor.calls == []


async def test_a_provider_killed_under_load_costs_no_call(
    pool: ServiceClientPool, topology: Topology, two: list[Any], killable_provider: Any
) -> None:
    topology.add_node(killable_provider.info)
    channel = pool.channel("echo", "v1")
    answers: Counter[str] = Counter()
    killed = False

    async def work() -> None:
        after = 0
        while after < 50:
            after += killed
            answers[await who(channel)] += 1
            await collect(channel.unary_stream("/t/Count")(b"0", timeout=WAIT))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(work())
        await until(lambda: answers["mortal"] > 20)
        await asyncio.to_thread(killable_provider.kill)
        killed = True


@pytest.mark.parametrize("kind", ["await", "code", "callback", "iterate", "read"])
async def test_a_call_that_its_provider_did_not_answer_is_made_once_more_elsewhere(
    pool: ServiceClientPool, two: list[Any], kind: str
) -> None:
    channel = pool.channel("echo", "v1")
    for _ in two:
        await who(channel)

    async def outcome() -> Any:
        if kind == "iterate":
            return await collect(channel.unary_stream("/t/Count")(b"0?", timeout=WAIT))
        if kind == "read":
            return await channel.unary_stream("/t/Count")(b"0?", timeout=WAIT).read()
        call: Any = channel.unary_unary("/t/Hang")(b"x", timeout=WAIT)
        if kind == "code":
            return await call.code()
        if kind == "callback":
            told: asyncio.Queue[Any] = asyncio.Queue()
            call.add_done_callback(told.put_nowait)
            assert await told.get() is call
            assert told.empty()
        return await call

    task = asyncio.create_task(outcome())
    await until(lambda: sum(attempts(two, "Hang") + attempts(two, "Count")) == 1)
    first = next(p for p in two if p.calls[-1] in {"Hang", "Count"})
    second = next(p for p in two if p is not first)
    assert await acquired(first.hanging)
    first._server.stop(None)
    assert await acquired(second.hanging), "it goes on at the other one"
    assert not task.done()
    second.go_on.set()
    expected = {
        "iterate": [], "read": grpc.aio.EOF, "code": grpc.StatusCode.OK
    }  # fmt: skip
    assert await task == expected.get(kind, b"x")


async def test_a_further_attempt_has_what_is_left_of_the_deadline(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await pool.channel("echo", "v1").unary_unary("/t/Late")(b"", timeout=WAIT)
    first, second = sorted((provider.time_left[0] for provider in two), reverse=True)
    assert first <= WAIT
    assert second <= first - 0.1


async def test_a_call_is_tried_three_times_at_most(
    pool: ServiceClientPool, topology: Topology, providers: list[Any], start_provider: Start
) -> None:
    fourth = start_provider("d")
    topology.add_node(fourth.info)
    call: Any = pool.channel("echo", "v1").unary_unary("/t/Fail")(b"UNAVAILABLE", timeout=WAIT)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.details() == "as you wish"
    assert sorted(attempts([*providers, fourth], "Fail")) == [0, 1, 1, 1]
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert call.done()


async def test_it_is_not_tried_again_at_the_same_provider(
    pool: ServiceClientPool, topology: Topology, start_provider: Start
) -> None:
    provider = start_provider("a")
    topology.add_node(provider.info)
    with pytest.raises(grpc.aio.AioRpcError):
        await pool.channel("echo", "v1").unary_unary("/t/Fail")(b"UNAVAILABLE", timeout=WAIT)
    assert attempts([provider], "Fail") == [1]


async def test_other_failures_and_answered_calls_are_not_tried_again(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    channel = pool.channel("echo", "v1")
    for request in (b"INTERNAL", b"DEADLINE_EXCEEDED", b"UNAVAILABLE+"):
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/t/Fail")(request, timeout=WAIT)
    assert sum(attempts(two, "Fail")) == 3
    with pytest.raises(grpc.aio.AioRpcError):
        await collect(channel.unary_stream("/t/Count")(b"1!", timeout=WAIT))
    assert sum(attempts(two, "Count")) == 1
    with pytest.raises(grpc.aio.AioRpcError):
        await collect(channel.stream_stream("/t/Chat")(iter([b"fail"]), timeout=WAIT))
    assert sum(attempts(two, "Chat")) == 1


async def test_a_stream_that_fails_right_after_its_first_message_is_not_tried_again(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    stub = pool.channel("echo", "v1").unary_stream("/t/Count")

    async def one(number: int) -> None:
        call: Any = stub(b"1!", timeout=WAIT)
        if number % 2:
            assert await call.read() == b"0"
        else:
            assert await anext(aiter(call)) == b"0"
        assert await call.code() is grpc.StatusCode.UNAVAILABLE

    for _ in range(10):  # the end races with the message on its way to the caller
        await asyncio.gather(*(one(number) for number in range(20)))
    assert sum(attempts(two, "Count")) == 200


async def test_a_stream_whose_metadata_was_seen_is_not_tried_again(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    call: Any = pool.channel("echo", "v1").unary_stream("/t/Count")(b"meta0?", timeout=WAIT)
    assert await call.initial_metadata()
    provider = next(p for p in two if p.calls)
    await asyncio.to_thread(provider._server.stop, None)
    with pytest.raises(grpc.aio.AioRpcError):
        await collect(call)
    assert sum(attempts(two, "Count")) == 1


async def test_a_cancelled_call_is_not_tried_again(pool: ServiceClientPool, two: list[Any]) -> None:
    call: Any = pool.channel("echo", "v1").unary_unary("/t/Hang")(b"", timeout=WAIT)
    await until(lambda: sum(attempts(two, "Hang")) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert sum(attempts(two, "Hang")) == 1


async def test_without_retry_a_call_is_made_once(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    async with ServiceClientPool(topology, tls, retry=False) as pool:
        with pytest.raises(grpc.aio.AioRpcError):
            await pool.channel("echo", "v1").unary_unary("/t/Fail")(b"UNAVAILABLE", timeout=WAIT)
    assert sum(attempts(two, "Fail")) == 1


async def test_a_service_config_sets_retries_and_timeouts_by_method(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    aborted = {"maxAttempts": 2, "retryableStatusCodes": ["ABORTED"]}
    config = {
        "methodConfig": [
            {"name": [{"service": "t", "method": "Fail"}], "retryPolicy": aborted},
            {"name": [{"service": "t"}], "timeout": "0.05s"},
        ]
    }

    async def slow() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with ServiceClientPool(topology, tls, service_config=config) as pool:
        channel = pool.channel("echo", "v1")
        for request, attempted in ((b"UNAVAILABLE", 1), (b"ABORTED", 3)):
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/t/Fail")(request, timeout=WAIT)
            assert sum(attempts(two, "Fail")) == attempted
        late: list[Any] = [
            channel.unary_unary("/t/Hang")(b""),
            channel.unary_unary("/t/Hang")(b"", timeout=WAIT),
            channel.unary_stream("/t/Count")(b"0?"),
            channel.stream_unary("/t/Join")(slow()),
            channel.stream_stream("/t/Chat")(slow()),
        ]
        for call in late:
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_that_was_shed_goes_to_another_provider_and_ejects_nobody(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    two[0].sheds = True
    stub = pool.channel("echo", "v1").unary_unary("/t/Load")
    assert {await stub(b"", timeout=WAIT) for _ in range(8)} == {b"b"}
    (service,) = pool.stats().services
    assert service.sheds == service.retries >= 4
    assert [str(endpoint.state) for endpoint in service.endpoints] == ["ready", "ready"]
    two[1].sheds = True
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(b"", timeout=WAIT)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_retries_stop_where_the_budget_ends(pool: ServiceClientPool, two: list[Any]) -> None:
    stub = pool.channel("echo", "v1").unary_unary("/t/Fail")
    for _ in range(20):
        with pytest.raises(grpc.aio.AioRpcError):
            await stub(b"UNAVAILABLE", timeout=WAIT)
    assert sum(attempts(two, "Fail")) == 20 + 10 + 20 * 0.2


async def test_a_frozen_provider_is_ejected_and_is_back_when_it_runs_again(
    pool: ServiceClientPool, topology: Topology, two: list[Any], killable_provider: Any
) -> None:
    topology.add_node(killable_provider.info)
    channel = pool.channel("echo", "v1")
    for _ in range(3):
        await who(channel)
    killable_provider.freeze()
    stub = channel.unary_unary("/t/Who")
    waiting = [asyncio.ensure_future(_awaited(stub(b""))) for _ in range(3)]
    async with asyncio.timeout(WAIT):
        while "ejected" not in str(pool.stats()):
            call: Any = stub(b"", timeout=WAIT)
            await asyncio.sleep(0.01)
            call.cancel()
    assert {await who(channel) for _ in range(20)} == {"a", "b"}, "no call is spent on a probe"
    killable_provider.thaw()
    assert {await call for call in waiting} == {b"a", b"b", b"mortal"}
    async with asyncio.timeout(WAIT):
        while await who(channel) != "mortal":
            pass
    assert pool.stats().services[0].ejections == 1


async def _awaited(call: Any) -> Any:
    return await call


async def test_callers_who_give_up_early_eject_a_frozen_provider(
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


async def test_a_call_that_has_ended_counts_no_more_though_nobody_waits_for_it(
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


async def test_metadata_that_can_be_read_once_goes_with_every_attempt(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    stub = pool.channel("echo", "v1").unary_unary("/t/Fail")
    with pytest.raises(grpc.aio.AioRpcError):
        await stub(b"UNAVAILABLE", metadata=iter([("who", "me")]), timeout=WAIT)
    assert [provider.metadata[-1]["who"] for provider in two] == ["me", "me"]


async def test_streams_of_requests_are_not_tried_again(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    channel = pool.channel("echo", "v1")

    async def fail() -> AsyncIterator[bytes]:
        yield b"fail"

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(channel.stream_stream("/t/Chat")(fail(), timeout=WAIT))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert sum(attempts(two, "Chat")) == 1


async def test_calls_count_as_under_way_until_they_end_or_are_dropped(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    def under_way(pool: ServiceClientPool) -> list[int]:
        return sorted(endpoint.under_way for endpoint in pool.stats().services[0].endpoints)

    async with ServiceClientPool(topology, tls, balancers={"echo": LeastRequests}) as pool:
        channel = pool.channel("echo", "v1")
        hang, count = channel.unary_unary("/t/Hang"), channel.unary_stream("/t/Count")
        calls: list[Any] = [hang(b"", timeout=WAIT) for _ in range(2)]
        assert under_way(pool) == [1, 1], "the second one goes where the first did not"
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


async def test_interceptors_of_the_pool_see_every_attempt(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    seen: list[str] = []

    class Note(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
            seen.append(bytes(details.method).decode())
            return await go_on(details, request)

    async with ServiceClientPool(topology, tls, interceptors=[Note()]) as pool:
        with pytest.raises(grpc.aio.AioRpcError):
            await pool.channel("echo", "v1").unary_unary("/t/Fail")(b"UNAVAILABLE", timeout=WAIT)
    assert seen == ["/t/Fail"] * 2


async def test_what_looks_whether_a_provider_is_back_passes_by_interceptors(
    topology: Topology, tls: TLSConfig, two: list[Any], start_provider: Start
) -> None:
    class Echoes(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
            assert bytes(details.method).startswith(b"/t/"), "a method that is none of the user's"
            return await go_on(details, request)

    async with ServiceClientPool(topology, tls, interceptors=[Echoes()]) as pool:
        channel = pool.channel("echo", "v1")
        await asyncio.to_thread(two[0].stop)
        assert [await who(channel) for _ in range(4)] == ["b"] * 4
        start_provider("a", port=two[0].port)
        async with asyncio.timeout(WAIT):
            while await who(channel) != "a":
                pass


# gRPC 1.78 stumbles over such calls itself, as it drops them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_what_an_interceptor_raises_reaches_the_caller(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    class Raise(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
            raise LookupError("no token")

    async with ServiceClientPool(topology, tls, interceptors=[Raise()]) as pool:
        with pytest.raises(LookupError, match="no token"):
            await pool.channel("echo", "v1").unary_unary("/t/Echo")(b"", timeout=WAIT)
    assert attempts(two, "Echo") == [0, 0]
    gc.collect()


async def test_a_provider_out_of_reach_is_passed_over_until_it_is_back(
    pool: ServiceClientPool, two: list[Any], start_provider: Start
) -> None:
    down, _ = two
    await asyncio.to_thread(down.stop)
    channel = pool.channel("echo", "v1")
    assert [await who(channel) for _ in range(4)] == ["b"] * 4
    assert "unreached" in str(pool._registry.connected_endpoints())
    start_provider("a", port=down.port)
    async with asyncio.timeout(WAIT):
        while await who(channel) != "a":
            pass
    assert Counter([await who(channel) for _ in range(10)]) == {"a": 5, "b": 5}


async def test_waiting_for_ready_does_not_wait_for_a_provider_that_is_gone(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    await asyncio.to_thread(two[0].stop)
    stub = pool.channel("echo", "v1").unary_unary("/t/Who")
    answers = [await stub(b"", timeout=WAIT, wait_for_ready=True) for _ in range(4)]
    assert answers == [b"b"] * 4


async def test_readiness_moves_on_to_a_provider_that_is_there(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    await asyncio.to_thread(two[0].stop)
    for _ in range(2):
        await asyncio.wait_for(pool.channel("echo", "v1").channel_ready(), WAIT)


async def test_without_providers_a_call_fails_as_calls_do(pool: ServiceClientPool) -> None:
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
        channel.channel_ready(),
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
    told: list[Any] = []
    call.add_done_callback(told.append)
    assert told == [call]
    with pytest.raises(NoProvidersError):
        pool.get_conn("echo", "v1")


async def test_a_provider_that_leaves_is_disconnected_after_its_calls_have_ended(
    pool: ServiceClientPool, topology: Topology, two: list[Any]
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
    assert connections_to(leaving.port) == 1, "it waits for its calls"
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
        gc.collect()  # gRPC's calls hold their callbacks, and these hold the calls
        return connections_to(leaving.port) == 0

    await until(is_disconnected)
    assert repr(pool) == "<ServiceClientPool channels=[b]>"


async def test_a_closed_pool_cancels_calls_and_takes_no_more(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    channel = pool.channel("echo", "v1")
    stub = channel.unary_unary("/t/Hang")
    calls: list[Any] = [stub(b"", timeout=WAIT) for _ in range(2)]
    waiting = [asyncio.ensure_future(call) for call in calls]
    for provider in two:
        assert await acquired(provider.hanging)
    await pool.close()
    await pool.close()
    for call, task in zip(calls, waiting, strict=True):
        assert await call.code() is grpc.StatusCode.CANCELLED
        with pytest.raises(asyncio.CancelledError):
            await task
    for refused in (
        lambda: stub(b""),
        lambda: channel.stream_stream("/t/Chat")(iter([])),
        lambda: pool.channel("echo", "v1"),
        lambda: pool.get_conn("echo", "v1"),
    ):
        with pytest.raises(ClosedError, match="the pool is closed"):
            refused()


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


async def test_a_closed_channel_takes_no_more_calls_and_the_pool_goes_on(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    async with pool.channel("echo", "v1") as channel:
        await who(channel)
    with pytest.raises(ClosedError, match="the channel is closed"):
        await who(channel)
    assert await who(pool.channel("echo", "v1")) in {"a", "b"}


async def test_a_pool_leaves_no_task_behind(
    topology: Topology, tls: TLSConfig, two: list[Any]
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
