"""The orders: ask the catalog for the price, then charge. An asyncio node that calls others."""

from __future__ import annotations

import asyncio
import logging

import grpc
from aegis_core.aio import Node
from aegis_discovery.aio import ServiceClientPool

from shop.protos import catalog_pb2, catalog_pb2_grpc, payments_pb2, payments_pb2_grpc
from shop.protos import orders_pb2 as pb
from shop.protos import orders_pb2_grpc as rpc
from shop.tracing import tracing

PASSED_ON = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}
"""What the catalog and the payments say to our own caller too."""


class Orders(rpc.OrdersServicer):
    """Keeps the orders in memory; yours has a database.

    Args:
        pool: Channels to the other services, with the identity of this node.
    """

    def __init__(self, pool: ServiceClientPool) -> None:
        self._catalog = catalog_pb2_grpc.CatalogStub(pool.channel("catalog", "v1"))
        self._payments = payments_pb2_grpc.PaymentsStub(pool.channel("payments", "v1"))
        self._orders: dict[str, pb.Order] = {}

    async def PlaceOrder(
        self, request: pb.PlaceOrderRequest, context: grpc.aio.ServicerContext
    ) -> pb.Order:
        if not request.id or request.quantity < 1:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "an order needs an id, and a quantity of 1 or more",
            )
        if request.id not in self._orders:
            try:
                self._orders[request.id] = await self._place(request, context)
            except grpc.aio.AioRpcError as error:
                code = error.code() if error.code() in PASSED_ON else grpc.StatusCode.INTERNAL
                await context.abort(code, error.details() or "")
        return self._orders[request.id]

    async def _place(
        self, request: pb.PlaceOrderRequest, context: grpc.aio.ServicerContext
    ) -> pb.Order:
        product = await self._catalog.GetProduct(
            catalog_pb2.GetProductRequest(sku=request.sku), timeout=context.time_remaining()
        )
        total = product.price_cents * request.quantity
        receipt = await self._payments.Charge(
            payments_pb2.ChargeRequest(order_id=request.id, card=request.card, amount_cents=total),
            timeout=context.time_remaining(),
        )
        return pb.Order(
            id=request.id,
            sku=request.sku,
            quantity=request.quantity,
            total_cents=total,
            receipt_id=receipt.id,
        )

    async def GetOrder(
        self, request: pb.GetOrderRequest, context: grpc.aio.ServicerContext
    ) -> pb.Order:
        if request.id not in self._orders:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no order {request.id!r}")
        return self._orders[request.id]


async def main() -> None:
    """Runs the node until SIGTERM or Ctrl-C."""

    def register(server: grpc.aio.Server) -> None:
        rpc.add_OrdersServicer_to_server(orders, server)

    with tracing() as telemetry:
        node = Node.from_env(registrars=[register], telemetry=telemetry)
        orders = Orders(node.pool)  # usable before the node runs
        await node.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
