"""Behaviour that only the sync pool has."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_discovery._calls.balancers import LeastRequests
from aegis_discovery._calls.sync.pool import ServiceClientPool
from aegis_discovery._model import ServiceInfo
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import NoProvidersError

WAIT = 10.0
ECHO = ServiceInfo("echo", "v1")

Start = Callable[..., Any]


def wait_until(condition: Callable[[], object]) -> None:
    """Waits for something that happens in a thread of gRPC."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


@pytest.fixture
def pool(topology: Topology, tls: TLSConfig) -> Iterator[ServiceClientPool]:
    with ServiceClientPool(topology, tls) as pool:
        yield pool


def who(channel: grpc.Channel) -> str:
    return str(channel.unary_unary("/t/Who", None, bytes.decode)(b"", timeout=WAIT))


def test_a_serializer_error_does_not_count_as_an_answer(
    pool: ServiceClientPool, two: list[Any]
) -> None:
    def broken(value: object) -> bytes:
        raise ValueError(value)

    channel = pool.channel("echo", "v1")
    assert {who(channel) for _ in range(2)} == {"a", "b"}
    known = pool._registry.connected_endpoints()
    for endpoint in known:
        endpoint.connection_failed(time.monotonic() + 1000)  # so late that no probe starts
    stub = channel.unary_unary("/t/Who", request_serializer=broken)
    for _ in range(4):
        with pytest.raises(grpc.RpcError, match="Exception serializing"):
            stub(b"", timeout=WAIT)
    assert all(endpoint.excluded for endpoint in known)


def test_a_response_that_cannot_be_deserialized_is_not_retried(
    topology: Topology, tls: TLSConfig, two: list[Any], attempts: Any
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


def test_least_requests_calls_the_provider_with_fewer_calls_under_way(
    topology: Topology, tls: TLSConfig, two: list[Any], attempts: Any
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
        assert under_way == [1, 1], "ended calls do not count"
        hanging.cancel()
        stream.cancel()
        wait_until(lambda: {e.under_way for e in pool.stats().services[0].endpoints} == {0})


@pytest.mark.parametrize("retry", [True, False])
def test_the_object_that_an_interceptor_returns_instead_of_a_call_reaches_the_caller(
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


def test_a_request_stream_that_cannot_be_sent_marks_its_provider_as_unreached(
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


def test_without_providers_a_call_fails_with_a_grpc_error(pool: ServiceClientPool) -> None:
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
    reported: list[Any] = []
    future.add_done_callback(reported.append)
    assert reported == [future]
    assert future.done()
    assert not future.cancel()
    assert isinstance(future.exception(), NoProvidersError)
    with pytest.raises(NoProvidersError):
        pool.get_conn("echo", "v1")


def test_a_provider_that_left_is_disconnected_after_its_calls_end(
    pool: ServiceClientPool, topology: Topology, two: list[Any], connections_to: Any
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
        assert connections_to(leaving.port) == 1, "the connection stays open for its calls"
        leaving.go_on.set()
        assert [job.result(timeout=WAIT) for job in jobs] == [b"x", b"x"]
        assert [future.result(timeout=WAIT) for future in futures] == [b"x", b"x"]
        assert [list(stream) for stream in streams] == [[], []]
        del futures, streams
    wait_until(lambda: connections_to(leaving.port) == 0)
    assert dropped() is None
    assert repr(pool) == "<ServiceClientPool channels=[b]>"


def test_many_threads_share_channels_and_the_balancer(
    pool: ServiceClientPool, providers: list[Any], connections_to: Any
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


def test_dropped_stubs_are_released(pool: ServiceClientPool, two: list[Any]) -> None:
    channel = pool.channel("echo", "v1")

    def stub() -> Any:
        made = channel.unary_unary("/t/Echo", lambda text: text.encode(), lambda raw: raw.decode())
        assert made("x", timeout=WAIT) == "x"
        return weakref.ref(made)

    assert [made() for made in [stub() for _ in range(4)]] == [None] * 4
