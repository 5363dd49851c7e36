"""One change that travels through a mesh too large to simulate in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aegis_discovery import Topology
from aegis_discovery.feed import BATCH, FeedReader, FeedWriter
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import RecordSigner

from aegis_core._membership.bridge import Bridge
from aegis_core.simulation._fake_signing import MESH, FakeVerifier
from aegis_core.simulation._process import Process, fake_signer
from aegis_core.simulation._warm_start import copy_topology, shared_state
from aegis_core.simulation._world import Spread, Traffic, World


def spread(nodes: int, *, seed: int = 0, origin: int = 0, regions: Sequence[str] = ()) -> Spread:
    """Changes the record of one node, and follows that through a mesh that is idle otherwise.

    The rings, topologies, feeds and messages are real. There is no failure detection, and a node
    uses memory only while it passes the change on. So 10 000 nodes that know each other take
    seconds and little memory.

    Args:
        nodes: The number of nodes; with regions, of each.
        seed: Of all random choices.
        origin: The number of the node that changes its record.
        regions: The regions of a mesh with boundaries.

    Returns:
        Over how many feeds, and after how long, the change first reached each node.
    """
    return _Broadcast(World(seed), nodes, origin, regions).run()


class _Broadcast:
    def __init__(
        self, world: World[Process], nodes: int, origin: int, regions: Sequence[str]
    ) -> None:
        self._world = world
        width = len(str(nodes - 1))
        world.network.regions = {
            f"{region}-{number:0{width}}": region for region in regions for number in range(nodes)
        }
        ids = [*world.network.regions] or [f"node-{number:0{width}}" for number in range(nodes)]
        self._signers = {node_id: fake_signer(world, node_id) for node_id in ids}
        boundary = "region" if regions else ""
        self._known, self._regions = shared_state(world, self._signers, boundary)
        self._bridges = self._find_bridges()
        self._cursor = _cursor_of(self._known)
        self._wall = world.wall_clock("")
        self._verifier = FakeVerifier(world.decoder, self._wall)
        self._origin = ids[origin]

    def run(self) -> Spread:
        origin, clock = self._origin, self._world.clock
        topology = self._topology_of(origin)
        before = topology.get_node(origin)
        assert before is not None  # noqa: S101 - it is in the shared state
        topology.update_node(replace(before, address=f"{origin}:7001"))
        record = topology.get_record(origin)
        assert record is not None  # noqa: S101 - just written
        self._spread = Spread(origin, record.stamp, clock.now, {origin: 0}, {origin: 0.0})
        self._send_changes(origin, topology)
        clock.run(float("inf"))
        is_across = self._world.network.is_across
        across = [counts for edge, counts in self._world.traffic.items() if is_across(*edge)]
        self._spread.across = Traffic(*map(sum, zip((0, 0), *across, strict=True)))
        return self._spread

    def _find_bridges(self) -> dict[str, list[str]]:
        """Returns the bridges that read from each node."""
        found: dict[str, list[str]] = {}
        for region in self._regions.names():
            for node_id in self._regions.bridges(region):
                bridge = Bridge(node_id, self._regions)
                bridge.review(frozenset(), 0.0)
                for target in bridge.targets(0.0):
                    found.setdefault(target, []).append(node_id)
        return found

    def _topology_of(self, node_id: str) -> Topology:
        signer: RecordSigner = self._signers[node_id]
        topology = Topology(owner=node_id, signer=signer, clock=self._wall)
        copy_topology(self._known, topology)
        # All logs begin with the same entries, so one cursor is valid for all of them.
        topology.log_id = self._known.log_id
        return topology

    def _send_changes(self, node_id: str, topology: Topology) -> None:
        world = self._world
        near, bridges = self._regions.observers(node_id), self._bridges.get(node_id, ())
        for watcher in sorted({*near, *bridges}):
            request = mesh_pb2.WatchRequest(
                mesh=MESH,
                cursor=self._cursor,
                record=mesh_pb2.SignedRecord(),
                region=None if watcher in near else self._regions.region_of(node_id),
            )
            writer = FeedWriter(topology, lambda _: None, watcher=watcher, request=request)
            for message in writer.messages():
                if not message.records:
                    continue  # a feed that was open before would send nothing
                delay = BATCH + world.network.latency(node_id, watcher)
                data = message.SerializeToString()
                counts = world.traffic.setdefault((node_id, watcher), [0, 0])
                counts[0] += 1
                counts[1] += len(data)
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
