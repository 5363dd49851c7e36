"""The gateway: HTTP and JSON for browsers, calls over the mesh behind it.

It provides nothing to the mesh, so it is a client: of Aegis it needs `aegis_discovery` alone.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from aegis_discovery.aio import Mesh, connect
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from pydantic import BaseModel, Field

from shop.protos import catalog_pb2, catalog_pb2_grpc, orders_pb2, orders_pb2_grpc
from shop.tracing import tracing

NEEDED = ("catalog", "orders", "payments")
TIMEOUT = 5.0
"""Seconds of a request, calls of the services to each other included."""

STATUS = {
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INVALID_ARGUMENT: 422,
    grpc.StatusCode.FAILED_PRECONDITION: 402,  # the card is declined
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.UNAVAILABLE: 503,
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connects to the mesh, for as long as the gateway serves."""
    token = os.environ.get("AEGIS_TOKEN_FILE")
    with tracing() as telemetry:
        async with connect(
            *os.environ["AEGIS_JOIN"].split(),
            node_id=os.environ["AEGIS_NODE_ID"],
            cert_dir=os.environ["AEGIS_CERT_DIR"],
            token=Path(token) if token else None,
            telemetry=telemetry,
            wait=False,  # nodes may start later
        ) as mesh:
            use(app, mesh)
            yield


def use(app: FastAPI, mesh: Mesh) -> None:
    """Makes the gateway call over this mesh."""
    app.state.mesh = mesh
    app.state.catalog = catalog_pb2_grpc.CatalogStub(mesh.pool.channel("catalog", "v1"))
    app.state.orders = orders_pb2_grpc.OrdersStub(mesh.pool.channel("orders", "v1"))


# FastAPI itself begins a trace for each request.
app = FastAPI(title="Shop", lifespan=lifespan, telemetry={"operation_spans": False})


class NewOrder(BaseModel):
    """What a customer sends."""

    sku: str
    quantity: int = Field(default=1, ge=1, le=100)
    card: str


@app.get("/products")
async def list_products(request: Request) -> list[dict[str, Any]]:
    """All products."""
    reply = await request.app.state.catalog.ListProducts(
        catalog_pb2.ListProductsRequest(), timeout=TIMEOUT
    )
    return [to_json(product) for product in reply.products]


@app.post("/orders", status_code=201)
async def place_order(order: NewOrder, request: Request) -> dict[str, Any]:
    """Places an order."""
    placed = await request.app.state.orders.PlaceOrder(
        orders_pb2.PlaceOrderRequest(
            id=uuid.uuid4().hex, sku=order.sku, quantity=order.quantity, card=order.card
        ),
        timeout=TIMEOUT,
    )
    return to_json(placed)


@app.get("/orders/{order_id}")
async def get_order(order_id: str, request: Request) -> dict[str, Any]:
    """An order that was placed."""
    return to_json(
        await request.app.state.orders.GetOrder(
            orders_pb2.GetOrderRequest(id=order_id), timeout=TIMEOUT
        )
    )


@app.get("/healthz")
async def health(request: Request) -> dict[str, str]:
    """Whether there is a provider of each service."""
    topology = request.app.state.mesh.topology
    missing = [name for name in NEEDED if not topology.get_service_providers(name, "v1")]
    if missing:
        raise HTTPException(503, f"nobody provides {' and '.join(missing)}")
    return {"status": "ok"}


@app.exception_handler(grpc.RpcError)
async def on_failed_call(_request: Request, error: grpc.aio.AioRpcError) -> JSONResponse:
    """Answers with the HTTP status of a failed call."""
    return JSONResponse({"detail": error.details()}, STATUS.get(error.code(), 502))


def to_json(message: Message) -> dict[str, Any]:
    """A message with the field names of its .proto file."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
