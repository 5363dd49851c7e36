"""Calls without a task of gRPC behave as gRPC's own calls do."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_certs import TLSConfig
from aegis_discovery._calls.aio.pool import ServiceClientPool
from aegis_discovery._topology.topology import Topology
from aegis_discovery.transport import _grpc_internals
from aegis_discovery.transport._aio_channels import open_channel

WAIT = 10.0
ATTEMPTS = 50
"""Until two answers arrive within one turn of the event loop, as most do."""

Until = Callable[[Callable[[], object]], Any]


@pytest.fixture
def forgets() -> Iterator[None]:
    """Makes gRPC be looked at again, before and after a test."""
    _grpc_internals._has_expected_api.cache_clear()
    _grpc_internals._behaves.clear()
    yield
    _grpc_internals._has_expected_api.cache_clear()
    _grpc_internals._behaves.clear()


@pytest.fixture
async def pool(provider: Any, tls: TLSConfig, topology: Topology) -> AsyncIterator[Any]:
    topology.add_node(provider.info)
    async with ServiceClientPool(topology, tls) as pool:
        yield pool


@pytest.fixture(params=["direct", "gRPC's", "plain"])
async def channel(
    request: pytest.FixtureRequest,
    pool: Any,
    provider: Any,
    tls: TLSConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[grpc.aio.Channel]:
    if request.param == "plain":
        async with open_channel(tls, provider.node_id, provider.address) as plain:
            yield plain
        return
    if request.param == "gRPC's":
        monkeypatch.setattr(_grpc_internals, "_has_expected_api", lambda: False)
    yield pool.channel("echo", "v1")


def endpoint_of(pool: Any) -> Any:
    (endpoint,) = pool._registry.connected_endpoints()
    return endpoint


async def test_a_pool_makes_direct_calls(pool: Any) -> None:
    call: Any = pool.channel("echo", "v1").unary_unary("/t/Echo")(b"x", timeout=WAIT)
    assert type(call._call) is _grpc_internals.DirectCall
    assert await call == b"x"


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (_grpc_internals.cygrpc._AioCall, "unary_unary"),
        (_grpc_internals.cygrpc.AioChannel, "call"),
        (_grpc_internals._call, "_create_rpc_error"),
        (_grpc_internals._common, "deserialize"),
    ],
)
@pytest.mark.usefixtures("forgets")
async def test_another_grpc_makes_its_own_calls(
    pool: Any, monkeypatch: pytest.MonkeyPatch, of: Any, name: str
) -> None:
    def other(what: Any) -> Any: ...

    if isinstance(of, type):  # of C, so it cannot be changed
        changed = type(of.__name__, (), {**vars(of), name: other})
        monkeypatch.setattr(_grpc_internals.cygrpc, of.__name__, changed)
    else:
        monkeypatch.setattr(of, name, other)
    assert not _grpc_internals._has_expected_api()
    monkeypatch.undo()
    monkeypatch.setattr(_grpc_internals, "_has_expected_api", lambda: False)
    call: Any = pool.channel("echo", "v1").unary_unary("/t/Echo")(b"x", timeout=WAIT)
    assert type(call._call) is not _grpc_internals.DirectCall
    assert await call == b"x"


@pytest.mark.usefixtures("forgets")
async def test_another_way_to_wait_is_noticed(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop whose futures are not asyncio's, for one."""
    monkeypatch.setattr(_grpc_internals, "_WITH_HANDLE", "other")
    monkeypatch.setattr(_grpc_internals, "_MAKES_CALL", "other")
    monkeypatch.setattr(_grpc_internals, "_has_expected_api", lambda: True)
    call: Any = pool.channel("echo", "v1").unary_unary("/t/Echo")(b"x", timeout=WAIT)
    assert type(call._call) is not _grpc_internals.DirectCall
    assert await call == b"x"


async def test_an_answer_that_nobody_awaits_ends_the_call(
    channel: grpc.aio.Channel, pool: Any, until: Until, request: pytest.FixtureRequest
) -> None:
    call = channel.unary_unary("/t/Echo")(b"x", timeout=WAIT)
    await until(call.done)
    if "plain" not in request.node.name:
        assert endpoint_of(pool).under_way == 0
    assert await call == b"x"
    assert await call == b"x"


async def test_a_call_that_is_dropped_still_reaches_its_provider(
    channel: grpc.aio.Channel, provider: Any, until: Until
) -> None:
    channel.unary_unary("/t/Echo")(b"x", timeout=WAIT)
    gc.collect()
    await until(lambda: "Echo" in provider.calls)


async def test_who_stops_to_wait_cancels_the_call(
    channel: grpc.aio.Channel, provider: Any, pool: Any, request: pytest.FixtureRequest
) -> None:
    call: Any = channel.unary_unary("/t/Hang")(b"x", timeout=WAIT)

    async def wait() -> Any:
        return await call

    first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
    assert await asyncio.to_thread(provider.hanging.acquire, timeout=WAIT)
    first.cancel("why")
    for task in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert call.cancelled()
    assert call.done()
    assert await call.code() is grpc.StatusCode.CANCELLED
    assert await call.details() == "Locally cancelled by application!"
    assert await asyncio.to_thread(provider.ended_hanging.acquire, timeout=WAIT)
    if "plain" not in request.node.name:
        assert endpoint_of(pool).under_way == 0


async def test_a_call_that_was_cancelled_cannot_be_awaited(
    channel: grpc.aio.Channel, provider: Any
) -> None:
    call: Any = channel.unary_unary("/t/Hang")(b"x", timeout=WAIT)
    ended: list[Any] = []
    call.add_done_callback(ended.append)
    assert await asyncio.to_thread(provider.hanging.acquire, timeout=WAIT)
    assert call.cancel()
    assert not call.cancel()
    assert ended == [call]
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(asyncio.CancelledError):
        await call.wait_for_connection()
    call.add_done_callback(ended.append)
    assert ended == [call, call]


async def test_a_call_that_is_cancelled_when_its_answer_arrives_stays_cancelled(
    channel: grpc.aio.Channel, provider: Any, pool: Any, request: pytest.FixtureRequest
) -> None:
    stub, is_direct = channel.unary_unary("/t/Hang"), "direct" in request.node.name
    arrived: list[bool] = []
    for _ in range(ATTEMPTS):
        provider.go_on.clear()
        calls: list[Any] = [stub(b"x", timeout=WAIT) for _ in range(2)]
        ended: list[Any] = []

        def cancel_other(call: Any, calls: list[Any] = calls, ended: list[Any] = ended) -> None:
            ended.append(call)
            (other,) = [one for one in calls if one is not call]
            if len(ended) == 1:
                arrived.append(answer_is_here(other))
            other.cancel()

        for call in calls:
            call.add_done_callback(cancel_other)
        for _ in calls:
            assert await asyncio.to_thread(provider.hanging.acquire, timeout=WAIT)
        provider.go_on.set()
        for _ in calls:  # the loop has no turn until both answers were sent
            assert provider.ended_hanging.acquire(timeout=WAIT)
        await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), WAIT)
        first, second = ended  # each one once
        assert await first == b"x"
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await second.code() is grpc.StatusCode.CANCELLED
        if "plain" not in request.node.name:
            assert endpoint_of(pool).under_way == 0
        if arrived[-1] or not is_direct:
            break
    assert arrived[-1] or not is_direct


def answer_is_here(call: Any) -> bool:
    """Tells whether a direct call has an answer that it has not taken yet."""
    direct = getattr(call, "_call", None)
    batch = direct._batch if type(direct) is _grpc_internals.DirectCall else None
    return batch is not None and batch.done()


async def test_a_timeout_of_asyncio_ends_a_call(channel: grpc.aio.Channel, provider: Any) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(channel.unary_unary("/t/Hang")(b"x", timeout=WAIT), 0.2)
    assert await asyncio.to_thread(provider.ended_hanging.acquire, timeout=WAIT)


async def test_a_deadline_ends_a_call(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/t/Hang")(b"x", timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caught.value.details() == "Deadline Exceeded"


async def test_an_error_has_all_that_a_provider_sent(channel: grpc.aio.Channel) -> None:
    call: Any = channel.unary_unary("/t/Fail")(b"NOT_FOUND+", timeout=WAIT)
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        error = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "as you wish")
        assert error.initial_metadata() == grpc.aio.Metadata(("seen", "yes"))
        assert error.trailing_metadata()["raw-bin"] == b"\x00\xff"
        assert "as you wish" in error.debug_error_string()
    with pytest.raises(grpc.aio.AioRpcError):
        await call.wait_for_connection()
    assert (await call.trailing_metadata())["why"] == "asked"
    assert await call.initial_metadata() == grpc.aio.Metadata(("seen", "yes"))


async def test_a_compressed_call_with_metadata_arrives(
    channel: grpc.aio.Channel, provider: Any
) -> None:
    stub = channel.unary_unary("/t/Echo")
    sent = (("k", "v"), ("k-bin", b"\x00"))
    answer = await stub(b"x" * 999, timeout=WAIT, metadata=sent, compression=grpc.Compression.Gzip)
    assert answer == b"x" * 999
    assert provider.metadata[-1].items() >= dict(sent).items()


def broken(_: Any) -> Any:
    raise ValueError("broken")


@pytest.mark.parametrize(
    ("functions", "request_", "metadata"),
    [
        ({"request_serializer": broken}, b"x", None),
        ({"request_serializer": lambda _: "text"}, b"x", None),
        ({}, 5, None),
        ({}, b"x", (("NOT allowed", "x"),)),
        ({}, b"x", (("k", 5),)),
        ({"response_deserializer": broken}, b"x", None),
    ],
    ids=["serializer", "no bytes", "number", "key", "value", "deserializer"],
)
async def test_what_cannot_be_sent_or_read_ends_as_it_does_in_grpc(
    functions: Any, request_: Any, metadata: Any, channel: Any, provider: Any, tls: TLSConfig
) -> None:
    async def outcome(stub: Any) -> Any:
        try:
            return await stub(request_, timeout=WAIT, metadata=metadata)
        except Exception as error:  # noqa: BLE001 - whatever it is, both are to raise it
            return type(error), getattr(error, "code", str)()

    async with open_channel(tls, provider.node_id, provider.address) as plain:
        expected = await outcome(plain.unary_unary("/t/Echo", **functions))
    assert await outcome(channel.unary_unary("/t/Echo", **functions)) == expected


async def test_a_closed_pool_cancels_its_calls(
    channel: grpc.aio.Channel, pool: Any, provider: Any, request: pytest.FixtureRequest
) -> None:
    call: Any = channel.unary_unary("/t/Hang")(b"x", timeout=WAIT)
    assert await asyncio.to_thread(provider.hanging.acquire, timeout=WAIT)
    await (channel if "plain" in request.node.name else pool).close()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(provider.ended_hanging.acquire, timeout=WAIT)


async def test_a_pool_that_closes_waits_for_its_calls_up_to_the_grace(
    channel: grpc.aio.Channel, pool: Any, provider: Any, request: pytest.FixtureRequest
) -> None:
    calls = [channel.unary_unary("/t/Hang")(b"x", timeout=WAIT) for _ in range(2)]
    for _ in calls:
        assert await asyncio.to_thread(provider.hanging.acquire, timeout=WAIT)
    closed = channel if "plain" in request.node.name else pool
    closing = asyncio.create_task(closed.close(grace=WAIT))
    await asyncio.sleep(0)
    provider.go_on.set()
    assert [await call for call in calls] == [b"x", b"x"]
    await asyncio.wait_for(closing, WAIT)


async def test_a_pool_that_closes_cancels_calls_after_the_grace(
    channel: grpc.aio.Channel, pool: Any, provider: Any, request: pytest.FixtureRequest
) -> None:
    call = channel.unary_unary("/t/Hang")(b"x", timeout=WAIT)
    assert await asyncio.to_thread(provider.hanging.acquire, timeout=WAIT)
    closed = channel if "plain" in request.node.name else pool
    await asyncio.wait_for(closed.close(grace=0.1), WAIT)
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_calls_leave_nothing_for_the_garbage_collector(pool: Any) -> None:
    stub = pool.channel("echo", "v1").unary_unary("/t/Echo")
    await stub(b"x", timeout=WAIT)
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            await stub(b"x", timeout=WAIT)
        await asyncio.sleep(0)
        found = sum(type(one) is _grpc_internals.DirectCall for one in gc.get_objects())
    finally:
        gc.enable()
    assert found <= 1
    assert not _grpc_internals._calls_of[endpoint_of(pool).channel]
