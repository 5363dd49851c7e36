from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_discovery._calls.balancers import LeastRequests
from aegis_discovery._calls.sync.pool import ServiceClientPool
from aegis_discovery._model import NodeInfo, ServiceInfo
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import ClosedError, NoProvidersError
from aegis_discovery.transport._channels import ChannelCache

WAIT = 10.0
ECHO = ServiceInfo("echo", "v1")

Start = Callable[..., Any]


def wait_until(condition: Callable[[], object]) -> None:
    """Waits for what gRPC's threads bring about."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def connections_to(port: int) -> int:
    """Counts the established connections of this machine to a local port."""
    tables = (Path(name).read_text() for name in ("/proc/net/tcp", "/proc/net/tcp6"))
    rows = [row.split() for table in tables for row in table.splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.fixture
def pool(topology: Topology, tls: TLSConfig) -> Iterator[ServiceClientPool]:
    with ServiceClientPool(topology, tls) as pool:
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


def who(channel: grpc.Channel) -> str:
    return str(channel.unary_unary("/t/Who", None, bytes.decode)(b"", timeout=WAIT))


def attempts(providers: list[Any], method: str) -> list[int]:
    return [provider.calls.count(method) for provider in providers]


def test_calls_of_a_balanced_channel_go_to_the_providers_in_turn(
    pool: ServiceClientPool, providers: list[Any]
) -> None:
    channel = pool.channel("echo", "v1")
    assert Counter(who(channel) for _ in range(30)) == {"a": 10, "b": 10, "c": 10}


def test_all_stubs_of_a_service_share_its_turns(
    pool: ServiceClientPool, providers: list[Any]
) -> None:
    turns = [who(pool.channel("echo", "v1")) for _ in range(6)]
    assert Counter(turns) == {"a": 2, "b": 2, "c": 2}


def test_get_conn_gives_the_channels_of_the_providers_in_turn(
    pool: ServiceClientPool, providers: list[Any]
) -> None:
    assert Counter(who(pool.get_conn("echo", "v1")) for _ in range(6)) == {"a": 2, "b": 2, "c": 2}


def test_a_channel_of_get_conn_may_be_closed_and_the_pool_goes_on(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    for _ in range(4):
        with pool.get_conn("echo", "v1") as channel:
            who(channel)
    assert who(pool.channel("echo", "v1")) in {"a", "b"}


def test_a_node_has_one_connection_whatever_services_it_is_called_for(
    topology: Topology, tls: TLSConfig, start_provider: Start
) -> None:
    provider = start_provider("a")
    services = (ECHO, ServiceInfo("other", "v1"))
    topology.add_node(NodeInfo("a", address=provider.address, services=services))
    cache = ChannelCache(tls)
    with ServiceClientPool(topology, tls, channels=cache) as pool:
        for service in services:
            who(pool.channel(service.name, service.version))
            who(pool.get_conn(service.name, service.version))
        assert len(cache) == 1
        assert connections_to(provider.port) == 1
        assert cache.get("a", provider.address) is cache.get("a", provider.address)
    assert who(cache.get("a", provider.address)) == "a", "shared channels outlive the pool"
    cache.close()
    with pytest.raises(ClosedError):
        cache.get("a", provider.address)


def test_shared_channels_bring_their_own_options(topology: Topology, tls: TLSConfig) -> None:
    with pytest.raises(ValueError, match="their own"):
        ServiceClientPool(topology, tls, channels=ChannelCache(tls), options=[("grpc.x", 1)])


def test_the_topology_may_be_that_of_a_node_or_mesh(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    with ServiceClientPool(SimpleNamespace(topology=topology), tls) as pool:
        assert who(pool.channel("echo", "v1")) in {"a", "b"}


def test_the_pool_shows_to_whom_it_has_channels(
    pool: ServiceClientPool, providers: list[Any]
) -> None:
    assert repr(pool) == "<ServiceClientPool channels=[]>"
    channel = pool.channel("echo", "v1")
    for _ in range(3):
        who(channel)
    assert repr(pool) == "<ServiceClientPool channels=[a, b, c]>"
    assert repr(channel) == "<BalancedChannel <echo/v1: a, b, c>>"
    pool.close()
    assert repr(pool) == "<ServiceClientPool channels=[] closed>"


def test_another_node_at_the_address_is_not_believed(
    pool: ServiceClientPool, topology: Topology, start_provider: Start
) -> None:
    impostor = start_provider("mallory")
    topology.add_node(NodeInfo("a", address=impostor.address, services=(ECHO,)))
    with pytest.raises(grpc.RpcError) as caught:
        who(pool.channel("echo", "v1"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert impostor.calls == []


def test_a_provider_killed_under_load_costs_no_call(
    pool: ServiceClientPool, topology: Topology, two: list[Any], killable_provider: Any
) -> None:
    topology.add_node(killable_provider.info)
    channel = pool.channel("echo", "v1")
    answers: Counter[Any] = Counter()
    killed = threading.Event()

    def work() -> None:
        after = 0
        while after < 50:
            after += killed.is_set()
            answers[who(channel)] += 1
            answers[channel.unary_unary("/t/Who").future(b"", timeout=WAIT).result()] += 1
            list(channel.unary_stream("/t/Count")(b"0", timeout=WAIT))

    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(work) for _ in range(4)]
        wait_until(lambda: answers["mortal"] > 20)
        killable_provider.kill()
        killed.set()
        for job in jobs:
            job.result(timeout=WAIT)


@pytest.mark.parametrize("kind", ["blocking", "future", "future-callback", "stream"])
def test_a_call_that_its_provider_did_not_answer_is_made_once_more_elsewhere(
    pool: ServiceClientPool, two: list[Any], kind: str
) -> None:
    channel = pool.channel("echo", "v1")
    for _ in range(2):
        who(channel)
    ended = threading.Semaphore(0)

    def call() -> Any:
        if kind == "blocking":
            return channel.unary_unary("/t/Hang")(b"x", timeout=WAIT)
        if kind == "stream":
            return list(channel.unary_stream("/t/Count")(b"0?", timeout=WAIT))
        future: Any = channel.unary_unary("/t/Hang").future(b"x", timeout=WAIT)
        if kind == "future-callback":
            future.add_done_callback(lambda _: ended.release())
            assert ended.acquire(timeout=WAIT)
        return future.result()

    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(call)
        wait_until(lambda: sum(attempts(two, "Hang") + attempts(two, "Count")) == 1)
        first = next(p for p in two if p.calls[-1] in {"Hang", "Count"})
        second = next(p for p in two if p is not first)
        assert first.hanging.acquire(timeout=WAIT)
        first._server.stop(None)
        assert second.hanging.acquire(timeout=WAIT), "it goes on at the other one"
        second.go_on.set()
        assert job.result(timeout=WAIT) == ([] if kind == "stream" else b"x")


@pytest.mark.parametrize("future", [False, True])
def test_a_further_attempt_has_what_is_left_of_the_deadline(
    pool: ServiceClientPool, two: list[Any], future: bool
) -> None:
    stub: Any = pool.channel("echo", "v1").unary_unary("/t/Late")
    with pytest.raises(grpc.RpcError):
        stub.future(b"", timeout=WAIT).result() if future else stub(b"", timeout=WAIT)
    first, second = sorted((provider.time_left[0] for provider in two), reverse=True)
    assert first <= WAIT
    assert second <= first - 0.1


def test_a_call_is_tried_three_times_at_most(
    pool: ServiceClientPool, topology: Topology, providers: list[Any], start_provider: Start
) -> None:
    fourth = start_provider("d")
    topology.add_node(fourth.info)
    channel = pool.channel("echo", "v1")
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t/Fail")(b"UNAVAILABLE", timeout=WAIT)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "as you wish"
    assert sorted(attempts([*providers, fourth], "Fail")) == [0, 1, 1, 1]


def test_it_is_not_tried_again_at_the_same_provider(
    pool: ServiceClientPool, topology: Topology, start_provider: Start
) -> None:
    provider = start_provider("a")
    topology.add_node(provider.info)
    with pytest.raises(grpc.RpcError):
        pool.channel("echo", "v1").unary_unary("/t/Fail")(b"UNAVAILABLE", timeout=WAIT)
    assert attempts([provider], "Fail") == [1]


def test_other_failures_and_answered_calls_are_not_tried_again(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    channel = pool.channel("echo", "v1")
    for request in (b"INTERNAL", b"DEADLINE_EXCEEDED", b"UNAVAILABLE+"):
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/t/Fail")(request, timeout=WAIT)
    with pytest.raises(grpc.RpcError):
        channel.unary_unary("/t/Fail").future(b"UNAVAILABLE+", timeout=WAIT).result()
    assert sum(attempts(two, "Fail")) == 4
    for request in (b"1!", b"meta0!"):
        with pytest.raises(grpc.RpcError):
            list(channel.unary_stream("/t/Count")(request, timeout=WAIT))
    assert sum(attempts(two, "Count")) == 2


def test_a_stream_that_fails_right_after_its_first_message_is_not_tried_again(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    stub = pool.channel("echo", "v1").unary_stream("/t/Count")
    for _ in range(200):  # the end races with the message on its way to the caller
        call: Any = stub(b"1!", timeout=WAIT)
        assert next(call) == b"0"
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError):
            next(call)
    assert sum(attempts(two, "Count")) == 200


def test_a_stream_whose_metadata_was_seen_is_not_tried_again(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    call: Any = pool.channel("echo", "v1").unary_stream("/t/Count")(b"meta0?", timeout=WAIT)
    assert call.initial_metadata()
    provider = next(p for p in two if p.calls)
    provider.stop()
    with pytest.raises(grpc.RpcError):
        list(call)
    assert sum(attempts(two, "Count")) == 1


def test_streams_of_requests_are_not_tried_again(pool: ServiceClientPool, two: list[Any]) -> None:
    channel = pool.channel("echo", "v1")
    with pytest.raises(grpc.RpcError):
        list(channel.stream_stream("/t/Chat")(iter([b"fail"]), timeout=WAIT))
    assert sum(attempts(two, "Chat")) == 1


def test_without_retry_a_call_is_made_once(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    with ServiceClientPool(topology, tls, retry=False) as pool:
        stub = pool.channel("echo", "v1").unary_unary("/t/Fail")
        with pytest.raises(grpc.RpcError):
            stub(b"UNAVAILABLE", timeout=WAIT)
        with pytest.raises(grpc.RpcError):
            stub.future(b"UNAVAILABLE", timeout=WAIT).result()
    assert sum(attempts(two, "Fail")) == 2


def test_without_retry_for_one_service_the_others_keep_theirs(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    for retry, attempted in ((False, 1), (None, 3), (True, 5)):
        stub = pool.channel("echo", "v1", retry=retry).unary_unary("/t/Fail")
        with pytest.raises(grpc.RpcError):
            stub(b"UNAVAILABLE", timeout=WAIT)
        assert sum(attempts(two, "Fail")) == attempted


def test_a_service_config_sets_retries_timeouts_and_waiting_by_method(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    over = threading.Event()

    def slow() -> Iterator[bytes]:
        over.wait(WAIT)
        yield b""

    aborted = {"maxAttempts": 2, "retryableStatusCodes": ["ABORTED"]}
    config = {
        "methodConfig": [
            {"name": [{"service": "t", "method": "Fail"}], "retryPolicy": aborted},
            {"name": [{"service": "t"}], "timeout": "0.05s"},
        ]
    }
    with ServiceClientPool(topology, tls, service_config=config) as pool:
        channel = pool.channel("echo", "v1")
        for request, attempted in ((b"UNAVAILABLE", 1), (b"ABORTED", 3)):
            with pytest.raises(grpc.RpcError):
                channel.unary_unary("/t/Fail")(request, timeout=WAIT)
            assert sum(attempts(two, "Fail")) == attempted
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/t/Fail").future(b"ABORTED", timeout=WAIT).result()
        assert sum(attempts(two, "Fail")) == 5
        late: list[Callable[[], Any]] = [
            lambda: channel.unary_unary("/t/Hang")(b""),
            lambda: channel.unary_unary("/t/Hang")(b"", timeout=WAIT),
            lambda: channel.unary_unary("/t/Hang").future(b"").result(),
            lambda: list(channel.unary_stream("/t/Count")(b"0?")),
            lambda: channel.stream_unary("/t/Join")(slow()),
            lambda: list(channel.stream_stream("/t/Chat")(slow())),
        ]
        for call in late:
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    over.set()


def test_a_call_that_was_shed_goes_to_another_provider_and_ejects_nobody(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    two[0].sheds = True
    stub = pool.channel("echo", "v1").unary_unary("/t/Load")
    assert {stub(b"", timeout=WAIT) for _ in range(4)} == {b"b"}
    assert {stub.future(b"", timeout=WAIT).result() for _ in range(4)} == {b"b"}
    (service,) = pool.stats().services
    assert service.sheds == service.retries >= 4
    assert [str(endpoint.state) for endpoint in service.endpoints] == ["ready", "ready"]
    two[1].sheds = True
    with pytest.raises(grpc.RpcError) as caught:
        stub(b"", timeout=WAIT)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("waits", [None, True])
def test_retries_stop_where_the_budget_ends(
    pool: ServiceClientPool, two: list[Any], waits: bool | None
) -> None:
    stub = pool.channel("echo", "v1").unary_unary("/t/Fail")
    for _ in range(20):
        with pytest.raises(grpc.RpcError):
            stub(b"UNAVAILABLE", timeout=WAIT, wait_for_ready=waits)
    assert sum(attempts(two, "Fail")) == 20 + 10 + 20 * 0.2
    (service,) = pool.stats().services
    assert (service.picks, service.retries, service.retries_refused) == (34, 14, 6)


def test_a_fault_of_the_caller_itself_is_no_answer(pool: ServiceClientPool, two: list[Any]) -> None:
    def broken(value: object) -> bytes:
        raise ValueError(value)

    channel = pool.channel("echo", "v1")
    assert {who(channel) for _ in range(2)} == {"a", "b"}
    known = pool._registry.connected_endpoints()
    for endpoint in known:
        endpoint.connection_failed(time.monotonic() + 1000)  # no probe brings it back meanwhile
    stub = channel.unary_unary("/t/Who", request_serializer=broken)
    for _ in range(4):
        with pytest.raises(grpc.RpcError, match="Exception serializing"):
            stub(b"", timeout=WAIT)
    assert all(endpoint.excluded for endpoint in known)


def test_a_response_that_cannot_be_read_is_not_asked_for_twice(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    def broken(data: bytes) -> str:
        raise ValueError(data)

    retries = {"maxAttempts": 3, "retryableStatusCodes": ["INTERNAL", "UNAVAILABLE"]}
    config = {"methodConfig": [{"name": [{}], "retryPolicy": retries}]}
    with ServiceClientPool(topology, tls, service_config=config) as pool:
        stub = pool.channel("echo", "v1").unary_unary("/t/Echo", response_deserializer=broken)
        with pytest.raises(grpc.RpcError, match="Exception deserializing"):
            stub(b"", timeout=WAIT)
        with pytest.raises(grpc.RpcError, match="Exception deserializing"):
            stub.future(b"", timeout=WAIT).result()
        assert sum(attempts(two, "Echo")) == 2


def test_a_frozen_provider_is_ejected_and_is_back_when_it_runs_again(
    pool: ServiceClientPool, topology: Topology, two: list[Any], killable_provider: Any
) -> None:
    topology.add_node(killable_provider.info)
    channel = pool.channel("echo", "v1")
    for _ in range(3):
        who(channel)
    killable_provider.freeze()
    waiting: list[Any] = [channel.unary_unary("/t/Who").future(b"") for _ in range(3)]

    def ejected() -> bool:
        channel.unary_unary("/t/Who").future(b"", timeout=WAIT)
        (service,) = pool.stats().services
        return "ejected" in [str(endpoint.state) for endpoint in service.endpoints]

    wait_until(ejected)
    assert {who(channel) for _ in range(20)} == {"a", "b"}, "no call is spent on a probe"
    killable_provider.thaw()
    assert Counter(call.result(timeout=WAIT) for call in waiting) == Counter(
        [b"a", b"b", b"mortal"]
    )
    wait_until(lambda: who(channel) == "mortal")
    assert pool.stats().services[0].ejections == 1


def test_calls_that_time_out_eject_a_frozen_provider(
    pool: ServiceClientPool, topology: Topology, two: list[Any], killable_provider: Any
) -> None:
    topology.add_node(killable_provider.info)
    channel = pool.channel("echo", "v1")
    for _ in range(3):
        who(channel)
    killable_provider.freeze()
    failed = 0
    for _ in range(30):
        call: Any = channel.unary_unary("/t/Who").future(b"", timeout=0.1)
        failed += call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert failed >= 5
    assert {who(channel) for _ in range(20)} == {"a", "b"}
    killable_provider.thaw()
    wait_until(lambda: who(channel) == "mortal")


def test_the_less_busy_provider_is_called_where_that_is_asked_for(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    with ServiceClientPool(topology, tls, balancers={"echo": LeastRequests}) as pool:
        channel = pool.channel("echo", "v1")
        hanging: Any = channel.unary_unary("/t/Hang").future(b"", timeout=WAIT)
        wait_until(lambda: sum(attempts(two, "Hang")) == 1)
        busy = next(provider for provider in two if "Hang" in provider.calls)
        assert busy.node_id not in {who(channel) for _ in range(20)}
        stream: Any = channel.unary_stream("/t/Count")(b"1?", timeout=WAIT)
        next(stream)
        under_way = [e.under_way for e in pool.stats().services[0].endpoints]
        assert under_way == [1, 1], "calls that have ended do not count"
        hanging.cancel()
        stream.cancel()
        wait_until(lambda: {e.under_way for e in pool.stats().services[0].endpoints} == {0})


def test_interceptors_of_the_pool_see_every_attempt(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    seen: list[str] = []

    class Note(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
            seen.append(details.method)
            return go_on(details, request)

    with ServiceClientPool(topology, tls, interceptors=[Note()]) as pool:
        stub = pool.channel("echo", "v1").unary_unary("/t/Fail")
        with pytest.raises(grpc.RpcError):
            stub(b"UNAVAILABLE", timeout=WAIT)
        assert seen == ["/t/Fail"] * 2
        with pytest.raises(grpc.RpcError):
            stub.future(b"UNAVAILABLE", timeout=WAIT).result()
        assert seen == ["/t/Fail"] * 4


def test_what_an_interceptor_raises_reaches_the_caller(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    class NoTokenError(grpc.RpcError):
        pass

    class Raise(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
            raise NoTokenError

    with ServiceClientPool(topology, tls, interceptors=[Raise()]) as pool:
        with pytest.raises(NoTokenError):
            pool.channel("echo", "v1").unary_unary("/t/Echo")(b"", timeout=WAIT)
        (service,) = pool.stats().services
        assert [endpoint.under_way for endpoint in service.endpoints] == [0, 0]
    assert attempts(two, "Echo") == [0, 0]


@pytest.mark.parametrize("retry", [True, False])
def test_what_an_interceptor_returns_in_place_of_a_call_reaches_the_caller(
    topology: Topology, tls: TLSConfig, two: list[Any], retry: bool
) -> None:
    class Louder(grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
        def intercept_unary_stream(self, go_on: Any, details: Any, request: Any) -> Any:
            return (response + b"!" for response in go_on(details, request))

        intercept_stream_stream = intercept_unary_stream

    with ServiceClientPool(topology, tls, interceptors=[Louder()], retry=retry) as pool:
        channel = pool.channel("echo", "v1")
        count: Any = channel.unary_stream("/t/Count")
        assert list(count(b"2", timeout=WAIT)) == [b"0!", b"1!"]
        chat: Any = channel.stream_stream("/t/Chat")
        assert list(chat(iter([b"x"]), timeout=WAIT)) == [b"re: x!"]
        assert [endpoint.under_way for endpoint in pool.stats().services[0].endpoints] == [0, 0]


def test_metadata_that_can_be_read_once_goes_with_every_attempt(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    stub = pool.channel("echo", "v1").unary_unary("/t/Fail")
    with pytest.raises(grpc.RpcError):
        stub(b"UNAVAILABLE", metadata=iter([("who", "me")]), timeout=WAIT)
    assert [provider.metadata[-1]["who"] for provider in two] == ["me", "me"]
    with pytest.raises(grpc.RpcError):
        stub.future(b"UNAVAILABLE", metadata=iter([("who", "you")]), timeout=WAIT).result()
    assert [provider.metadata[-1]["who"] for provider in two] == ["you", "you"]


def test_a_provider_out_of_reach_is_passed_over_until_it_is_back(
    pool: ServiceClientPool, two: list[Any], start_provider: Start
) -> None:
    down, _ = two
    down.stop()
    channel = pool.channel("echo", "v1")
    assert [who(channel) for _ in range(4)] == ["b"] * 4
    assert "unreached" in str(pool._registry.connected_endpoints())
    start_provider("a", port=down.port)
    wait_until(lambda: who(channel) == "a")
    assert Counter(who(channel) for _ in range(10)) == {"a": 5, "b": 5}


def test_a_request_stream_marks_its_provider_as_out_of_reach(
    topology: Topology, tls: TLSConfig, two: list[Any]
) -> None:
    down, _ = two
    down.stop()
    with ServiceClientPool(topology, tls, retry=False) as pool:
        channel = pool.channel("echo", "v1")
        failed = 0
        for _ in range(4):
            try:
                list(channel.stream_stream("/t/Chat")(iter([b"x"]), timeout=WAIT))
            except grpc.RpcError:
                failed += 1
        assert failed == 1
        wait_until(lambda: "unreached" in str(pool._registry.connected_endpoints()))


def test_waiting_for_ready_does_not_wait_for_a_provider_that_is_gone(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    two[0].stop()
    stub = pool.channel("echo", "v1").unary_unary("/t/Who")
    assert [stub(b"", timeout=WAIT, wait_for_ready=True) for _ in range(4)] == [b"b"] * 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_readiness_moves_on_to_a_provider_that_is_there(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    two[0].stop()
    for _ in range(2):
        grpc.channel_ready_future(pool.channel("echo", "v1")).result(timeout=WAIT)


def test_without_providers_a_call_fails_as_calls_do(pool: ServiceClientPool) -> None:
    channel = pool.channel("echo", "v1")
    calls: list[Callable[[], Any]] = [
        lambda: channel.unary_unary("/t/Echo")(b""),
        lambda: channel.unary_unary("/t/Echo").with_call(b""),
        lambda: channel.unary_unary("/t/Echo").future(b"").result(),
        lambda: next(iter(channel.unary_stream("/t/Count")(b"1"))),
        lambda: channel.stream_unary("/t/Join")(iter([])),
        lambda: channel.stream_unary("/t/Join").future(iter([])).result(),
        lambda: next(iter(channel.stream_stream("/t/Chat")(iter([])))),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        error: Any = caught.value
        assert isinstance(error, NoProvidersError)
        assert isinstance(error, grpc.Call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == str(error)
        assert (error.name, error.version, error.known) == ("echo", "v1", 0)
        assert "no live node provides echo/v1 (0 nodes known)" in str(error)
        assert error.initial_metadata() == error.trailing_metadata() == ()
    future: Any = channel.unary_unary("/t/Echo").future(b"")
    told: list[Any] = []
    future.add_done_callback(told.append)
    assert told == [future]
    assert future.done()
    assert not future.cancel()
    assert isinstance(future.exception(), NoProvidersError)
    with pytest.raises(NoProvidersError):
        pool.get_conn("echo", "v1")


def test_a_provider_that_appears_is_called_by_stubs_that_were_there_before(
    pool: ServiceClientPool, topology: Topology, start_provider: Start
) -> None:
    channel = pool.channel("echo", "v1")
    with pytest.raises(NoProvidersError):
        who(channel)
    topology.add_node(start_provider("a").info)
    assert who(channel) == "a"


def test_a_provider_that_leaves_is_disconnected_after_its_calls_have_ended(
    pool: ServiceClientPool, topology: Topology, two: list[Any]
) -> None:
    channel = pool.channel("echo", "v1")
    hang, count = channel.unary_unary("/t/Hang"), channel.unary_stream("/t/Count")
    futures: list[Any] = [hang.future(b"x", timeout=WAIT) for _ in range(2)]
    streams: list[Any] = [count(b"1?", timeout=WAIT) for _ in range(2)]
    assert [next(stream) for stream in streams] == [b"0", b"0"]
    with ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(hang, b"x", WAIT) for _ in range(2)]
        leaving, staying = two
        for provider in two:
            for _ in range(3):
                assert provider.hanging.acquire(timeout=WAIT)
        endpoint = next(e for e in pool._registry.connected_endpoints() if e.node_id == "a")
        dropped = weakref.ref(endpoint)
        del endpoint
        topology.remove_node("a")
        staying.go_on.set()
        assert who(channel) == "b"
        assert connections_to(leaving.port) == 1, "it waits for its calls"
        leaving.go_on.set()
        assert [job.result(timeout=WAIT) for job in jobs] == [b"x", b"x"]
        assert [future.result(timeout=WAIT) for future in futures] == [b"x", b"x"]
        assert [list(stream) for stream in streams] == [[], []]
        del futures, streams
    wait_until(lambda: connections_to(leaving.port) == 0)
    assert dropped() is None
    assert repr(pool) == "<ServiceClientPool channels=[b]>"


def test_a_provider_at_a_new_address_is_called_there(
    pool: ServiceClientPool, topology: Topology, start_provider: Start
) -> None:
    before = start_provider("a")
    topology.add_node(before.info)
    channel = pool.channel("echo", "v1")
    who(channel)
    after = start_provider("a")
    topology.update_node(after.info)
    who(channel)
    assert after.calls == ["Who"]
    wait_until(lambda: connections_to(before.port) == 0)


def test_a_closed_pool_cancels_calls_and_takes_no_more(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    channel = pool.channel("echo", "v1")
    stub = channel.unary_unary("/t/Hang")
    futures: list[Any] = [stub.future(b"", timeout=WAIT) for _ in range(2)]
    streams = [channel.unary_stream("/t/Count")(b"1?", timeout=WAIT) for _ in range(2)]
    pool.close()
    pool.close()
    for call in (*futures, *streams):
        assert call.code() is grpc.StatusCode.CANCELLED
    for refused in (
        lambda: stub(b""),
        lambda: stub.future(b""),
        lambda: channel.stream_stream("/t/Chat")(iter([])),
        lambda: pool.channel("echo", "v1"),
        lambda: pool.get_conn("echo", "v1"),
    ):
        with pytest.raises(ClosedError, match="the pool is closed"):
            refused()


def test_a_closed_channel_takes_no_more_calls_and_the_pool_goes_on(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    with pool.channel("echo", "v1") as channel:
        who(channel)
    with pytest.raises(ClosedError, match="the channel is closed"):
        who(channel)
    assert who(pool.channel("echo", "v1")) in {"a", "b"}


def test_many_threads_share_channels_and_turns(
    pool: ServiceClientPool, providers: list[Any]
) -> None:
    barrier = threading.Barrier(16)

    def work(_: int) -> Counter[str]:
        barrier.wait(WAIT)
        stub = pool.channel("echo", "v1").unary_unary("/t/Who", None, bytes.decode)
        return Counter(stub(b"", timeout=WAIT) for _ in range(30))

    with ThreadPoolExecutor(16) as threads:
        counts = sum(threads.map(work, range(16)), Counter[str]())
    assert counts == {"a": 160, "b": 160, "c": 160}
    assert [connections_to(provider.port) for provider in providers] == [1, 1, 1]


def test_stubs_that_come_and_go_leave_nothing_behind(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    channel = pool.channel("echo", "v1")

    def stub() -> Any:
        made = channel.unary_unary("/t/Echo", lambda text: text.encode(), lambda raw: raw.decode())
        assert made("x", timeout=WAIT) == "x"
        return weakref.ref(made)

    assert [made() for made in [stub() for _ in range(4)]] == [None] * 4
