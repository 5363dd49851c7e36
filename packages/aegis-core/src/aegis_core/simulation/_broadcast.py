"""One change that travels through a mesh too large to simulate in full."""

from __future__ import annotations

from aegis_discovery import NodeInfo, Topology
from aegis_discovery.feed import BATCH, FeedReader, FeedWriter
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import RecordSigner

from aegis_core.simulation._fake_signing import MESH, FakeVerifier
from aegis_core.simulation._process import Process, fake_signer
from aegis_core.simulation._warm_start import copy_topology, shared_state
from aegis_core.simulation._world import Spread, World


def spread(nodes: int, *, seed: int = 0, origin: int = 0) -> Spread:
    """Changes the record of one node, and follows that through a mesh that is idle otherwise.

    The rings, topologies, feeds and messages are real. There is no failure detection, and a node
    uses memory only while it passes the change on. So 10 000 nodes that know each other take
    seconds and little memory.

    Args:
        nodes: The number of nodes.
        seed: Of all random choices.
        origin: The number of the node that changes its record.

    Returns:
        Over how many feeds, and after how long, the change first reached each node.
    """
    return _Broadcast(World(seed), nodes, origin).run()


class _Broadcast:
    def __init__(self, world: World[Process], nodes: int, origin: int) -> None:
        self._world = world
        width = len(str(nodes - 1))
        ids = [f"node-{number:0{width}}" for number in range(nodes)]
        self._signers = {node_id: fake_signer(world, node_id) for node_id in ids}
        self._known, self._regions = shared_state(world, self._signers)
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
        self._send_changes(origin, topology)
        clock.run(float("inf"))
        return self._spread

    def _topology_of(self, node_id: str) -> Topology:
        signer: RecordSigner = self._signers[node_id]
        topology = Topology(owner=node_id, signer=signer, clock=self._wall)
        copy_topology(self._known, topology)
        # All logs begin with the same entries, so one cursor is valid for all of them.
        topology.log_id = self._known.log_id
        return topology

    def _send_changes(self, node_id: str, topology: Topology) -> None:
        world = self._world
        for watcher in sorted(self._regions.observers(node_id)):
            request = mesh_pb2.WatchRequest(
                mesh=MESH, cursor=self._cursor, record=mesh_pb2.SignedRecord()
            )
            writer = FeedWriter(topology, lambda _: None, watcher=watcher, request=request)
            for message in writer.messages():
                delay = BATCH + world.network.latency(node_id, watcher)
                data = message.SerializeToString()
                world.clock.after(delay, None, self._receive, node_id, watcher, data)

    def _receive(self, server: str, watcher: str, data: bytes) -> None:
        spread = self._spread
        if watcher in spread.hops:
            # It holds the change already, so it sends nothing.
            return
        topology = self._topology_of(watcher)
        reader = FeedReader(topology, self._verifier, trusts_statuses=False)
        reader.receive(self._world.decode(data), source=server)
        record = topology.get_record(spread.subject)
        if record is None or record.stamp < spread.stamp:
            return
        spread.hops[watcher] = spread.hops[server] + 1
        spread.seconds[watcher] = self._world.clock.now - spread.began
        self._send_changes(watcher, topology)


def _cursor_of(topology: Topology) -> bytes:
    """Returns the cursor that a feed gives to a watcher that holds the whole topology."""
    request = mesh_pb2.WatchRequest(digest=topology.full_digest, record=mesh_pb2.SignedRecord())
    writer = FeedWriter(topology, lambda _: None, watcher="", request=request)
    *_, last = writer.messages()
    return last.cursor
