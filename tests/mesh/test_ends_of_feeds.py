"""What the end of a feed says about the node that served it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from aegis_core import PeerInfo
from aegis_discovery import DEFAULT_MESH, EventKind, NodeInfo
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.feed import HEARTBEAT
from aegis_discovery.proto import mesh_pb2, mesh_pb2_grpc
from aegis_discovery.records import RecordSigner

MORE_THAN_GRPC_BUFFERS = 2000
"""Records that do not fit into the buffers of a stream that nobody reads."""


def records(count: int) -> list[Any]:
    signer, stamp = RecordSigner(mesh=DEFAULT_MESH), time.time_ns() // 1_000_000
    ids = [f"other-{number}" for number in range(count)]
    return [signer.sign_record(i, stamp, NodeInfo(i, name="n" * 200)) for i in ids]


async def test_a_watcher_with_many_records_still_to_read_learns_that_the_node_leaves(
    start: Any, identity: Any, until: Any
) -> None:
    node = await start("a")
    topology = node.topology
    topology.merge_records(records(MORE_THAN_GRPC_BUFFERS), version=1)
    channel = open_channel(identity("client"), "a", node.address)
    feed = mesh_pb2_grpc.MeshStub(channel).Watch(mesh_pb2.WatchRequest(mesh=DEFAULT_MESH))
    first = await feed.read()
    assert not first.complete
    stopping = asyncio.create_task(node.stop())
    await until(lambda: topology.get_node("a") is None)
    bodies = []
    while (message := await feed.read()) is not grpc.aio.EOF:
        bodies += [mesh_pb2.RecordBody.FromString(record.body) for record in message.records]
    await stopping
    assert [body.removed for body in bodies if body.id == "a"][-1:] == [True]
    await channel.close()


async def test_a_node_can_leave_although_another_record_has_no_address(start: Any) -> None:
    node = await start("a")
    node.topology.merge_records(records(1), version=1)
    await node.stop()


async def test_a_feed_that_was_silent_too_long_is_opened_again_without_suspicion(
    start: Any, until: Any, agree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Less than a heartbeat, so every feed times out repeatedly. A process that was stopped for a
    # while sees all its feeds like this.
    monkeypatch.setattr("aegis_core._peers.feed.REDIAL_AFTER", HEARTBEAT / 2)
    a = await start("a")
    b = await start("b", a)
    await until(lambda: agree(a, b))
    kinds: list[EventKind] = []
    for node in (a, b):
        node.topology.subscribe(lambda event: kinds.append(event.kind))
    served = a.server.feeds_served + b.server.feeds_served
    await until(lambda: a.server.feeds_served + b.server.feeds_served >= served + 4)
    assert EventKind.SUSPECTED not in kinds
    assert EventKind.FAILED not in kinds


async def test_an_added_peer_that_has_left_is_dialled_without_a_warning(
    start: Any, until: Any, agree: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a = await start("a")
    b = await start("b", a)
    await until(lambda: agree(a, b))
    a.peers.add_peer(PeerInfo("b", b.address))
    await b.stop(grace=0)
    feeds = a._parts.session.feeds
    await until(lambda: "b" in feeds and "refused the connection" in feeds["b"].problem)
    assert [one.message for one in caplog.records if one.levelname == "WARNING"] == []
