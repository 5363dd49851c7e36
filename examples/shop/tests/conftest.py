"""The whole shop in one process: real nodes with mutual TLS, under the policy of the shop.

Only tests that need the gateway load it: FastAPI takes half a second.
"""

from collections.abc import AsyncIterator
from types import ModuleType

import httpx
import pytest
from aegis_core import ServiceInfo
from aegis_core.testing.aio import LocalMesh
from aegis_discovery.telemetry import OpenTelemetry
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shop import catalog, payments
from shop.local import POLICY
from shop.orders import Orders
from shop.protos import orders_pb2_grpc


@pytest.fixture
def gateway() -> ModuleType:
    """The module of the gateway."""
    from shop import gateway

    return gateway


@pytest.fixture
def spans(gateway: ModuleType, monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans of all processes of the shop."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setitem(gateway.app._telemetry, "tracer_provider", provider)
    return exporter


@pytest.fixture
def telemetry(gateway: ModuleType, spans: InMemorySpanExporter) -> OpenTelemetry:
    """What the nodes and clients of a test report to."""
    return OpenTelemetry(tracer_provider=gateway.app._telemetry["tracer_provider"])


@pytest.fixture
async def mesh(telemetry: OpenTelemetry) -> AsyncIterator[LocalMesh]:
    """A mesh of two catalogs, the payments and the orders."""
    async with LocalMesh() as mesh:

        async def start(node_id, register):
            service = ServiceInfo(node_id.partition("-")[0], "v1")
            await mesh.start(
                node_id,
                services=[service],
                registrars=[register],
                policy=POLICY,
                telemetry=telemetry,
            )

        await start("catalog-1", catalog.register)
        await start("catalog-2", catalog.register)
        await start("payments-1", payments.register)
        caller = await mesh.connect("orders-1", telemetry=telemetry)
        await start(
            "orders-1",
            lambda server: orders_pb2_grpc.add_OrdersServicer_to_server(
                Orders(caller.pool), server
            ),
        )
        yield mesh


@pytest.fixture
async def http(
    gateway: ModuleType, mesh: LocalMesh, telemetry: OpenTelemetry
) -> AsyncIterator[httpx.AsyncClient]:
    """A browser in front of the gateway."""
    gateway.use(gateway.app, await mesh.connect("gateway", telemetry=telemetry))
    transport = httpx.ASGITransport(gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        yield client
