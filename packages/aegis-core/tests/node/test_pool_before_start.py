"""A node's pool hands out channels before the node runs, on both faces of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_certs import TLSConfig
from aegis_core import AddressInUseError, Node, NodeStateError, ServiceInfo, aio
from aegis_discovery import ClosedError, NoProvidersError, PoolOptions, PoolStats
from aegis_discovery.policy import Policy

MakeIdentity = Callable[[str], TLSConfig]

STOCK, CART = ServiceInfo("stock", "v1"), ServiceInfo("cart", "v1")


def serve(name: str, handler: Any) -> Callable[[Any], None]:
    """Returns a registrar of a service with one method, `Get`."""

    def register(server: Any) -> None:
        method = grpc.unary_unary_rpc_method_handler(handler)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(f"shop.{name}", {"Get": method}),)
        )

    return register


class Cart:
    """A provider that calls others; it takes its channel when it is made."""

    def __init__(self, stock: grpc.Channel) -> None:
        self._get_stock = stock.unary_unary("/shop.Stock/Get")

    def get(self, request: bytes, context: grpc.ServicerContext) -> Any:
        return b"cart of " + self._get_stock(request, timeout=10)


class AsyncCart(Cart):
    async def get(self, request: bytes, context: Any) -> bytes:
        return b"cart of " + await self._get_stock(request, timeout=10)


def options(identity: MakeIdentity, node_id: str, **more: Any) -> dict[str, Any]:
    return {"address": "127.0.0.1:0", "tls": identity(node_id), "grace": 0, **more}


@pytest.mark.parametrize("pool_options", [None, PoolOptions(options=[("grpc.dummy", 1)])])
def test_a_registrar_may_take_a_channel_of_its_node(
    identity: MakeIdentity, pool_options: PoolOptions | None
) -> None:
    stock = Node(
        "stock",
        services=[STOCK],
        registrars=[serve("Stock", lambda request, _: b"stock " + request)],
        **options(identity, "stock"),
    )
    with stock:
        cart: Node = Node(
            "cart",
            services=[CART],
            registrars=[
                lambda server: serve("Cart", Cart(cart.pool.channel("stock", "v1")).get)(server)
            ],
            seed_peers=[stock.address],
            pool_options=pool_options,
            **options(identity, "cart"),
        )
        with cart:
            get = cart.pool.channel("cart", "v1").unary_unary("/shop.Cart/Get")
            assert get(b"7", timeout=10) == b"cart of stock 7"
            assert cart.stats().pool.services


@pytest.mark.parametrize("pool_options", [None, PoolOptions(options=[("grpc.dummy", 1)])])
async def test_an_async_servicer_may_take_a_channel_before_the_node_is_started(
    identity: MakeIdentity, pool_options: PoolOptions | None
) -> None:
    handlers: list[Any] = []
    stock = aio.Node(
        "stock",
        services=[STOCK],
        registrars=[serve("Stock", lambda request, _: b"stock " + request)],
        **options(identity, "stock"),
    )
    async with stock:
        node = aio.Node(
            "cart",
            services=[CART],
            registrars=[lambda server: serve("Cart", handlers[0])(server)],
            seed_peers=[stock.address],
            pool_options=pool_options,
            **options(identity, "cart"),
        )
        handlers.append(AsyncCart(node.pool.channel("stock", "v1")).get)
        async with node:
            get = node.pool.channel("cart", "v1").unary_unary("/shop.Cart/Get")
            assert await get(b"7", timeout=10) == b"cart of stock 7"


def test_a_call_before_the_start_waits_or_fails(identity: MakeIdentity) -> None:
    node = Node("cart", services=[CART], **options(identity, "cart"))
    check = node.pool.channel("cart", "v1").unary_unary("/grpc.health.v1.Health/Check")
    with pytest.raises(NoProvidersError, match=r"0 nodes known.*wait_for_ready=True"):
        check(b"", timeout=10)
    waiting: Any = check.future(b"", timeout=60, wait_for_ready=True)
    with node:
        waiting.result()
        check(b"", timeout=10)
    with pytest.raises(ClosedError):
        check(b"", timeout=10)


async def test_an_async_call_before_the_start_waits_or_fails(identity: MakeIdentity) -> None:
    node = aio.Node("cart", services=[CART], **options(identity, "cart"))
    check: Any = node.pool.channel("cart", "v1").unary_unary("/grpc.health.v1.Health/Check")
    with pytest.raises(NoProvidersError, match=r"0 nodes known.*wait_for_ready=True"):
        await check(b"", timeout=10)
    waiting = asyncio.ensure_future(check(b"", timeout=60, wait_for_ready=True).code())
    async with node:
        assert await waiting is grpc.StatusCode.OK
        await check(b"", timeout=10)
    with pytest.raises(ClosedError):
        await check(b"", timeout=10)


def test_a_start_that_fails_ends_the_calls_that_wait(identity: MakeIdentity) -> None:
    with Node("other", **options(identity, "other")) as other:
        taken = {**options(identity, "cart"), "address": other.address}
        node = Node("cart", services=[CART], **taken)
        check = node.pool.channel("cart", "v1").unary_unary("/grpc.health.v1.Health/Check")
        waiting: Any = check.future(b"", wait_for_ready=True)
        with pytest.raises(AddressInUseError):
            node.start()
        assert waiting.code() is grpc.StatusCode.CANCELLED


async def test_an_async_start_that_fails_ends_the_calls_that_wait(
    identity: MakeIdentity,
) -> None:
    node = aio.Node("cart", address="127.0.0.1:0", tls=identity("other"), grace=0)
    check: Any = node.pool.channel("cart", "v1").unary_unary("/grpc.health.v1.Health/Check")
    waiting = check(b"", wait_for_ready=True)
    with pytest.raises(Exception, match="the certificate is other's"):
        await node.start()
    assert await waiting.code() is grpc.StatusCode.CANCELLED


def test_the_policy_holds_for_a_pool_from_before_the_start(identity: MakeIdentity) -> None:
    node = Node("cart", services=[CART], policy=Policy(), **options(identity, "cart"))
    check = node.pool.channel("cart", "v1").unary_unary("/grpc.health.v1.Health/Check")
    with node, pytest.raises(NoProvidersError):
        check(b"", timeout=10)


def test_the_pool_of_a_node_that_stopped_is_not_made_anew(identity: MakeIdentity) -> None:
    node = Node("cart", **options(identity, "cart"))
    with node:
        pass
    with pytest.raises(NodeStateError, match="is not running"):
        _ = node.pool


async def test_the_pool_of_an_async_node_that_nobody_asked_for_is_never_made(
    identity: MakeIdentity,
) -> None:
    node = aio.Node("cart", **options(identity, "cart"))
    async with node:
        assert node.stats().pool == PoolStats((), ())
    with pytest.raises(NodeStateError, match="is not running"):
        _ = node.pool
