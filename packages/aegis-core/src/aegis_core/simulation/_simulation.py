"""The simulation: a mesh to try tests and ideas on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from aegis_discovery import NodeStatus, Topology
from aegis_discovery.documents import (
    DocumentBody,
    DocumentKind,
    DocumentStore,
    SignedDocument,
    encode_body,
)
from aegis_discovery.records import Opinion

from aegis_core._membership.regions import Regions
from aegis_core.simulation._event_loop import Entity
from aegis_core.simulation._fake_signing import MESH
from aegis_core.simulation._network import ROUND_TRIP
from aegis_core.simulation._process import Process, fake_signer
from aegis_core.simulation._warm_start import copy_topology, shared_state
from aegis_core.simulation._world import Event, Spread, Traffic, World

_Act = Callable[[str], None]


class UnmetError(AssertionError):
    """A condition did not become true in time.

    Attributes:
        seed: Repeats the same simulation.
        at: Seconds since the start at the end of the wait.
    """

    def __init__(self, what: str, seed: int, at: float) -> None:
        super().__init__(f"{what} (at {at:.2f} s; run it again with seed={seed})")
        self.seed = seed
        self.at = at


class Simulation:
    """Many nodes in one thread and in virtual time, the same for the same seed.

    Every node has a real topology, a real session with its membership, and real feeds, whose
    messages are encoded and decoded. Sockets, timers and signatures are simulated: a feed is a
    stream over TCP, so a lost packet arrives late, or breaks it. At the start all nodes know each
    other.

    Args:
        nodes: The number of nodes, or their ids. Generated ids are `node-000` and so on, or
            `eu-000` with regions.
        seed: Of all random choices.
        regions: The regions, each with as many nodes.
        boundary: What all nodes state as their boundary.
    """

    def __init__(
        self,
        nodes: int | Sequence[str] = 100,
        *,
        seed: int = 0,
        regions: Sequence[str] = (),
        boundary: str = "",
    ) -> None:
        self.seed = seed
        self._world: World[Process] = World(seed)
        places = self._world.network.regions
        if isinstance(nodes, int):
            width = max(3, len(str(nodes - 1)))
            places |= {
                f"{region}-{number:0{width}}": region
                for region in regions
                for number in range(nodes)
            }
            nodes = [*places] or [f"node-{number:0{width}}" for number in range(nodes)]
        self._boundary = boundary
        self._flaps: dict[str, Entity] = {}
        self._pauses: list[Entity] = []
        self._begin(nodes)

    def __repr__(self) -> str:
        return f"<Simulation of {len(self.live)} nodes at {self.now:.2f} s, seed={self.seed}>"

    # Observing

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self._world.clock.now

    @property
    def live(self) -> tuple[str, ...]:
        """Ids of the nodes that run, in order."""
        return tuple(sorted(i for i, p in self._world.processes.items() if not p.has_ended))

    @property
    def events(self) -> Sequence[Event]:
        """All events, in order."""
        return self._world.events

    @property
    def traffic(self) -> Mapping[tuple[str, str], Traffic]:
        """The traffic of each edge so far, by (serving node, watcher)."""
        edges = self._world.traffic.items()
        return MappingProxyType({edge: Traffic(*counts) for edge, counts in edges})

    def region_of(self, node_id: str) -> str:
        return self._world.network.regions.get(node_id, "")

    def bridges_of(self, region: str, *, by: str) -> tuple[str, ...]:
        """Returns the bridges of a region as a node sees them; none without boundaries."""
        return self._world.processes[by].session.membership.regions.bridges(region)

    def feeds_across(self) -> int:
        """The number of open feeds between nodes of different regions."""
        return sum(self._process(node_id).session.across for node_id in self.live)

    def topology_of(self, node_id: str) -> Topology:
        """Returns a node's topology; change it through the simulation only."""
        return self._world.processes[node_id].topology

    def documents_of(self, node_id: str) -> DocumentStore:
        """Returns the documents that a node holds."""
        return self._world.processes[node_id].documents

    def status_of(self, subject: str, *, by: str) -> NodeStatus | None:
        """Returns the status of a node as another one sees it; None if that does not know it."""
        topology = self.topology_of(by)
        node = topology.get_node(subject)
        if node is not None:
            return node.status
        return None if topology.get_record(subject) is None else NodeStatus.LEFT

    def everywhere(self, subject: str, *statuses: NodeStatus, by: Iterable[str] = ()) -> bool:
        """Tells whether all other running nodes, or all of `by`, see one of these statuses."""
        return all(
            self.status_of(subject, by=observer) in statuses
            for observer in by or self.live
            if observer != subject
        )

    def is_one_mesh(self, among: Iterable[str] = ()) -> bool:
        """Tells whether all running nodes, or all of `among`, agree and see each other alive."""
        nodes = sorted(among) or self.live
        digests = {self.topology_of(node_id).digest for node_id in nodes}
        return len(digests) <= 1 and all(
            self.everywhere(node_id, NodeStatus.ALIVE, by=nodes) for node_id in nodes
        )

    # Time

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        self._world.clock.run(self.now + seconds)

    def run_until(
        self,
        condition: Callable[[], object],
        *,
        within: float,
        what: str = "",
        every: float = 0.1,
    ) -> float:
        """Lets time pass until a condition is true; returns the seconds that it took.

        Args:
            condition: What to wait for.
            within: The most seconds.
            what: Its name, for the error.
            every: Seconds between two checks.

        Raises:
            UnmetError: If it is not true in time.
        """
        began = self.now
        deadline = began + within
        while not condition():
            if self.now >= deadline:
                raise UnmetError(
                    f"{what or 'it'} did not come true within {within:g} s", self.seed, self.now
                )
            self.run(min(every, deadline - self.now))
        return self.now - began

    # Actions on nodes

    def update(self, node_id: str) -> Spread:
        """Changes a node's record; the result shows how that spreads as time passes."""
        process = self._process(node_id)
        node = process.topology.get_node(node_id)
        if node is None:
            raise ValueError(f"{node_id} left; restart it first")
        process.topology.update_node(node)
        record = process.topology.get_record(node_id)
        assert record is not None  # noqa: S101 - just written
        self._world.log_event("", "update", node_id)
        spread = Spread(node_id, record.stamp, self.now, {node_id: 0}, {node_id: 0.0})
        self._world.spreads.append(spread)
        return spread

    def publish(self, node_id: str, kind: DocumentKind, content: bytes) -> None:
        """Publishes a document at a node, as an issuer there does; anything but a CRL."""
        process = self._process(node_id)
        held = process.documents.get(kind)
        now = round(self._world.wall_clock(node_id)() * 1000)
        sequence = max(now, held.sequence + 1 if held else 0)
        body = DocumentBody("simulated", MESH, "", kind.value, sequence, content)
        self._world.log_event("", "publish", node_id)
        process.documents.receive(SignedDocument(encode_body(body)))

    def join(
        self,
        node_id: str,
        *,
        seeds: Iterable[str],
        region: str | None = None,
        boundary: str | None = None,
    ) -> None:
        """Starts a node, or a new process of one that ended; it knows its seed peers only.

        By default it is in the region of its last process, and states the mesh's boundary.

        Raises:
            ValueError: If it runs already.
        """
        known = self._world.processes.get(node_id)
        if known is not None and not known.has_ended:
            raise ValueError(f"{node_id} runs already; kill it first")
        self._world.log_event("", "join", node_id)
        if region is not None:
            self._world.network.regions[node_id] = region
        stated = self._boundary if boundary is None else boundary
        process = Process(self._world, node_id, seeds=seeds, boundary=stated)
        self._world.processes[node_id] = process
        process.start()

    def restart(self, node_id: str) -> None:
        """Kills a node, unless it has ended, and starts it again with three seed peers."""
        known = self._world.processes.get(node_id)
        if known is not None and not known.has_ended:
            self.kill(node_id)
        others = [other for other in self.live if other != node_id]
        self.join(node_id, seeds=self._world.rng.sample(others, min(3, len(others))))

    def kill(self, node_id: str) -> None:
        """Kills a node: its connections break, and its host refuses new ones."""
        process = self._process(node_id)
        self._world.log_event("", "kill", node_id)
        process.end()

    def leave(self, node_id: str) -> None:
        """Stops a node, so that it leaves the mesh."""
        process = self._process(node_id)
        self._world.log_event("", "leave", node_id)
        process.leave()

    def stall(self, node_id: str, seconds: float, *, every: float | None = None) -> None:
        """Pauses a node's process, as SIGSTOP does; its connections stay open.

        Args:
            node_id: The node.
            seconds: The length of the pause.
            every: Seconds from one such pause to the next, until `heal`: a slow node.
        """
        process = self._process(node_id)
        self._world.log_event("", "stall", node_id)
        process.paused_until = max(process.paused_until, self.now + seconds)
        if every is not None:
            self._pauses.append(entity := Entity())
            self._world.clock.after(
                every, entity, self._stall_again, entity, node_id, seconds, every
            )

    def skew(self, node_id: str, seconds: float) -> None:
        """Sets a node's wall clock ahead, or behind if negative."""
        self._world.log_event("", "skew", node_id)
        self._world.skews[node_id] = seconds

    def accuse(self, accuser: str, *subjects: str, held: bool = False) -> None:
        """Makes a node publish that others failed, whatever it sees of them.

        Args:
            accuser: The node that lies.
            subjects: The nodes that it accuses.
            held: Whether that covers their newer records too, as for a node that comes and goes.
        """
        process = self._process(accuser)
        for subject in subjects:
            self._world.log_event("", "accuse", subject)
            process.topology.publish_verdict(subject, Opinion.FAILED, held=held)

    def withhold(self, node_id: str) -> None:
        """Makes a node lie to all its watchers: it sends heartbeats, and no change."""
        self._world.log_event("", "withhold", node_id)
        self._process(node_id).withholds = True

    # Actions on links

    def cut(self, *regions: str) -> None:
        """Cuts regions off from all others, until `heal`."""
        self._world.log_event("", "cut", " ".join(regions))
        self._world.network.cut(regions)

    def lines(self, *, round_trip: float = ROUND_TRIP, bandwidth: float = math.inf) -> None:
        """Sets the seconds of a round trip between regions, and the bytes a second of each line."""
        self._world.network.set_lines(round_trip, bandwidth)

    def partition(self, *groups: Iterable[str]) -> None:
        """Divides the mesh into groups that cannot reach each other; all others are one more."""
        self._world.log_event("", "partition", "")
        self._world.network.divide(groups)

    def block(self, source: str | None = None, target: str | None = None) -> None:
        """Blocks packets from one node to another; None is every node.

        One direction is enough to stall a stream at both ends. `block(node_id)` makes a node a
        black hole.
        """
        self._world.log_event("", "block", source or target or "")
        self._world.network.block(source, target)

    def unblock(self, source: str | None = None, target: str | None = None) -> None:
        """Undoes a `block`."""
        self._world.log_event("", "unblock", source or target or "")
        self._world.network.unblock(source, target)

    def break_streams(self, one: str, other: str | None = None) -> None:
        """Breaks all streams between two running nodes, or all of one node, at both ends.

        Messages on their way are lost, and requested again on the next stream.
        """
        self._process(one)
        self._world.log_event("", "break", one)
        for process in self._world.processes.values():
            for stream in process.streams.values():
                ends = {process.id, stream.server}
                if one in ends and other in (None, *ends - {one}):
                    self._world.break_stream(stream)

    def flap(self, node_id: str, *, blocked: float = 10.0, opened: float = 10.0) -> None:
        """Blocks and opens all links of a node in turn, until `heal`."""
        if node_id not in self._flaps:
            self._flaps[node_id] = Entity()
            self._flap(node_id, self.block, blocked, self.unblock, opened)

    def delay(self, share: float, *, least: float, most: float) -> None:
        """Delays a share of all heartbeats; later messages of the stream wait behind them."""
        self._world.log_event("", "delay", "")
        self._world.network.delay(share, least, most)

    def heal(self) -> None:
        """Opens all links, and ends all delays, repeated pauses and flapping."""
        self._world.log_event("", "heal", "")
        for entity in (*self._flaps.values(), *self._pauses):
            entity.has_ended = True
        self._flaps.clear()
        self._pauses.clear()
        self._world.network.heal()

    def _begin(self, ids: Sequence[str]) -> None:
        world = self._world
        signers = {node_id: fake_signer(world, node_id) for node_id in ids}
        known, regions = shared_state(world, signers, self._boundary)
        for node_id, signer in signers.items():
            process = world.processes[node_id] = Process(
                world, node_id, signer=signer, boundary=self._boundary
            )
            copy_topology(known, process.topology)
            # Within a second, so that heartbeats and reviews are spread as in a real mesh.
            world.clock.at(world.rng.random(), process, _start, process, regions)
        self.run(2.0)
        world.events.clear()
        for counts in world.traffic.values():
            counts[:] = [0, 0]

    def _process(self, node_id: str) -> Process:
        process = self._world.processes.get(node_id)
        if process is None or process.has_ended:
            raise ValueError(f"{node_id} does not run")
        return process

    def _stall_again(self, pause: Entity, node_id: str, seconds: float, every: float) -> None:
        process = self._world.processes[node_id]
        if not process.has_ended:
            process.paused_until = max(process.paused_until, self.now + seconds)
        self._world.clock.after(every, pause, self._stall_again, pause, node_id, seconds, every)

    def _flap(self, node_id: str, act: _Act, seconds: float, then: _Act, pause: float) -> None:
        act(node_id)
        flap = self._flaps[node_id]
        self._world.clock.after(seconds, flap, self._flap, node_id, then, pause, act, seconds)


def _start(process: Process, regions: Regions) -> None:
    process.start(regions=regions.copy())
