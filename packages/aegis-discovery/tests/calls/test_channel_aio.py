"""What only async channels do; a balanced one behaves like a plain one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_certs import TLSConfig
from aegis_discovery._calls.aio.pool import ServiceClientPool
from aegis_discovery._topology.topology import Topology
from aegis_discovery.transport._aio_channels import open_channel

WAIT = 10.0


class NoteInterceptor(grpc.aio.UnaryUnaryClientInterceptor, grpc.aio.UnaryStreamClientInterceptor):
    """Notes calls and changes nothing."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
        self.seen.append(details.method)
        return await go_on(details, request)

    async def intercept_unary_stream(self, go_on: Any, details: Any, request: Any) -> Any:
        self.seen.append(details.method)
        return await go_on(details, request)


@pytest.fixture(
    params=[
        "plain", "balanced", "balanced-alone", "balanced-no-retry", "balanced-intercepted",
        "borrowed",
    ]
)  # fmt: skip
async def channel(
    request: pytest.FixtureRequest,
    provider: Any,
    tls: TLSConfig,
    topology: Topology,
    start_provider: Callable[..., Any],
) -> AsyncIterator[grpc.aio.Channel]:
    if request.param == "plain":
        async with open_channel(tls, provider.node_id, provider.address) as plain:
            yield plain
        return
    topology.add_node(provider.info)
    if request.param not in {"balanced-alone", "borrowed"}:
        # Another provider, so that calls can be retried.
        topology.add_node(start_provider("two").info)
    async with ServiceClientPool(
        topology,
        tls,
        retry=request.param != "balanced-no-retry",
        interceptors=[NoteInterceptor()] if request.param == "balanced-intercepted" else (),
    ) as pool:
        if request.param == "borrowed":
            yield pool.get_conn("echo", "v1")
        else:
            yield pool.channel("echo", "v1")


@pytest.fixture
def is_intercepted(request: pytest.FixtureRequest) -> bool:
    """gRPC's own intercepted calls do less: no time_remaining, no mixing of styles noticed."""
    return "intercepted" in request.node.callspec.params["channel"]


async def test_serializers_and_registered_methods_work(channel: grpc.aio.Channel) -> None:
    stub = channel.unary_unary(
        "/t/Echo",
        request_serializer=str.encode,
        response_deserializer=bytes.decode,
        _registered_method=True,  # type: ignore[call-arg]  # as generated code does
    )
    assert await stub("hello", timeout=WAIT) == "hello"


async def test_a_call_gives_metadata_and_status(
    channel: grpc.aio.Channel, is_intercepted: bool
) -> None:
    call: Any = channel.unary_unary("/t/Meta")(b"", timeout=WAIT)
    assert isinstance(call, grpc.aio.UnaryUnaryCall)
    assert not call.done()
    assert (await call.initial_metadata())["first"] == "1"
    assert (await call.initial_metadata())["first-bin"] == b"\x01"
    assert (await call.trailing_metadata())["last"] == "2"
    assert await call.code() is grpc.StatusCode.OK
    assert await call.details() == ""
    assert await call.debug_error_string() == ""
    assert await call == b"meta"
    assert await call == b"meta", "a call may be awaited again"
    await call.wait_for_connection()
    assert call.done()
    assert not call.cancelled()
    assert not call.cancel()
    if not is_intercepted:
        assert 0 < call.time_remaining() <= WAIT


async def test_metadata_of_grpc_aio_reaches_the_server(
    channel: grpc.aio.Channel, provider: Any
) -> None:
    stub = channel.unary_unary("/t/Echo")
    for _ in range(2):
        await stub(b"", timeout=WAIT, metadata=(("key", "value"), ("raw-bin", b"\x00\x01")))
        await stub(b"", timeout=WAIT, metadata=grpc.aio.Metadata(("key", "value")))
    assert provider.metadata[-1]["key"] == "value"


async def sent(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def test_a_rich_status_can_be_read_from_the_call(channel: grpc.aio.Channel) -> None:
    calls: list[Any] = [
        channel.unary_unary("/t/Fail")(b"NOT_FOUND", timeout=WAIT),
        channel.unary_stream("/t/Count")(b"0!", timeout=WAIT),
        channel.stream_stream("/t/Chat")(sent(b"fail"), timeout=WAIT),
    ]
    for call in calls:
        trailers = [tuple(pair) for pair in await call.trailing_metadata()]
        assert ("grpc-status-details-bin", b"\x08\x05") in trailers


async def test_a_call_that_sends_a_stream_can_be_cancelled(channel: grpc.aio.Channel) -> None:
    call: Any = channel.stream_unary("/t/Join")(timeout=WAIT)
    await call.write(b"x")
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()


async def test_a_failed_call_has_status_details_and_metadata(channel: grpc.aio.Channel) -> None:
    call: Any = channel.unary_unary("/t/Fail")(b"NOT_FOUND", timeout=WAIT)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "as you wish"
    assert error.trailing_metadata()["raw-bin"] == b"\x00\xff"
    assert await call.code() is grpc.StatusCode.NOT_FOUND
    assert await call.details() == "as you wish"
    assert "as you wish" in await call.debug_error_string()


async def test_the_status_can_be_awaited_without_the_response(channel: grpc.aio.Channel) -> None:
    for status in ("NOT_FOUND", "UNAVAILABLE"):
        call: Any = channel.unary_unary("/t/Fail")(status.encode(), timeout=WAIT)
        assert await call.code() is grpc.StatusCode[status]
        assert call.done()


async def test_callbacks_receive_the_call_when_it_ends(channel: grpc.aio.Channel) -> None:
    call: Any = channel.unary_unary("/t/Echo")(b"x", timeout=WAIT)
    reported: asyncio.Queue[Any] = asyncio.Queue()
    call.add_done_callback(reported.put_nowait)
    assert await asyncio.wait_for(reported.get(), WAIT) is call
    call.add_done_callback(reported.put_nowait)
    assert await asyncio.wait_for(reported.get(), WAIT) is call
    assert await call == b"x"


async def test_cancelling_a_call_ends_it(channel: grpc.aio.Channel) -> None:
    call: Any = channel.unary_unary("/t/Hang")(b"", timeout=WAIT)
    waiting = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert call.cancelled()
    assert await call.code() is grpc.StatusCode.CANCELLED


async def test_cancelling_the_task_that_awaits_cancels_the_call(
    channel: grpc.aio.Channel, provider: Any
) -> None:
    async def one_call(call: Any) -> Any:
        return await call

    calls: list[Any] = [channel.unary_unary("/t/Hang")(b"", timeout=WAIT) for _ in range(2)]
    tasks = [asyncio.create_task(one_call(call)) for call in calls]
    assert await asyncio.to_thread(provider.hanging.acquire, timeout=WAIT)
    for task in tasks:
        task.cancel()
    for task, call in zip(tasks, calls, strict=True):
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.cancelled()
    assert await asyncio.to_thread(provider.ended_hanging.acquire, timeout=WAIT)


async def test_a_call_that_nothing_awaits_is_made(channel: grpc.aio.Channel, provider: Any) -> None:
    for _ in range(2):
        done = asyncio.Event()
        call = channel.unary_unary("/t/Echo")(b"x", timeout=WAIT)
        call.add_done_callback(lambda _, done=done: done.set())
        del call
        gc.collect()
        await asyncio.wait_for(done.wait(), WAIT)
    assert provider.calls


async def test_a_response_stream_is_read_message_by_message(channel: grpc.aio.Channel) -> None:
    call: Any = channel.unary_stream("/t/Count")(b"2", timeout=WAIT)
    assert isinstance(call, grpc.aio.UnaryStreamCall)
    await call.wait_for_connection()
    assert [await call.read() for _ in range(3)] == [b"0", b"1", grpc.aio.EOF]
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_iterating_and_reading_do_not_mix(
    channel: grpc.aio.Channel, is_intercepted: bool
) -> None:
    if is_intercepted:
        pytest.skip("gRPC does not notice it on intercepted calls")
    call: Any = channel.unary_stream("/t/Count")(b"2?", timeout=WAIT)
    aiter(call)
    with pytest.raises(grpc.aio.UsageError):
        await call.read()
    call.cancel()


async def test_a_response_stream_can_be_cancelled(channel: grpc.aio.Channel, provider: Any) -> None:
    stub = channel.unary_stream("/t/Count")
    for _ in range(2):
        call: Any = stub(b"1?", timeout=WAIT)
        assert await call.read() == b"0"
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()
        assert call.cancelled()
    assert await asyncio.to_thread(provider.ended_hanging.acquire, timeout=WAIT)


async def test_cancelling_the_task_that_reads_a_response_stream_cancels_it(
    channel: grpc.aio.Channel, provider: Any
) -> None:
    begun = asyncio.Semaphore(0)

    async def consume() -> None:
        async for _ in channel.unary_stream("/t/Count")(b"1?", timeout=WAIT):
            begun.release()

    tasks = [asyncio.create_task(consume()) for _ in range(2)]
    for _ in tasks:
        await asyncio.wait_for(begun.acquire(), WAIT)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await asyncio.to_thread(provider.ended_hanging.acquire, timeout=WAIT)


async def test_a_request_stream_gets_its_response(channel: grpc.aio.Channel) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    stub = channel.stream_unary("/t/Join")
    assert await stub(requests(), timeout=WAIT) == b"a+b"
    assert await stub(request_iterator=iter([b"a", b"b"]), timeout=WAIT) == b"a+b"
    call: Any = stub(timeout=WAIT)
    assert isinstance(call, grpc.aio.StreamUnaryCall)
    await call.write(b"a")
    await call.write(b"b")
    await call.done_writing()
    assert await call == b"a+b"
    assert await call.code() is grpc.StatusCode.OK


async def test_streams_both_ways_take_turns(channel: grpc.aio.Channel) -> None:
    call: Any = channel.stream_stream("/t/Chat")(timeout=WAIT)
    assert isinstance(call, grpc.aio.StreamStreamCall)
    for number in (b"1", b"2"):
        await call.write(number)
        assert await call.read() == b"re: " + number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    answers = channel.stream_stream("/t/Chat")(iter([b"1", b"2"]), timeout=WAIT)
    assert [answer async for answer in answers] == [b"re: 1", b"re: 2"]


async def test_a_stream_both_ways_can_be_cancelled(channel: grpc.aio.Channel) -> None:
    call: Any = channel.stream_stream("/t/Chat")(timeout=WAIT)
    await call.write(b"1")
    assert await call.read() == b"re: 1"
    assert call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED


async def test_a_caller_can_wait_until_the_channel_is_ready(channel: grpc.aio.Channel) -> None:
    assert channel.get_state() is grpc.ChannelConnectivity.IDLE
    await asyncio.wait_for(channel.channel_ready(), WAIT)
    assert channel.get_state() is grpc.ChannelConnectivity.READY


async def test_a_response_stream_that_is_dropped_is_cancelled(
    channel: grpc.aio.Channel, provider: Any, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["channel"] in {"plain", "borrowed", "balanced-no-retry"}:
        pytest.skip("gRPC 1.85 holds its own calls until they end")
    for _ in range(2):
        call: Any = channel.unary_stream("/t/Count")(b"1?", timeout=WAIT)
        assert await call.read() == b"0"
    del call
    gc.collect()
    assert await asyncio.to_thread(provider.ended_hanging.acquire, timeout=WAIT)
