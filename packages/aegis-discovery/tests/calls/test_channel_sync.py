"""What only sync channels do; a balanced one behaves like a plain one."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_discovery._calls.sync.pool import ServiceClientPool
from aegis_discovery._topology.topology import Topology
from aegis_discovery.transport._channels import open_channel

WAIT = 10.0


@pytest.fixture(params=["plain", "balanced", "balanced-alone", "balanced-no-retry", "borrowed"])
def channel(
    request: pytest.FixtureRequest, provider: Any, tls: TLSConfig, topology: Topology
) -> Iterator[grpc.Channel]:
    if request.param == "plain":
        with open_channel(tls, provider.node_id, provider.address) as plain:
            yield plain
        return
    topology.add_node(provider.info)
    if request.param in {"balanced", "balanced-no-retry"}:
        # Another provider, so that calls can be retried.
        start = request.getfixturevalue("start_provider")
        topology.add_node(start("two").info)
    with ServiceClientPool(topology, tls, retry=request.param != "balanced-no-retry") as pool:
        if request.param == "borrowed":
            yield pool.get_conn("echo", "v1")
        else:
            yield pool.channel("echo", "v1")


def slow_requests(*requests: bytes, hold: threading.Event | None = None) -> Iterator[bytes]:
    yield from requests
    if hold is not None:
        hold.wait(WAIT)


def test_serializers_and_registered_methods_work(channel: grpc.Channel) -> None:
    stub = channel.unary_unary(
        "/t/Echo",
        request_serializer=str.encode,
        response_deserializer=bytes.decode,
        _registered_method=True,  # type: ignore[call-arg]  # as generated code does
    )
    assert stub("hello", timeout=WAIT) == "hello"


def test_with_call_gives_metadata_and_status(channel: grpc.Channel) -> None:
    response, call = channel.unary_unary("/t/Meta").with_call(b"", timeout=WAIT)
    assert response == b"meta"
    assert call.code() is grpc.StatusCode.OK
    assert ("first", "1") in [tuple(pair) for pair in call.initial_metadata()]
    assert ("first-bin", b"\x01") in [tuple(pair) for pair in call.initial_metadata()]
    assert ("last", "2") in [tuple(pair) for pair in call.trailing_metadata()]


@pytest.mark.parametrize(
    "options",
    [
        {"compression": grpc.Compression.Gzip},
        {"wait_for_ready": True},
        {"wait_for_ready": False},
        {"credentials": grpc.access_token_call_credentials("secret")},
        {"metadata": (("key", "value"), ("raw-bin", b"\x00\x01"))},
    ],
    ids=lambda options: next(iter(options)),
)
def test_with_call_takes_all_options(channel: grpc.Channel, provider: Any, options: Any) -> None:
    message = b"a" * 5000
    for _ in range(2):
        echo, join = channel.unary_unary("/t/Echo"), channel.stream_unary("/t/Join")
        assert echo.with_call(message, timeout=WAIT, **options)[0] == message
        assert join.with_call(iter([message]), timeout=WAIT, **options)[0] == message
    for key, value in options.get("metadata", ()):
        assert all(found[key] == value for found in provider.metadata)


def test_a_call_that_sends_a_stream_can_be_cancelled(channel: grpc.Channel) -> None:
    hold = threading.Event()
    future: Any = channel.stream_unary("/t/Join").future(slow_requests(hold=hold), timeout=WAIT)
    assert future.cancel()
    assert future.cancelled()
    assert future.code() is grpc.StatusCode.CANCELLED
    hold.set()


def test_a_request_that_cannot_be_serialized_is_internal(channel: grpc.Channel) -> None:
    def serialize(_: Any) -> bytes:
        raise ValueError("no")

    for make in ("unary_unary", "unary_stream"):
        with pytest.raises(grpc.RpcError) as caught:
            getattr(channel, make)("/t/Echo", request_serializer=serialize)(b"", timeout=WAIT)
        assert caught.value.code() is grpc.StatusCode.INTERNAL


def test_a_future_gives_result_status_and_callbacks(channel: grpc.Channel) -> None:
    future: Any = channel.unary_unary("/t/Meta").future(b"", timeout=WAIT)
    assert isinstance(future, grpc.Future)
    assert isinstance(future, grpc.Call)
    reported: list[Any] = []
    both_reported = threading.Semaphore(0)
    future.add_done_callback(lambda call: (reported.append(call), both_reported.release()))
    future.add_callback(both_reported.release)
    assert future.result(timeout=WAIT) == b"meta"
    assert future.exception() is None
    assert future.traceback() is None
    assert future.code() is grpc.StatusCode.OK
    assert future.details() == ""
    assert future.done()
    assert not future.running()
    assert not future.is_active()
    assert not future.cancelled()
    assert not future.cancel()
    assert future.time_remaining() is not None
    assert both_reported.acquire(timeout=WAIT)
    assert reported == [future]
    assert not future.add_callback(lambda: None)
    future.add_done_callback(reported.append)
    assert reported == [future, future], "a late callback is called at once"


def test_a_failed_future_raises_and_returns_its_error(channel: grpc.Channel) -> None:
    future: Any = channel.unary_unary("/t/Fail").future(b"ABORTED", timeout=WAIT)
    with pytest.raises(grpc.RpcError) as caught:
        future.result()
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert future.exception().code() is grpc.StatusCode.ABORTED
    assert future.traceback() is not None
    assert future.code() is grpc.StatusCode.ABORTED
    assert "as you wish" in future.debug_error_string()


def test_a_future_can_be_cancelled_and_times_out(channel: grpc.Channel) -> None:
    future: Any = channel.unary_unary("/t/Hang").future(b"", timeout=WAIT)
    assert future.running()
    assert future.is_active()
    with pytest.raises(grpc.FutureTimeoutError):
        future.result(timeout=0.01)
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(grpc.FutureCancelledError):
        future.result()
    with pytest.raises(grpc.FutureCancelledError):
        future.exception()
    assert future.code() is grpc.StatusCode.CANCELLED


def test_a_response_stream_can_be_cancelled(channel: grpc.Channel) -> None:
    call: Any = channel.unary_stream("/t/Count")(b"1?", timeout=WAIT)
    assert next(call) == b"0"
    assert call.is_active()
    assert call.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.CANCELLED


def test_a_response_stream_that_is_dropped_is_cancelled(
    channel: grpc.Channel, provider: Any
) -> None:
    stub = channel.unary_stream("/t/Count")
    for call in (stub(b"1?", timeout=WAIT), stub(b"1?", timeout=WAIT)):
        assert next(iter(call)) == b"0"
    del call
    gc.collect()
    assert provider.ended_hanging.acquire(timeout=WAIT)


def test_a_request_stream_gets_its_response(channel: grpc.Channel) -> None:
    stub = channel.stream_unary("/t/Join")
    assert stub(iter([b"a", b"b"]), timeout=WAIT) == b"a+b"
    response, call = stub.with_call(iter([b"a", b"b"]), timeout=WAIT)
    assert (response, call.code()) == (b"a+b", grpc.StatusCode.OK)
    future: Any = stub.future(request_iterator=iter([b"a", b"b"]), timeout=WAIT)
    assert future.result(timeout=WAIT) == b"a+b"


def test_streams_both_ways_take_turns(channel: grpc.Channel) -> None:
    more = threading.Event()
    call: Any = channel.stream_stream("/t/Chat")(slow_requests(b"1", b"2", hold=more), timeout=WAIT)
    assert list(itertools.islice(call, 2)) == [b"re: 1", b"re: 2"]
    assert call.is_active()
    more.set()
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def test_a_stream_both_ways_can_be_cancelled(channel: grpc.Channel) -> None:
    hold = threading.Event()
    call: Any = channel.stream_stream("/t/Chat")(slow_requests(b"1", hold=hold), timeout=WAIT)
    assert next(call) == b"re: 1"
    assert call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    hold.set()


def test_an_interceptor_of_the_user_wraps_the_channel(channel: grpc.Channel) -> None:
    seen: list[str] = []

    class Note(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
        def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
            seen.append(details.method)
            return go_on(details, request)

        def intercept_unary_stream(self, go_on: Any, details: Any, request: Any) -> Any:
            seen.append(details.method)
            return go_on(details, request)

    wrapped = grpc.intercept_channel(channel, Note())
    assert wrapped.unary_unary("/t/Echo")(b"x", timeout=WAIT) == b"x"
    assert wrapped.unary_unary("/t/Echo").future(b"y", timeout=WAIT).result() == b"y"
    assert list(wrapped.unary_stream("/t/Count")(b"2", timeout=WAIT)) == [b"0", b"1"]
    assert seen == ["/t/Echo", "/t/Echo", "/t/Count"]
    with pytest.raises(grpc.RpcError) as caught:
        wrapped.unary_unary("/t/Fail")(b"NOT_FOUND", timeout=WAIT)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_caller_can_wait_until_the_channel_is_ready(channel: grpc.Channel) -> None:
    # gRPC's thread raises if the channel is closed soon after, as it is here.
    grpc.channel_ready_future(channel).result(timeout=WAIT)


@pytest.mark.parametrize("borrowed", [False, True])
async def test_closing_a_pool_ends_the_watches_of_its_channels_without_a_traceback(
    borrowed: bool,
    topology: Topology,
    tls: TLSConfig,
    two: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    until: Any,
) -> None:
    failed: list[Any] = []
    before = set(threading.enumerate())
    monkeypatch.setattr(threading, "excepthook", failed.append)
    for _ in range(3):
        with ServiceClientPool(topology, tls) as pool:
            channel = pool.get_conn("echo", "v1") if borrowed else pool.channel("echo", "v1")
            grpc.channel_ready_future(channel).result(timeout=WAIT)
            channel.subscribe(lambda _: None, try_to_connect=True)
            channel.subscribe(id, try_to_connect=True)
    await until(lambda: set(threading.enumerate()) <= before)
    assert failed == []
