"""What customers see, and what the policy forbids."""

import asyncio
import time

import grpc
import pytest
from opentelemetry.trace import SpanKind
from shop import payments
from shop.protos import payments_pb2, payments_pb2_grpc

CARD = "4111 1111 1111 1111"


async def test_an_order_is_priced_charged_and_kept(http):
    placed = await http.post("/orders", json={"sku": "tea", "quantity": 3, "card": CARD})
    assert placed.status_code == 201
    order = placed.json()
    assert (order["sku"], order["total_cents"]) == ("tea", 1860)
    assert order["receipt_id"].startswith("receipt-")
    assert (await http.get(f"/orders/{order['id']}")).json() == order


async def test_products_are_listed(http):
    products = (await http.get("/products")).json()
    assert {"sku": "bread", "name": "Rye bread", "price_cents": 450} in products


@pytest.mark.parametrize(
    ("order", "status", "detail"),
    [
        ({"sku": "gold", "card": CARD}, 404, "there is no product 'gold'"),
        ({"sku": "tea", "card": "1234 0000"}, 402, "the card is declined"),
    ],
)
async def test_a_customer_learns_why_an_order_fails(http, order, status, detail):
    failed = await http.post("/orders", json=order)
    assert (failed.status_code, failed.json()) == (status, {"detail": detail})


async def test_orders_go_on_when_a_catalog_stops(http, mesh):
    await mesh.stop(mesh.nodes[0])
    for _ in range(4):
        placed = await http.post("/orders", json={"sku": "honey", "card": CARD})
        assert placed.status_code == 201


async def test_without_payments_the_gateway_says_so(http, mesh):
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    await mesh.stop(next(node for node in mesh.nodes if node.id == "payments-1"))
    failed = await http.post("/orders", json={"sku": "tea", "card": CARD})
    assert failed.status_code == 502
    assert "payments" in failed.json()["detail"]


async def test_the_gateway_may_not_charge_by_itself(mesh):
    gateway = await mesh.connect("gateway")
    stub = payments_pb2_grpc.PaymentsStub(gateway.pool.channel("payments", "v1"))
    with pytest.raises(grpc.aio.AioRpcError) as denied:
        await stub.Charge(payments_pb2.ChargeRequest(order_id="1", card=CARD), timeout=5)
    assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_http_request_is_one_trace_through_all_services(http, spans):
    await http.post("/orders", json={"sku": "tea", "card": CARD})
    deadline = time.monotonic() + 10  # the last spans end after the answer
    while len(served := [one for one in spans.get_finished_spans() if is_server(one)]) < 4:
        assert time.monotonic() < deadline, [one.name for one in spans.get_finished_spans()]
        await asyncio.sleep(0.005)
    assert {one.name for one in served} == {
        "POST /orders",
        "Recv.shop.orders.v1.Orders.PlaceOrder",
        "Recv.shop.catalog.v1.Catalog.GetProduct",
        "Recv.shop.payments.v1.Payments.Charge",
    }
    assert len({one.context.trace_id for one in spans.get_finished_spans()}) == 1


def is_server(span):
    return span.kind is SpanKind.SERVER


def test_an_order_is_charged_once(aegis_context):
    service = payments.Payments()
    request = payments_pb2.ChargeRequest(order_id="7", card=CARD, amount_cents=100)
    first, again = (service.Charge(request, aegis_context("orders-1")) for _ in range(2))
    assert first == again
