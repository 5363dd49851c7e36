"""The whole shop in one process: real nodes with mutual TLS, under the policy of the shop."""

from collections.abc import AsyncIterator

import httpx
import pytest
from aegis_core import ServiceInfo
from aegis_core.testing.aio import LocalMesh
from shop import catalog, gateway, payments
from shop.local import POLICY
from shop.orders import Orders
from shop.protos import orders_pb2_grpc


@pytest.fixture
async def mesh() -> AsyncIterator[LocalMesh]:
    """A mesh of two catalogs, the payments and the orders."""
    async with LocalMesh() as mesh:

        async def start(node_id, register):
            service = ServiceInfo(node_id.partition("-")[0], "v1")
            await mesh.start(node_id, services=[service], registrars=[register], policy=POLICY)

        await start("catalog-1", catalog.register)
        await start("catalog-2", catalog.register)
        await start("payments-1", payments.register)
        caller = await mesh.connect("orders-1")
        await start(
            "orders-1",
            lambda server: orders_pb2_grpc.add_OrdersServicer_to_server(
                Orders(caller.pool), server
            ),
        )
        yield mesh


@pytest.fixture
async def http(mesh: LocalMesh) -> AsyncIterator[httpx.AsyncClient]:
    """A browser in front of the gateway."""
    gateway.use(gateway.app, await mesh.connect("gateway"))
    transport = httpx.ASGITransport(gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        yield client
