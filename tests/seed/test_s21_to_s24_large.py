"""Rows S21 to S24: requirements of large meshes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import NodeInfo, PeerInfo, ServiceInfo
from aegis_core._membership.rings import Rings
from aegis_discovery import DEFAULT_MESH, Topology
from aegis_discovery.aio.feed import follow
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.feed import FeedReader, ReceiveResult
from aegis_discovery.records import RecordVerifier

GREETER = ServiceInfo("greeter", "v1")


@pytest.fixture
def _watch_only_real_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets nodes watch only real nodes, so that nodes without a process do not fail."""
    subjects = Rings.subjects
    monkeypatch.setattr(Rings, "subjects", lambda *given: subjects(*given) & {"a", "b"})


def populate(node: Any, count: int) -> None:
    """Makes a mesh large: the node vouches for others that have no process."""
    for number in range(count):
        service = GREETER if number % 2 else ServiceInfo("other", "v1")
        node.topology.vouch(NodeInfo(f"n{number:03}", address="127.0.0.1:9", services=(service,)))


@pytest.mark.usefixtures("_watch_only_real_nodes")
async def test_s21_a_query_result_is_reused_until_a_provider_changes(
    start: Any, until: Any
) -> None:
    a = await start("a", services=[GREETER])
    b = await start("b", a)
    populate(a, 150)
    await until(lambda: b.topology.digest == a.topology.digest)
    found = b.topology.get_service_providers("greeter", "v1")
    assert len(found) == 76
    assert b.topology.get_service_providers("greeter", "v1") is found
    a.topology.vouch(NodeInfo("n000", address="127.0.0.1:10"))
    await until(lambda: b.topology.nodes["n000"].address == "127.0.0.1:10")
    assert b.topology.get_service_providers("greeter", "v1") is found
    a.topology.update_node(replace(a.topology.nodes["a"], services=()))
    await until(lambda: len(b.topology.get_service_providers("greeter", "v1")) == 75)


class Watcher:
    """Follows a node's feed and counts the received records."""

    def __init__(self, tls: TLSConfig) -> None:
        self.tls = tls
        verifier = RecordVerifier(tls.bundle, mesh=DEFAULT_MESH, trust_domain=tls.trust_domain)
        self.topology = Topology()
        self.reader = FeedReader(self.topology, verifier, trusts_statuses=True)
        self.records = 0
        self.complete = asyncio.Event()

    async def watch(self, node: Any) -> None:
        receive = self.reader.receive

        def counted(message: Any, *, source: str) -> ReceiveResult:
            self.records += len(message.records)
            return receive(message, source=source)

        def on_message(received: ReceiveResult) -> None:
            if received.complete:
                self.complete.set()

        self.reader.receive = counted  # type: ignore[method-assign]  # counts the records of each message
        channel = open_channel(self.tls, node.id, node.address)
        try:
            request = self.reader.request(DEFAULT_MESH, source=node.id)
            await follow(channel, self.reader, request, source=node.id, on_message=on_message)
        finally:
            self.reader.receive = receive  # type: ignore[method-assign]  # as above
            await channel.close()


@pytest.mark.usefixtures("_watch_only_real_nodes")
async def test_s22_after_the_first_full_copy_only_changes_are_sent(
    start: Any, until: Any, identity: Callable[[str], TLSConfig]
) -> None:
    a = await start("a")
    populate(a, 200)
    watcher = Watcher(identity("watcher"))
    watching = asyncio.create_task(watcher.watch(a))
    await asyncio.wait_for(watcher.complete.wait(), 10)
    assert watcher.records == 201
    a.topology.update_node(replace(a.topology.nodes["a"], services=(GREETER,)))
    await until(lambda: watcher.topology.get_service_providers("greeter", "v1")[0].id == "a")
    assert watcher.records == 202
    watching.cancel()
    await asyncio.wait([watching])
    a.topology.vouch(NodeInfo("n000", address="127.0.0.1:10"))
    watcher.complete.clear()
    watching = asyncio.create_task(watcher.watch(a))
    await asyncio.wait_for(watcher.complete.wait(), 10)
    assert watcher.records == 203, "a reopened feed continues where the last one ended"
    assert watcher.topology.digest == a.topology.digest
    watching.cancel()
    await asyncio.wait([watching])


async def test_s24_two_separate_meshes_merge_without_losing_changes(
    start: Any, until: Any, agree: Any
) -> None:
    a = await start("a", services=[GREETER])
    b = await start("b", a)
    c = await start("c", services=[ServiceInfo("other", "v1")])
    d = await start("d", c)
    await until(lambda: agree(a, b) and agree(c, d))
    # Both sides change, one more often; the higher version must not win.
    for node, times in ((b, 2), (d, 30)):
        for _ in range(times):
            node.topology.update_node(replace(node.topology.nodes[node.id], name="changed"))
    b.add_peer(PeerInfo("d", d.address))
    await until(lambda: agree(a, b, c, d))
    for node in (a, b, c, d):
        assert [n.id for n in node.topology.get_service_providers("greeter", "v1")] == ["a"]
        assert [n.id for n in node.topology.get_service_providers("other", "v1")] == ["c"]
        assert [node.topology.nodes[i].name for i in "bd"] == ["changed", "changed"]


async def test_s24_a_departure_and_a_change_of_another_node_are_merged(
    start: Any, until: Any, agree: Any
) -> None:
    a = await start("a")
    b = await start("b", a)
    c = await start("c", a)
    await until(lambda: agree(a, b, c))
    await c.stop()
    a.topology.update_node(replace(a.topology.nodes["a"], services=(GREETER,)))
    await until(lambda: agree(a, b))
    assert b.topology.get_service_providers("greeter", "v1")
    again = await start("c", b)
    await until(lambda: agree(a, b, again))


async def test_s23_a_mesh_of_regions_is_hierarchical(
    start: Any, until: Any, identity: Callable[[str], TLSConfig]
) -> None:
    eu = [await start("eu-1", region="eu", boundary="region")]
    eu.append(await start("eu-2", eu[0], region="eu", boundary="region"))
    us = [await start("us-1", eu[0], region="us", boundary="region")]
    us.append(await start("us-2", eu[1], region="us", boundary="region", services=[GREETER]))
    nodes = [*eu, *us]
    await until(lambda: len({node.topology.digest for node in nodes}) == 1)
    await until(lambda: [node.stats().feeds.across for node in nodes] == [1, 1, 1, 1])
    await until(lambda: [node.stats().feeds.watched for node in nodes] == [2, 2, 2, 2])
    assert eu[0].topology.get_service_providers("greeter", "v1")
    # Only a member reads what a region wrote, and only the server's or its own one.
    for region, record, code in (
        ("eu", False, grpc.StatusCode.INVALID_ARGUMENT),
        ("asia", True, grpc.StatusCode.FAILED_PRECONDITION),
    ):
        channel = open_channel(identity("us-1"), eu[0].id, eu[0].address)
        reader = FeedReader(
            us[0].topology,
            None,
            trusts_statuses=False,
            region=region,  # type: ignore[arg-type]
        )
        own = us[0].topology.get_record("us-1") if record else None
        request = reader.request(DEFAULT_MESH, own, source="eu-1")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await follow(channel, reader, request, source="eu-1", on_message=print, timeout=10)
        await channel.close()
        assert refused.value.code() is code
    await us[1].stop()
    await until(lambda: all("us-2" not in node.topology.nodes for node in nodes[:3]))
    # One node without a boundary ends it, while the mesh runs.
    old = await start("old", us[0], region="us")
    await until(lambda: old.stats().feeds.across == 2)
    await until(lambda: eu[0].stats().feeds.watched == 3)
