"""Both ends of a call count it: who called what, how it ended, and how long it took."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import grpc
import pytest
from aegis_core import CallRule, Policy, ServiceInfo
from aegis_discovery import ServiceClientPool
from aegis_discovery.proto import stats_pb2, stats_pb2_grpc
from aegis_discovery.signals import EdgeStats


class Shop:
    """Handlers that end in all ways."""

    def __init__(self, *, is_async: bool) -> None:
        self.is_async = is_async

    def __call__(self, server: Any) -> None:
        handlers = {
            "Get": grpc.unary_unary_rpc_method_handler(self.as_is(self.get)),
            "List": grpc.unary_stream_rpc_method_handler(self.list_),
            "Put": grpc.stream_unary_rpc_method_handler(self.put),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("shop.Shop", handlers),)
        )

    def as_is(self, handler: Any) -> Any:
        if not self.is_async:
            return handler

        async def coroutine(request: bytes, context: Any) -> bytes:
            if request == b"abort":
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
            if request == b"hang":
                await asyncio.Event().wait()
            return handler(request, context)

        return coroutine

    def get(self, request: bytes, context: Any) -> bytes:
        if request == b"abort":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        if request == b"raise":
            raise ValueError("a fault of the handler")
        if request == b"code":
            context.set_code(grpc.StatusCode.DATA_LOSS)
        return request

    def list_(self, request: bytes, context: Any) -> Any:
        yield b"1"
        if request == b"raise":
            raise ValueError("a fault of the handler")
        yield b"2"

    def put(self, requests: Any, context: Any) -> bytes:
        return b"".join(requests)


def codes(edges: tuple[EdgeStats, ...], side: str) -> dict[tuple[str, str, str], dict[str, int]]:
    return {
        (edge.caller, edge.method, edge.provider): dict(edge.codes)
        for edge in edges
        if edge.side == side
    }


def drive(pool: ServiceClientPool) -> None:
    """Makes calls of each kind, and each outcome."""
    channel = pool.channel("shop", "v1")
    get, listed = channel.unary_unary("/shop.Shop/Get"), channel.unary_stream("/shop.Shop/List")
    for request in (b"", b"", b"abort", b"raise", b"code"):
        with contextlib.suppress(grpc.RpcError):
            get(request, timeout=10)
    get.future(b"", timeout=10).result()
    for request in (b"", b"raise"):
        with contextlib.suppress(grpc.RpcError):
            list(listed(request, timeout=10))
    channel.stream_unary("/shop.Shop/Put")(iter([b"1", b"2"]), timeout=10)
    with contextlib.suppress(grpc.RpcError):
        channel.unary_unary("/shop.Shop/Nothing")(b"", timeout=10)
    with contextlib.suppress(grpc.RpcError):
        pool.channel("bank", "v1").unary_unary("/bank.Bank/Pay")(b"", timeout=10)


async def drive_aio(pool: Any) -> None:
    channel = pool.channel("shop", "v1")
    get, listed = channel.unary_unary("/shop.Shop/Get"), channel.unary_stream("/shop.Shop/List")
    for request in (b"", b"", b"abort", b"raise", b"code"):
        with contextlib.suppress(grpc.RpcError):
            await get(request, timeout=10)
    call = get(b"", timeout=10)
    assert await call.code() is grpc.StatusCode.OK
    await call
    for request in (b"", b"raise"):
        with contextlib.suppress(grpc.RpcError):
            async for _ in listed(request, timeout=10):
                pass
    await channel.stream_unary("/shop.Shop/Put")(iter([b"1", b"2"]), timeout=10)
    with contextlib.suppress(grpc.RpcError):
        await channel.unary_unary("/shop.Shop/Nothing")(b"", timeout=10)
    with contextlib.suppress(grpc.RpcError):
        await pool.channel("bank", "v1").unary_unary("/bank.Bank/Pay")(b"", timeout=10)


GET = {"OK": 3, "NOT_FOUND": 1, "UNKNOWN": 1, "DATA_LOSS": 1}
LIST, PUT = {"OK": 1, "UNKNOWN": 1}, {"OK": 1}


@pytest.mark.parametrize("server", ["aio", "blocking", "public"], indirect=True)
@pytest.mark.parametrize("is_async", [False, True])
async def test_both_sides_count_the_same_calls(
    start: Any, identity: Any, server: str, is_async: bool, until: Any
) -> None:
    shop = await start(
        "shop-1", services=[ServiceInfo("shop", "v1")], registrars=[Shop(is_async=is_async)]
    )
    with ServiceClientPool(shop, identity("sync-caller")) as pool:
        await asyncio.to_thread(drive, pool)
        caller = await start("aio-caller", shop)
        await drive_aio(caller.pool)
        expected = {"Get": GET, "List": LIST, "Put": PUT}
        for stats, name in ((pool.stats(), "sync-caller"), (caller.stats().pool, "aio-caller")):
            assert codes(stats.edges, "client") == {
                **{(name, f"shop.Shop/{m}", "shop-1"): found for m, found in expected.items()},
                (name, "shop.Shop/Nothing", "shop-1"): {"UNIMPLEMENTED": 1},
                (name, "bank.Bank/Pay", ""): {"UNAVAILABLE": 1},
            }
    served = {
        **{
            (name, f"shop.Shop/{m}", "shop-1"): found
            for m, found in expected.items()
            for name in ("aio-caller", "sync-caller")
        },
        **{
            (name, "other", "shop-1"): {"UNIMPLEMENTED": 1}
            for name in ("aio-caller", "sync-caller")
        },
    }
    await until(lambda: codes(shop.stats().edges, "server") == served)
    assert {edge.service for edge in shop.stats().edges} == {"shop/v1"}
    assert all(edge.started == edge.seconds.count for edge in shop.stats().edges)


def refuse(answer: object) -> bytes:
    raise TypeError("this is no answer")


async def set_strange_code(request: bytes, context: Any) -> bytes:
    context.set_code(99)
    return request


@pytest.mark.parametrize("server", ["aio"], indirect=True)
async def test_an_answer_that_cannot_be_sent_counts_on_both_sides_as_it_ends(
    start: Any, identity: Any, server: str, until: Any
) -> None:
    async def get(request: bytes, context: Any) -> bytes:
        return request

    handlers = {
        "Serialize": grpc.unary_unary_rpc_method_handler(get, response_serializer=refuse),
        "Code": grpc.unary_unary_rpc_method_handler(set_strange_code),
    }
    services = grpc.method_handlers_generic_handler("shop.Shop", handlers)
    shop = await start(
        "shop-1",
        services=[ServiceInfo("shop", "v1")],
        registrars=[lambda server: server.add_generic_rpc_handlers((services,))],
    )
    caller = await start("caller", shop)
    channel = caller.pool.channel("shop", "v1")
    for method in handlers:
        with pytest.raises(grpc.RpcError) as raised:
            await channel.unary_unary(f"/shop.Shop/{method}")(b"x", timeout=10)
        assert raised.value.code() is grpc.StatusCode.UNKNOWN
    expected = {("caller", f"shop.Shop/{method}", "shop-1"): {"UNKNOWN": 1} for method in handlers}
    await until(lambda: codes(shop.stats().edges, "server") == expected)
    assert codes(caller.stats().edges, "client") == expected
    assert not shop.stats().calls.running


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_denied_and_cancelled_calls_count_and_every_member_may_read_them(
    start: Any, identity: Any, server: str, until: Any
) -> None:
    policy = Policy(call=[CallRule(ids=["good"], services=["shop.Shop"])])
    shop = await start(
        "shop-1",
        services=[ServiceInfo("shop", "v1"), ServiceInfo("other", "v1")],
        registrars=[Shop(is_async=True)],
        policy=policy,
    )
    good, bad = await start("good", shop), await start("bad", shop)
    with contextlib.suppress(grpc.RpcError):
        await bad.pool.channel("shop", "v1").unary_unary("/shop.Shop/Get")(b"", timeout=10)
    await until(lambda: not shop.stats().calls.running)  # the one that was denied has ended
    call = good.pool.channel("shop", "v1").unary_unary("/shop.Shop/Get")(b"hang")
    waiting = asyncio.ensure_future(call)
    await until(lambda: shop.stats().calls.running)
    waiting.cancel()
    served = {
        ("bad", "shop.Shop/Get", "shop-1"): {"PERMISSION_DENIED": 1},
        ("good", "shop.Shop/Get", "shop-1"): {"CANCELLED": 1},
    }
    await until(lambda: codes(shop.stats().edges, "server") == served)
    assert codes(good.stats().edges, "client") == {
        ("good", "shop.Shop/Get", "shop-1"): {"CANCELLED": 1}
    }
    channel = bad.pool.get_conn("shop", "v1")
    answer = await stats_pb2_grpc.IntrospectionStub(channel).GetStats(
        stats_pb2.GetStatsRequest(), timeout=10
    )
    found = json.loads(answer.json)
    assert {(one["caller"], *one["codes"]) for one in found["edges"]} == {
        ("bad", "PERMISSION_DENIED"), ("good", "CANCELLED"),
    }  # fmt: skip
    assert found["edges_left_out"] == 0
    assert {one["service"] for one in found["edges"]} == {""}  # it provides two
