"""Known failures of another implementation of this design, which this one must not have.

One more, a quickstart that does not work as written, is covered by the tests of the documentation.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from aegis_core import Node, NodeStatus, PeerInfo, ServiceInfo
from aegis_discovery import connect
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc
from cryptography import x509

from ..conftest import serving

HIGHEST = 2**63 - 1


def peer(node: Any) -> PeerInfo:
    return PeerInfo(node.id, node.address)


async def test_two_fresh_nodes_that_sync_see_each_other(start: Any) -> None:
    a, b = await start("a"), await start("b")
    a.add_peer(peer(b))
    await a.sync_topology("b")
    assert list(a.topology.nodes) == list(b.topology.nodes) == ["a", "b"]


async def test_a_node_keeps_its_own_record_in_a_sync(start: Any, until: Any) -> None:
    a, b = await start("a", services=[ServiceInfo("s", "v1")]), await start("b")
    for _ in range(50):
        b.topology.update_node(b.topology.nodes["b"])
    a.add_peer(peer(b))
    await a.sync_topology("b")
    assert a.topology.version >= 50
    assert a.topology.nodes["a"].address == a.address
    assert [node.id for node in b.topology.get_service_providers("s", "v1")] == ["a"]


async def test_topologies_with_equal_versions_and_different_nodes_are_merged(
    start: Any, until: Any, agree: Any
) -> None:
    a, b = await start("a"), await start("b")
    assert a.topology.version == b.topology.version
    b.add_peer(peer(a))
    await b.sync_topology("a")
    await until(lambda: agree(a, b))


def test_a_node_restarted_at_a_new_address_replaces_its_old_record(
    identity: Any, spawn: Any
) -> None:
    changed = threading.Event()
    with Node("a", address="127.0.0.1:0", tls=identity("a"), grace=0) as a:
        a.topology.subscribe(lambda _: changed.set())

        def wait_for(address: str) -> None:
            while (b := a.topology.get_node("b")) is None or b.address != address:
                assert changed.wait(20)
                changed.clear()

        first = spawn("b", seed_peers=[a.address])
        wait_for(first.address)
        first.signal(signal.SIGKILL)
        first.wait_exit()
        # It has no seed peer; the mesh gets its address instead.
        second = spawn("b")
        a.add_peer(peer(second))
        wait_for(second.address)
        a.sync_topology("b")
        assert a.topology.nodes["b"].status is NodeStatus.ALIVE


class Liar(aegis_pb2_grpc.MeshServiceServicer):
    """A peer without a feed that returns an empty topology with the highest version."""

    async def SyncTopology(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        return aegis_pb2.TopologySyncResponse(version=HIGHEST)

    async def GetNodeInfo(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name in the protocol
        return aegis_pb2.NodeInfoResponse(id="liar")


async def test_an_empty_topology_with_the_highest_version_removes_nothing_and_overflows_nothing(
    start: Any, until: Any, identity: Any
) -> None:
    a = await start("a")
    b = await start("b", a)
    await until(lambda: "b" in a.topology.nodes)
    async with serving(identity("liar"), Liar()) as address:
        a.add_peer(PeerInfo("liar", address))
        for _ in range(10):
            await a.sync_topology("liar")
        assert list(a.topology.nodes) == ["a", "b", "liar"]
        assert a.topology.version < HIGHEST // 2
        before = b.topology.version
        a.topology.update_node(a.topology.nodes["a"])
        await until(lambda: b.topology.version > before)


async def test_the_nodes_and_the_version_of_a_sync_response_belong_together(
    start: Any, identity: Any
) -> None:
    a = await start("a")
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            number = a.topology.version + 1
            a.topology.update_node(replace(a.topology.nodes["a"], name=str(number)))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        async with open_channel(identity("b"), "a", a.address) as channel:
            stub = aegis_pb2_grpc.MeshServiceStub(channel)
            # A caller that is not in the topology gets no version above its own.
            request = aegis_pb2.TopologySyncRequest(sender_id="b", version=HIGHEST)
            answers = [await stub.SyncTopology(request) for _ in range(60)]
    finally:
        stop.set()
        thread.join()
    assert len({answer.version for answer in answers}) > 2, (
        "the topology changed between the answers"
    )
    # Each change wrote the number of its version; the first versions were older than the changes.
    named = [(str(answer.version), answer.nodes[0].name) for answer in answers]
    assert [pair for pair in named if pair[1] != "a" and pair[0] != pair[1]] == []


async def test_a_sync_does_not_change_the_times_of_other_nodes(start: Any, agree: Any) -> None:
    a, b, c = await start("a"), await start("b"), await start("c")
    a.add_peer(peer(b))
    await a.sync_topology("b")
    c.add_peer(peer(a))
    await c.sync_topology("a")
    for node in (a, c):
        assert node.topology.nodes["b"] == b.topology.nodes["b"]
        assert node.topology.nodes["b"].updated_at is not None


async def test_round_robin_does_not_depend_on_the_order_in_which_nodes_joined(
    start: Any, until: Any, provider: Any, say: Any
) -> None:
    x = await start("x")
    for node_id in ("c", "a", "d", "b"):
        await start(node_id, x, **provider(node_id))
    await until(lambda: len(x.topology.get_service_providers("echo", "v1")) == 4)
    channel = x.pool.channel("echo", "v1")
    answered = "".join([(await say(channel))[0] for _ in range(12)])
    assert "abcd" * 2 in answered


async def test_a_caller_cannot_claim_another_sender_id(start: Any, identity: Any) -> None:
    a = await start("a")
    calls: dict[str, Any] = {
        "Ping": aegis_pb2.PingRequest,
        "GetHealth": aegis_pb2.HealthRequest,
        "GetNodeInfo": aegis_pb2.NodeInfoRequest,
        "SyncTopology": aegis_pb2.TopologySyncRequest,
        "GetTopology": aegis_pb2.GetTopologyRequest,
    }
    async with open_channel(identity("b"), "a", a.address) as channel:
        stub = aegis_pb2_grpc.MeshServiceStub(channel)
        for name, request in calls.items():
            await getattr(stub, name)(request(sender_id="b"))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await getattr(stub, name)(request(sender_id="c"))
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_failed_node_is_not_a_provider(trio: Any) -> None:
    a, b, c = trio
    b.signal(signal.SIGKILL)
    for node in (a, c):
        node.wait_event("failed b")
        assert node.ask("topology")["providers"] == ["a", "c"]


@contextmanager
def silent() -> Iterator[str]:
    """Runs a TCP server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


async def test_a_peer_that_says_nothing_does_not_block_a_sync(
    start: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core._peers.manager.TIMEOUT", 0.5)
    a, b = await start("a"), await start("b")
    a.add_peer(peer(b))
    with silent() as address:
        a.add_peer(PeerInfo("silent", address))
        report = await asyncio.wait_for(a.sync_topology_with_all_peers(), 10)
        assert (report.synced, list(report.failed)) == (("b",), ["silent"])


def test_a_peer_that_hangs_does_not_block_a_sync(
    identity: Any, spawn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core._peers.manager.TIMEOUT", 0.5)
    with Node("a", address="127.0.0.1:0", tls=identity("a"), grace=0) as a:
        b = spawn("b", seed_peers=[a.address])
        a.add_peer(peer(b))
        assert a.sync_topology_with_all_peers().synced == ("b",)
        b.signal(signal.SIGSTOP)
        report = a.sync_topology_with_all_peers()
        assert (report.synced, list(report.failed)) == ((), ["b"])


async def endless(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    yield request
    await asyncio.Event().wait()


def blocking_endless(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    over = threading.Event()
    context.add_callback(over.set)
    yield request
    over.wait()


@pytest.mark.parametrize("handler", [endless, blocking_endless])
def test_a_stop_does_not_block_while_a_stream_is_open(
    identity: Any, handler: Callable[..., Any]
) -> None:
    def register(server: Any) -> None:
        method = grpc.unary_stream_rpc_method_handler(handler)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Endless", {"Go": method}),)
        )

    services = [ServiceInfo("endless", "v1")]
    node = Node("a", address="127.0.0.1:0", tls=identity("a"), services=services,
                registrars=[register])  # fmt: skip
    node.start()
    with connect(node.address, tls=identity("client")) as mesh:
        call = mesh.pool.channel("endless", "v1").unary_stream("/test.Endless/Go")(b"x")
        assert next(call) == b"x"
        stopping = threading.Thread(target=node.stop, kwargs={"grace": 0.2})
        stopping.start()
        stopping.join(10)
        assert not stopping.is_alive()
        with pytest.raises(grpc.RpcError):
            next(call)


async def test_the_pool_does_not_use_the_address_as_tls_name(
    start: Any, until: Any, provider: Any, say: Any
) -> None:
    a = await start("a", **provider("a"))
    names = a.tls.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == []
    assert names.get_values_for_type(x509.DNSName) == ["a"]
    b = await start("b", a)
    await until(lambda: b.topology.get_service_providers("echo", "v1"))
    for channel in (b.pool.channel("echo", "v1"), b.pool.get_conn("echo", "v1")):
        assert (await say(channel))[:2] == ["a", "b"]
