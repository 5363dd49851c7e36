from __future__ import annotations

import grpc
import pytest
from aegis_certs import InvalidNodeIdError
from aegis_core import NoCertificateError, ServiceInfo, caller_from_context
from aegis_core.testing import AbortedError, FakeContext, LocalMesh, aio, identity
from aegis_discovery import ConnectError

ORDERS = ServiceInfo("orders", "v1")


def register(server: object) -> None:
    def who(_request: bytes, context: grpc.ServicerContext) -> bytes:
        return caller_from_context(context).node_id.encode()

    handler = grpc.unary_unary_rpc_method_handler(who)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("shop.Orders", {"Who": handler}),)
    )


def test_a_fixture_gives_a_mesh_whose_services_see_who_calls(aegis_mesh: LocalMesh) -> None:
    aegis_mesh.start("orders-1", services=[ORDERS], registrars=[register])
    client = aegis_mesh.connect("billing-1")
    call = client.pool.channel("orders", "v1").unary_unary("/shop.Orders/Who")
    assert call(b"", timeout=10) == b"billing-1"


def test_a_fixture_gives_contexts_and_identities(aegis_context, aegis_identity) -> None:
    context = aegis_context("billing-1", metadata=[("tenant", "a")])
    assert caller_from_context(context).node_id == aegis_identity("billing-1").node_id
    assert dict(context.invocation_metadata()) == {"tenant": "a"}


def register_async(server: object) -> None:
    async def who(_request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return caller_from_context(context).node_id.encode()

    handler = grpc.unary_unary_rpc_method_handler(who)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("shop.Orders", {"Who": handler}),)
    )


async def test_nodes_of_an_asyncio_mesh_know_each_other_and_call() -> None:
    async with aio.LocalMesh() as mesh:
        front = await mesh.start("front")
        orders = await mesh.start("orders-1", services=[ORDERS], registrars=[register_async])
        assert sorted(front.topology.nodes) == ["front", "orders-1"]
        call = front.pool.channel("orders", "v1").unary_unary("/shop.Orders/Who")
        assert await call(b"", timeout=10) == b"front"
        client = await mesh.connect()
        assert sorted(client.topology.nodes) == ["front", "orders-1"]
        await mesh.stop(orders)
        assert mesh.nodes == [front]


def test_a_mesh_without_a_node_has_nothing_to_connect_to() -> None:
    with LocalMesh() as mesh, pytest.raises(ConnectError, match="no seed peer"):
        mesh.connect()


def test_only_a_node_of_the_mesh_can_be_stopped(aegis_mesh: LocalMesh) -> None:
    node = aegis_mesh.start("orders-1")
    for wrong in ("orders-1", None):
        with pytest.raises(ValueError, match="give what `start` returned"):
            aegis_mesh.stop(wrong)  # type: ignore[arg-type]  # as an untyped test may do
    aegis_mesh.stop(node)
    with pytest.raises(ValueError, match="no running node"):
        aegis_mesh.stop(node)


def test_identities_are_made_once_and_their_ids_are_checked() -> None:
    assert identity("orders-1") is identity("orders-1")
    assert identity("orders-1#2").node_id == "orders-1"
    with pytest.raises(InvalidNodeIdError):
        identity("not an id")


def test_a_context_records_what_a_blocking_handler_does() -> None:
    context = FakeContext("billing-1", timeout=60)
    assert 0 < context.time_remaining() <= 60
    ended = []
    assert context.add_callback(lambda: ended.append(True))
    context.set_trailing_metadata([("a", "b")])
    with pytest.raises(AbortedError, match="NOT_FOUND: no such order") as caught:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
    assert (context.code(), context.details()) == (caught.value.code, "no such order")
    assert context.trailing_metadata() == (("a", "b"),)
    assert context.is_active()
    assert context.cancel()
    assert (context.is_active(), context.cancel(), ended) == (False, False, [True])
    assert not context.add_callback(ended.clear)
    with pytest.raises(ValueError, match="other than OK"):
        context.abort(grpc.StatusCode.OK, "")


async def test_a_context_records_what_an_async_handler_does() -> None:
    context = aio.FakeContext("billing-1", requests=[b"1", b"2"])
    assert caller_from_context(context).node_id == "billing-1"
    assert [await context.read() for _ in range(3)] == [b"1", b"2", grpc.aio.EOF]
    await context.write(b"answer")
    assert context.written == [b"answer"]
    with pytest.raises(AbortedError):
        await context.abort(grpc.StatusCode.INTERNAL, "broken")
    assert context.cancel()
    assert context.cancelled()


def test_a_caller_without_a_certificate_is_told_as_by_a_server() -> None:
    with pytest.raises(NoCertificateError):
        caller_from_context(FakeContext(None))
