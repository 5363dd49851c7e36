"""A node that leaves is heard by all who watch it, whatever they are doing at that moment."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
from aegis_discovery import DEFAULT_MESH, NodeInfo
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.proto import mesh_pb2, mesh_pb2_grpc
from aegis_discovery.records import RecordAuthor

MORE_THAN_IS_ON_ITS_WAY = 2000
"""Records that are too much for what gRPC holds of a stream that nobody reads."""


def records(count: int) -> list[Any]:
    author, stamp = RecordAuthor(mesh=DEFAULT_MESH), time.time_ns() // 1_000_000
    ids = [f"other-{number}" for number in range(count)]
    return [author.write(i, stamp, NodeInfo(i, name="n" * 200)) for i in ids]


async def test_a_watcher_that_was_told_something_else_hears_that_a_node_leaves(
    start: Any, identity: Any, until: Any
) -> None:
    node = await start("a")
    topology = node.topology
    topology.merge_records(records(MORE_THAN_IS_ON_ITS_WAY), version=1)
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


async def test_one_that_published_no_address_keeps_nobody_from_leaving(start: Any) -> None:
    node = await start("a")
    node.topology.merge_records(records(1), version=1)
    await node.stop()
