"""Rows S11 to S16: the content of a topology and how it reaches every node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aegis_certs import TLSConfig
from aegis_core import NodeInfo, PeerInfo, ServiceInfo
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc

GREETER = ServiceInfo("greeter", "v1")


@pytest.fixture
async def stub_of(identity: Callable[[str], TLSConfig]) -> AsyncIterator[Any]:
    """Makes stubs of the unsigned protocol that call as the given node, or as `caller`."""
    channels = []

    def make(node: Any, caller: str = "caller") -> aegis_pb2_grpc.MeshServiceStub:
        channels.append(open_channel(identity(caller), node.id, node.address))
        return aegis_pb2_grpc.MeshServiceStub(channels[-1])

    yield make
    await asyncio.gather(*(channel.close() for channel in channels))


async def test_s11_a_topology_has_nodes_by_id_a_growing_version_and_a_time(
    start: Any, until: Any
) -> None:
    began = datetime.now(UTC)
    a = await start("a")
    versions = [a.topology.version]
    a.topology.subscribe(lambda event: versions.append(event.version))
    b = await start("b", a)
    await until(lambda: "b" in a.topology.nodes)
    first = a.topology.updated_at
    assert began <= first <= datetime.now(UTC)
    await b.stop()
    await until(lambda: "b" not in a.topology.nodes)
    assert a.topology.updated_at >= first
    assert len(versions) >= 3
    assert versions == sorted(set(versions)), "every change raises the version"
    assert list(a.topology.nodes) == ["a"]


async def test_s12_all_fields_of_a_nodes_own_record_reach_other_nodes(
    start: Any, until: Any
) -> None:
    a = await start("a")
    b = await start("b", a, name="Bee", type="cache", services=[GREETER])
    await until(lambda: "b" in a.topology.nodes)
    seen = a.topology.nodes["b"]
    assert (seen.id, seen.name, seen.type) == ("b", "Bee", "cache")
    assert (seen.address, seen.services) == (b.address, (GREETER,))
    assert seen == b.topology.nodes["b"]
    assert seen.joined_at <= seen.updated_at <= datetime.now(UTC)
    assert {field.name for field in fields(NodeInfo)} >= {
        "id", "name", "type", "address", "services", "joined_at", "updated_at",
    }  # fmt: skip


async def test_s13_a_sync_returns_the_topology_and_its_version(
    start: Any, until: Any, agree: Any, stub_of: Any
) -> None:
    a = await start("a", services=[GREETER])
    b = await start("b", a)
    await until(lambda: agree(a, b))
    answer = await stub_of(a, "b").SyncTopology(
        aegis_pb2.TopologySyncRequest(sender_id="b", version=0)
    )
    assert answer.version == a.topology.version
    assert [node.id for node in answer.nodes] == ["a", "b"]
    assert answer.updated_at == int(a.topology.updated_at.timestamp())
    assert [service.name for service in answer.nodes[0].services] == ["greeter"]


async def test_s13_the_higher_version_is_adopted(start: Any, stub_of: Any) -> None:
    a, b = await start("a"), await start("b", services=[GREETER])
    for _ in range(20):
        b.topology.update_node(b.topology.nodes["b"])
    theirs = b.topology.version
    assert theirs > a.topology.version
    a.add_peer(PeerInfo("b", b.address))
    await a.sync_topology("b")
    assert a.topology.version >= theirs
    assert a.topology.get_service_providers("greeter", "v1")
    # Peers adopt only a higher version, so the answer has one, whatever version the caller has.
    ahead = a.topology.version + 1000
    request = aegis_pb2.TopologySyncRequest(sender_id="b", version=ahead)
    assert (await stub_of(a, "b").SyncTopology(request)).version > ahead


async def test_s14_one_peer_or_all_peers_can_be_synced(start: Any) -> None:
    a, b, c = await start("a"), await start("b"), await start("c")
    a.add_peer(PeerInfo("b", b.address))
    await a.sync_topology("b")
    assert list(a.topology.nodes) == ["a", "b"]
    a.add_peer(PeerInfo("c", c.address))
    report = await a.sync_topology_with_all_peers()
    assert (report.synced, dict(report.failed)) == (("b", "c"), {})
    assert list(a.topology.nodes) == ["a", "b", "c"]


async def test_s14_an_event_or_a_timer_can_trigger_a_sync(start: Any, until: Any) -> None:
    a = await start("a")
    loop = asyncio.get_running_loop()
    reports: asyncio.Queue[Any] = asyncio.Queue()

    def sync(*_: object) -> None:
        task = loop.create_task(a.sync_topology_with_all_peers())
        task.add_done_callback(lambda done: reports.put_nowait(done.result()))

    a.topology.subscribe(lambda _: loop.call_soon_threadsafe(sync))
    await start("b", a)
    assert "b" in (await asyncio.wait_for(reports.get(), 10)).synced
    while not reports.empty():
        reports.get_nowait()
    loop.call_later(0.01, sync)
    assert (await asyncio.wait_for(reports.get(), 10)).synced == ("b",)


async def test_s14_a_node_receives_changes_without_a_sync(start: Any, until: Any) -> None:
    a = await start("a")
    b = await start("b", a)
    a.topology.update_node(replace(a.topology.nodes["a"], services=(GREETER,)))
    await until(lambda: b.topology.get_service_providers("greeter", "v1"))


async def test_s15_services_declared_at_creation_reach_every_node(
    start: Any, until: Any, agree: Any
) -> None:
    a = await start("a")
    b = await start("b", a, services=[GREETER, ServiceInfo("greeter", "v2")])
    c = await start("c", a)
    await until(lambda: agree(a, b, c))
    for node in (a, b, c):
        assert node.topology.nodes["b"].services == (GREETER, ServiceInfo("greeter", "v2"))


async def test_s15_a_sync_also_returns_the_services_of_third_nodes(start: Any, until: Any) -> None:
    a = await start("a")
    await start("b", a, services=[GREETER])
    await until(lambda: "b" in a.topology.nodes)
    c = await start("c")
    c.add_peer(PeerInfo("a", a.address))
    await c.sync_topology("a")
    assert [node.id for node in c.topology.get_service_providers("greeter", "v1")] == ["b"]


async def test_s16_every_node_with_a_matching_declaration_is_a_provider(
    start: Any, until: Any, agree: Any
) -> None:
    a = await start("a", services=[GREETER])
    b = await start("b", a, services=[ServiceInfo("greeter", "v2"), ServiceInfo("other", "v1")])
    c = await start("c", a, services=[ServiceInfo("other", "v1"), GREETER])
    await until(lambda: agree(a, b, c))
    for node in (a, b, c):
        topology = node.topology
        assert [n.id for n in topology.get_service_providers("greeter", "v1")] == ["a", "c"]
        assert [n.id for n in topology.get_service_providers("greeter", "v2")] == ["b"]
        assert topology.get_service_providers("greeter", "v3") == ()
        assert topology.get_service_providers("Greeter", "v1") == ()
        assert [n.id for n in topology.get_nodes_by_service("greeter")] == ["a", "b", "c"]
        assert topology.get_service_providers("other", "v1")[0].address == b.address
