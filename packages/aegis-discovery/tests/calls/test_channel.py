"""A balanced channel behaves like a plain one, sync and async: each test runs on both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_certs import TLSConfig
from aegis_discovery._topology.topology import Topology

WAIT = 10.0
MESSAGE = b"a" * 5000


@pytest.fixture(
    params=["plain", "balanced", "balanced-alone", "balanced-no-retry", "intercepted", "borrowed"]
)
async def channel(
    request: pytest.FixtureRequest,
    provider: Any,
    tls: TLSConfig,
    topology: Topology,
    start_provider: Any,
    calls: Any,
    new_pool: Any,
) -> AsyncIterator[Any]:
    if request.param == "plain":
        plain = calls.open_channel(tls, provider.node_id, provider.address)
        async with calls.opened(plain):
            yield plain
        return
    topology.add_node(provider.info)
    if request.param not in {"balanced-alone", "borrowed"}:
        topology.add_node(start_provider("two").info)  # so that calls can be retried
    interceptors = [calls.interceptor([])] if request.param == "intercepted" else ()
    async with new_pool(
        retry=request.param != "balanced-no-retry", interceptors=interceptors
    ) as pool:
        get = pool.get_conn if request.param == "borrowed" else pool.channel
        yield get("echo", "v1")


async def each_kind(calls: Any, channel: Any, message: bytes, **options: Any) -> list[bytes]:
    """Makes one call of each kind and returns the responses."""
    return [
        await calls.unary(channel, "/t/Echo", message, **options),
        *await calls.stream(channel, b"1", **options),
        await calls.join(channel, calls.sent(message), **options),
        *await calls.chat(channel, calls.sent(message), **options),
    ]


def responses_of_each_kind(message: bytes) -> list[bytes]:
    return [message, b"0", message, b"re: " + message]


def pairs(metadata: Any) -> list[tuple[str, Any]]:
    return [tuple(pair) for pair in metadata]


async def test_a_unary_call_returns_the_response(channel: Any, calls: Any) -> None:
    assert await calls.unary(channel, "/t/Echo", b"hello") == b"hello"


async def test_metadata_reaches_the_server(channel: Any, provider: Any, calls: Any) -> None:
    metadata = (("key", "value"), ("raw-bin", b"\x00\x01"))
    for _ in range(2):
        await calls.unary(channel, "/t/Echo", metadata=metadata)
    assert provider.metadata[-1]["key"] == "value"
    assert provider.metadata[-1]["raw-bin"] == b"\x00\x01"


@pytest.mark.parametrize(
    "options",
    [
        {"compression": grpc.Compression.Gzip},
        {"wait_for_ready": True},
        {"wait_for_ready": False},
        {"credentials": grpc.access_token_call_credentials("secret")},
        {"metadata": (("key", "value"),)},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_all_kinds_of_calls_take_all_options(channel: Any, calls: Any, options: Any) -> None:
    for _ in range(2):
        found = await each_kind(calls, channel, MESSAGE, **options)
        assert found == responses_of_each_kind(MESSAGE)


async def test_metadata_of_all_kinds_of_calls_reaches_the_server(
    channel: Any, provider: Any, calls: Any
) -> None:
    metadata = (("key", "value"), ("raw-bin", b"\x00\x01"))
    for _ in range(3):
        await each_kind(calls, channel, b"x", metadata=metadata)
    assert len(provider.metadata) >= 4
    assert all(found["key"] == "value" for found in provider.metadata)
    assert all(found["raw-bin"] == b"\x00\x01" for found in provider.metadata)


async def test_call_credentials_reach_the_server(channel: Any, provider: Any, calls: Any) -> None:
    credentials = grpc.access_token_call_credentials("secret")
    for _ in range(2):
        await calls.unary(channel, "/t/Echo", credentials=credentials)
    assert provider.metadata[-1]["authorization"] == "Bearer secret"


async def test_large_messages_pass(channel: Any, calls: Any) -> None:
    message = b"x" * (3 << 20)
    assert await each_kind(calls, channel, message) == responses_of_each_kind(message)


async def test_a_message_above_the_limit_is_refused(channel: Any, calls: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await calls.unary(channel, "/t/Echo", b"x" * (5 << 20))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_rich_status_reaches_the_caller(channel: Any, calls: Any) -> None:
    for call in (
        calls.unary(channel, "/t/Fail", b"NOT_FOUND"),
        calls.stream(channel, b"0!"),
        calls.chat(channel, calls.sent(b"fail")),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await call
        trailers = pairs(caught.value.trailing_metadata())
        assert ("grpc-status-details-bin", b"\x08\x05") in trailers


async def test_a_deadline_ends_calls_of_all_kinds(channel: Any, calls: Any) -> None:
    for call in (
        calls.unary(channel, "/t/Hang", timeout=0.05),
        calls.unary(channel, "/t/Hang", timeout=0.05),
        calls.stream(channel, b"1?", timeout=0.5),
        calls.join(channel, calls.stalled(), timeout=0.05),
        calls.chat(channel, calls.stalled(), timeout=0.05),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_error_has_status_details_and_metadata(channel: Any, calls: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await calls.unary(channel, "/t/Fail", b"NOT_FOUND")
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "as you wish"
    assert ("raw-bin", b"\x00\xff") in pairs(error.trailing_metadata())
    assert "as you wish" in repr(error)


async def test_a_call_that_fails_after_its_metadata_has_both(channel: Any, calls: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await calls.unary(channel, "/t/Fail", b"UNAVAILABLE+")
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert ("seen", "yes") in pairs(error.initial_metadata())


async def test_an_unknown_method_is_unimplemented(channel: Any, calls: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await calls.unary(channel, "/t/Nothing")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_wait_for_ready_reaches_a_server_that_is_there(channel: Any, calls: Any) -> None:
    for wait in (True, False):
        assert await calls.unary(channel, "/t/Echo", b"x", wait_for_ready=wait) == b"x"


async def test_a_response_stream_is_iterated_to_its_end(channel: Any, calls: Any) -> None:
    call: Any = channel.unary_stream("/t/Count")(b"meta3", timeout=WAIT)
    assert ("first", "1") in pairs(await calls.initial_metadata(call))
    assert await calls.collect(call) == [b"0", b"1", b"2"]
    assert await calls.code(call) is grpc.StatusCode.OK
    assert ("last", "2") in pairs(await calls.trailing_metadata(call))
    assert call.done()
    assert await calls.collect(call) == []


async def test_a_response_stream_that_fails_midway_raises_after_its_messages(
    channel: Any, calls: Any
) -> None:
    for take in (calls.read, calls.iterate):
        call: Any = channel.unary_stream("/t/Count")(b"2!", timeout=WAIT)
        assert [await take(call) for _ in range(2)] == [b"0", b"1"]
        with pytest.raises(grpc.RpcError) as caught:
            await take(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await calls.code(call) is grpc.StatusCode.UNAVAILABLE
        assert await calls.details(call) == "as you wish"


async def test_a_request_stream_gets_its_response(channel: Any, calls: Any) -> None:
    assert await calls.join(channel, calls.sent(b"a", b"b")) == b"a+b"
    assert await calls.join(channel, iter([b"a", b"b"])) == b"a+b"
