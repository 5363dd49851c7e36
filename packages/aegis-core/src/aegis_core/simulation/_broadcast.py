"""One change on its way through a mesh that is too large to be simulated in whole."""

from __future__ import annotations

from aegis_discovery import NodeInfo, Topology
from aegis_discovery.feed import BATCH, FeedReader, FeedWriter
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import RecordSigner

from aegis_core.simulation._fake_signing import MESH, FakeVerifier
from aegis_core.simulation._process import Process, fake_signer
from aegis_core.simulation._warm_start import copy_knowledge, shared_knowledge
from aegis_core.simulation._world import Spread, World


def spread(nodes: int, *, seed: int = 0, origin: int = 0) -> Spread:
    """Lets one node change its record, and follows that through a mesh that is at rest otherwise.

    The rings, topologies and both ends of each feed are real, as are the messages between them.
    Nobody judges anybody, and a node takes up memory only while it passes the change on, so that
    10 000 nodes that know each other take seconds, and little memory.

    Args:
        nodes: How many.
        seed: Of all chance.
        origin: The number of the node that changes its record.

    Returns:
        Over how many feeds, and after how long, the change first came to each node.
    """
    return _Wave(World(seed), nodes, origin).run()


class _Wave:
    def __init__(self, world: World[Process], nodes: int, origin: int) -> None:
        self._world = world
        width = len(str(nodes - 1))
        ids = [f"node-{number:0{width}}" for number in range(nodes)]
        self._signers = {node_id: fake_signer(world, node_id) for node_id in ids}
        self._known, self._rings = shared_knowledge(world, self._signers)
        self._cursor = _cursor_of(self._known)
        self._wall = world.wall_clock("")
        self._verifier = FakeVerifier(world.decoder, self._wall)
        self._origin = ids[origin]

    def run(self) -> Spread:
        origin, clock = self._origin, self._world.clock
        topology = self._topology_of(origin)
        topology.update_node(NodeInfo(origin, address=f"{origin}:7001"))
        record = topology.get_record(origin)
        assert record is not None  # noqa: S101 - just written
        self._spread = Spread(origin, record.stamp, clock.now, {origin: 0}, {origin: 0.0})
        self._tell(origin, topology)
        clock.run(float("inf"))
        return self._spread

    def _topology_of(self, node_id: str) -> Topology:
        signer: RecordSigner = self._signers[node_id]
        topology = Topology(owner=node_id, signer=signer, clock=self._wall)
        copy_knowledge(self._known, topology)
        # All logs begin alike, so that one cursor is good for all of them.
        topology.log_id = self._known.log_id
        return topology

    def _tell(self, node_id: str, topology: Topology) -> None:
        """Serves those who watch a node what it has just learned."""
        world = self._world
        for watcher in sorted(self._rings.observers(node_id)):
            request = mesh_pb2.WatchRequest(
                mesh=MESH, cursor=self._cursor, record=mesh_pb2.SignedRecord()
            )
            writer = FeedWriter(topology, lambda _: None, watcher=watcher, request=request)
            for message in writer.messages():
                delay = BATCH + world.network.latency()
                data = message.SerializeToString()
                world.clock.after(delay, None, self._receive, node_id, watcher, data)

    def _receive(self, server: str, watcher: str, data: bytes) -> None:
        spread = self._spread
        if watcher in spread.hops:
            # It holds the change, and so is not changed by it: nothing goes on from here.
            return
        topology = self._topology_of(watcher)
        reader = FeedReader(topology, self._verifier, trusts_statuses=False)
        reader.receive(self._world.decode(data), source=server)
        record = topology.get_record(spread.subject)
        if record is None or record.stamp < spread.stamp:
            return
        spread.hops[watcher] = spread.hops[server] + 1
        spread.seconds[watcher] = self._world.clock.now - spread.began
        self._tell(watcher, topology)


def _cursor_of(topology: Topology) -> bytes:
    """Returns the cursor of one that holds all that a topology holds, as a feed gives it."""
    request = mesh_pb2.WatchRequest(digest=topology.full_digest, record=mesh_pb2.SignedRecord())
    writer = FeedWriter(topology, lambda _: None, watcher="", request=request)
    *_, last = writer.messages()
    return last.cursor
