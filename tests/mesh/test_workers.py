"""Workers: several processes under one identity, each of which is a node of its own."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from aegis_core import CallRule, NodeIdInUseError, PeerInfo, Policy
from aegis_discovery import ServiceInfo
from aegis_discovery.aio import connect
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc


@pytest.fixture
def start_worker(start: Any, identity: Any, provider: Any) -> Any:
    """Starts a worker of `orders-1`, or of another identity, that provides `echo/v1`."""

    async def started(number: int, *seeds: Any, of: str = "orders-1", **options: Any) -> Any:
        node_id = f"{of}#{number}"
        return await start(node_id, *seeds, **{"tls": identity(of), **provider(node_id), **options})

    return started


async def test_workers_are_nodes_with_one_identity(
    start: Any, start_worker: Any, identity: Any, until: Any, agree: Any, say: Any
) -> None:
    workers = [await start_worker(0)]
    workers += [await start_worker(number, workers[0]) for number in (1, 2)]
    other = await start("other", workers[1])
    await until(lambda: agree(other, *workers))
    answered = {(await say(other.pool.channel("echo", "v1")))[0] for _ in range(12)}
    assert answered == {worker.id for worker in workers}, "calls go to all of them"
    assert (await say(workers[0].pool.channel("echo", "v1")))[1] == "orders-1"
    # A seed peer is dialled by its identity first; later it is the worker that it is.
    assert list(other.peers.added) == ["orders-1#1"]
    assert other._parts.session.feeds.keys() <= {worker.id for worker in workers}
    health = await other.get_peer_health("orders-1#2")
    described = await other.get_peer_node_info("orders-1#2")
    assert (health.node_id, described.id) == ("orders-1#2", "orders-1#2")
    async with connect(f"orders-1@{workers[2].address}", tls=identity("client")) as client:
        assert sorted(client.topology.nodes) == ["orders-1#0", "orders-1#1", "orders-1#2", "other"]
        assert (await say(client.pool.channel("echo", "v1")))[1] == "client"
    await workers[1].stop()
    await until(lambda: "orders-1#1" not in other.topology.nodes)
    assert {(await say(other.pool.channel("echo", "v1")))[0] for _ in range(8)} == {
        "orders-1#0",
        "orders-1#2",
    }


async def test_what_one_worker_sends_reaches_its_siblings(start_worker: Any, until: Any) -> None:
    """A feed sends no change back to its origin, which is a worker and not its identity."""
    hub = await start_worker(0, of="hub")
    first, second = [await start_worker(number, hub) for number in (0, 1)]
    await until(lambda: all(len(n.topology.nodes) == 3 for n in (hub, first, second)))
    for node in (first, second):
        info = node.topology.nodes[node.id]
        node.topology.update_node(info)
    stamps = {node.id: node.topology.get_record(node.id).stamp for node in (hub, first, second)}
    for node in (hub, first, second):
        await until(lambda n=node: {i: n.topology.get_record(i).stamp for i in stamps} == stamps)
    assert hub.server.watchers == {"orders-1#0", "orders-1#1"}


async def test_a_number_is_used_once_and_other_numbers_beside_it(
    start_worker: Any, start: Any
) -> None:
    seed = await start("seed")
    first = await start_worker(3, seed)
    with pytest.raises(NodeIdInUseError, match=f"orders-1#3 is in use by .* at {first.address}"):
        await start_worker(3, seed)
    assert first.failure is None
    # The address of a worker that was killed may belong to another worker by now.
    await start_worker(4, seed, advertise=first.address)
    again = await start_worker(4, seed)
    assert again.failure is None


async def test_an_identity_has_a_type_only_if_its_workers_agree(
    start: Any, start_worker: Any, identity: Any, until: Any, provider: Any
) -> None:
    policy = Policy(call=[CallRule(types=["web"], services=["*"])])
    node = await start("node", policy=policy, **provider("node"))
    first = await start_worker(0, node, type="web")

    async def may_call() -> bool:
        async with open_channel(identity("orders-1"), "node", node.address) as channel:
            code = await channel.unary_unary("/test.Echo/Say")(b"hi", timeout=10).code()
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED)
        return code is grpc.StatusCode.OK

    assert await may_call()
    second = await start_worker(1, node, type="batch")
    await until(lambda: second.id in node.topology.nodes)
    assert not await may_call()
    await second.stop()
    await until(lambda: second.id not in node.topology.nodes)
    assert await may_call()
    await first.stop()


async def test_a_peer_that_knows_no_workers_sees_one_node(
    start_worker: Any, identity: Any, until: Any
) -> None:
    first = await start_worker(0, services=[ServiceInfo("echo", "v1")])
    second = await start_worker(1, first, services=[ServiceInfo("other", "v1")])
    await until(lambda: len(first.topology.nodes) == 2)
    async with open_channel(identity("go"), "orders-1", first.address) as channel:
        stub = aegis_pb2_grpc.MeshServiceStub(channel)
        (node,) = (await stub.GetTopology(aegis_pb2.GetTopologyRequest(sender_id="go"))).nodes
        assert (node.id, node.name, node.address) == ("orders-1", "orders-1", first.address)
        assert sorted(service.name for service in node.services) == ["echo", "other"]
        ping = await stub.Ping(aegis_pb2.PingRequest(sender_id="go", look_up=second.id))
        assert (ping.receiver_id, ping.node_id) == ("orders-1", "orders-1#0")
        assert ping.address == second.address
        info = await stub.GetNodeInfo(aegis_pb2.NodeInfoRequest(sender_id="go"))
        assert (info.id, info.health.node_id) == ("orders-1", "orders-1")
        claim = aegis_pb2.PingRequest(sender_id="orders-1#0")
        with pytest.raises(grpc.aio.AioRpcError, match="the certificate says go"):
            await stub.Ping(claim)


async def test_the_limits_of_a_caller_grow_with_its_live_workers(
    start_worker: Any, start: Any, identity: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aegis_core._rate_limit import Limits
    from aegis_core._server import mesh_protocol

    limits = Limits("reads of the topology", open=16, per_second=0.001, burst=4.0)
    monkeypatch.setattr(mesh_protocol, "READS", limits)
    node = await start("node")
    await start_worker(0, node)
    second = await start_worker(1, node)
    await until(lambda: second.id in node.topology.nodes)
    for caller, allowed in (("client", 4), ("orders-1", 8)):
        async with open_channel(identity(caller), "node", node.address) as channel:
            stub = aegis_pb2_grpc.MeshServiceStub(channel)
            codes = []
            for _ in range(10):
                call = stub.GetTopology(aegis_pb2.GetTopologyRequest(), timeout=10)
                codes.append(await call.code())
        assert codes.count(grpc.StatusCode.OK) == allowed


async def test_a_worker_is_a_peer_by_its_full_id(start_worker: Any, start: Any) -> None:
    worker = await start_worker(7)
    node = await start("node")
    node.add_peer(PeerInfo("orders-1#7", worker.address))
    assert await node.ping_peer("orders-1#7") > 0
