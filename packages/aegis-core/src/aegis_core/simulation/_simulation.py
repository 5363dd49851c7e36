"""The simulation: a mesh that a test, or an idea, is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from aegis_discovery import NodeStatus, Topology
from aegis_discovery.records import Opinion

from aegis_core._membership.rings import Rings
from aegis_core.simulation._event_loop import Actor
from aegis_core.simulation._process import Process, fake_signer
from aegis_core.simulation._warm_start import clone, copy_knowledge, shared_knowledge
from aegis_core.simulation._world import Event, Spread, Traffic, World


class UnmetError(AssertionError):
    """What was expected of a simulation did not come true.

    Attributes:
        seed: Makes the same happen again.
        at: Seconds since the start when the wait was over.
    """

    def __init__(self, what: str, seed: int, at: float) -> None:
        super().__init__(f"{what} (at {at:.2f} s; run it again with seed={seed})")
        self.seed = seed
        self.at = at


class Simulation:
    """Many nodes in one thread and in virtual time, the same for the same seed.

    Every node has a real topology, real feeds, whose messages are encoded and decoded, and the
    real membership. Sockets, timers and signatures are simulated: a feed is a stream over TCP, so
    what is lost on the way comes late, or breaks it. It begins as one mesh that knows itself.

    Args:
        nodes: How many, or their ids. Made ids are `node-000` and so on.
        seed: Of all chance.
    """

    def __init__(self, nodes: int | Sequence[str] = 100, *, seed: int = 0) -> None:
        if isinstance(nodes, int):
            width = max(3, len(str(nodes - 1)))
            nodes = [f"node-{number:0{width}}" for number in range(nodes)]
        self.seed = seed
        self._world: World[Process] = World(seed)
        self._flaps: dict[str, Actor] = {}
        self._pauses: list[Actor] = []
        self._begin(nodes)

    def __repr__(self) -> str:
        return f"<Simulation of {len(self.live)} nodes at {self.now:.2f} s, seed={self.seed}>"

    # Looking

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self._world.clock.now

    @property
    def live(self) -> tuple[str, ...]:
        """Ids of the nodes that run, in order."""
        return tuple(sorted(i for i, p in self._world.processes.items() if not p.is_over))

    @property
    def events(self) -> Sequence[Event]:
        """All that happened, in order."""
        return self._world.events

    @property
    def traffic(self) -> Mapping[tuple[str, str], Traffic]:
        """What went over each edge so far, by (serving node, watcher)."""
        edges = self._world.traffic.items()
        return MappingProxyType({edge: Traffic(*counts) for edge, counts in edges})

    def topology_of(self, node_id: str) -> Topology:
        """Returns what a node knows; change it through the simulation only."""
        return self._world.processes[node_id].topology

    def status_of(self, subject: str, *, by: str) -> NodeStatus | None:
        """Tells what one node holds another one for; None is unknown."""
        topology = self.topology_of(by)
        node = topology.get_node(subject)
        if node is not None:
            return node.status
        return None if topology.get_record(subject) is None else NodeStatus.LEFT

    def everywhere(self, subject: str, *statuses: NodeStatus, by: Iterable[str] = ()) -> bool:
        """Tells whether all other nodes that run, or all of `by`, hold one for any of these."""
        return all(
            self.status_of(subject, by=observer) in statuses
            for observer in by or self.live
            if observer != subject
        )

    def is_one_mesh(self, among: Iterable[str] = ()) -> bool:
        """Tells whether all nodes that run, or all of `among`, know the same, and each other."""
        nodes = sorted(among) or self.live
        digests = {self.topology_of(node_id).digest for node_id in nodes}
        return len(digests) <= 1 and all(
            self.everywhere(node_id, NodeStatus.ALIVE, by=nodes) for node_id in nodes
        )

    # Moving time on

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
        """Lets time pass until something is so; returns after how many seconds it was.

        Args:
            condition: What to wait for.
            within: The most seconds.
            what: Names it, for the error.
            every: Seconds between two looks.

        Raises:
            UnmetError: If it is not so in time.
        """
        began = self.now
        while not condition():
            if self.now - began >= within:
                raise UnmetError(
                    f"{what or 'it'} did not come true within {within:g} s", self.seed, self.now
                )
            self.run(min(every, began + within - self.now))
        return self.now - began

    # What nodes do

    def update(self, node_id: str) -> Spread:
        """Lets a node change its record; the result tells, in time, how that spreads."""
        process = self._process(node_id)
        node = process.topology.get_node(node_id)
        if node is None:
            raise ValueError(f"{node_id} left; restart it first")
        process.topology.update_node(node)
        record = process.topology.get_record(node_id)
        assert record is not None  # noqa: S101 - just written
        self._world.note("", "update", node_id)
        spread = Spread(node_id, record.stamp, self.now, {node_id: 0}, {node_id: 0.0})
        self._world.spreads.append(spread)
        return spread

    def join(self, node_id: str, *, seeds: Iterable[str]) -> None:
        """Starts a node, or a new process of one that ended; it knows nobody but its seed peers.

        Raises:
            ValueError: If it runs already.
        """
        known = self._world.processes.get(node_id)
        if known is not None and not known.is_over:
            raise ValueError(f"{node_id} runs already; kill it first")
        self._world.note("", "join", node_id)
        process = Process(self._world, node_id, seeds=seeds)
        self._world.processes[node_id] = process
        process.start()

    def restart(self, node_id: str) -> None:
        """Ends a node by SIGKILL, unless it ended, and starts it anew, with three seed peers."""
        known = self._world.processes.get(node_id)
        if known is not None and not known.is_over:
            self.kill(node_id)
        others = [other for other in self.live if other != node_id]
        self.join(node_id, seeds=self._world.rng.sample(others, min(3, len(others))))

    def kill(self, node_id: str) -> None:
        """Ends a node by SIGKILL: its connections break, its host refuses new ones."""
        process = self._process(node_id)
        self._world.note("", "kill", node_id)
        process.end()

    def leave(self, node_id: str) -> None:
        """Lets a node leave in order."""
        process = self._process(node_id)
        self._world.note("", "leave", node_id)
        process.leave()

    def stall(self, node_id: str, seconds: float, *, every: float | None = None) -> None:
        """Stops a node's process for a while, as SIGSTOP does; its connections stay.

        Args:
            node_id: Whose.
            seconds: How long.
            every: Seconds from one such pause to the next, until `heal`: a slow node.
        """
        process = self._process(node_id)
        self._world.note("", "stall", node_id)
        process.stopped_until = max(process.stopped_until, self.now + seconds)
        if every is not None:
            self._pauses.append(actor := Actor())
            self._world.clock.after(every, actor, self._stall_again, actor, node_id, seconds, every)

    def skew(self, node_id: str, seconds: float) -> None:
        """Sets a node's wall clock ahead, or behind where negative."""
        self._world.note("", "skew", node_id)
        self._world.skews[node_id] = seconds

    def accuse(self, accuser: str, *subjects: str, held: bool = False) -> None:
        """Lets a node say that others are failed, whatever it sees of them.

        Args:
            accuser: Who lies.
            subjects: About whom.
            held: Whether it says so of their newer records, too, as of a node that comes and goes.
        """
        process = self._process(accuser)
        for subject in subjects:
            self._world.note("", "accuse", subject)
            process.topology.publish_verdict(subject, Opinion.FAILED, held=held)

    # What happens to links

    def partition(self, *groups: Iterable[str]) -> None:
        """Cuts the mesh: nodes reach those of their group only; all others are one more group."""
        self._world.note("", "partition", "")
        self._world.network.divide(groups)

    def block(self, source: str | None = None, target: str | None = None) -> None:
        """Lets nothing through from one node to another; None is everybody.

        One way is enough to make both ends of a stream hear nothing, and `block(node_id)` makes
        a black hole of a node.
        """
        self._world.note("", "block", source or target or "")
        self._world.network.block(source, target)

    def unblock(self, source: str | None = None, target: str | None = None) -> None:
        """Takes a `block` back."""
        self._world.note("", "unblock", source or target or "")
        self._world.network.unblock(source, target)

    def break_streams(self, one: str, other: str | None = None) -> None:
        """Breaks all streams between two nodes that run, or all of one node, at both ends.

        What is on its way is lost, and asked for again on the next stream.
        """
        self._process(one)
        self._world.note("", "break", one)
        for process in self._world.processes.values():
            for stream in process.streams.values():
                ends = {process.id, stream.server}
                if one in ends and other in (None, *ends - {one}):
                    self._world.break_stream(stream)

    def flap(self, node_id: str, *, blocked: float = 10.0, opened: float = 10.0) -> None:
        """Blocks all links of a node and opens them again, by turns, until `heal`."""
        if node_id not in self._flaps:
            self._flaps[node_id] = Actor()
            self._close(node_id, blocked, opened)

    def delay(self, share: float, *, least: float, most: float) -> None:
        """Delays a share of all heartbeats by so many seconds; what follows one queues behind."""
        self._world.note("", "delay", "")
        self._world.network.delay(share, least, most)

    def heal(self) -> None:
        """Opens all links and ends all delays, pauses and flapping to come."""
        self._world.note("", "heal", "")
        for actor in (*self._flaps.values(), *self._pauses):
            actor.is_over = True
        self._flaps.clear()
        self._pauses.clear()
        self._world.network.heal()

    def _begin(self, ids: Sequence[str]) -> None:
        """Starts all nodes as if they had known each other for long."""
        world = self._world
        signers = {node_id: fake_signer(world, node_id) for node_id in ids}
        known, rings = shared_knowledge(world, signers)
        for node_id, signer in signers.items():
            process = world.processes[node_id] = Process(world, node_id, signer=signer)
            copy_knowledge(known, process.topology)
            # Within a second, so that heartbeats and looks are spread as in a real mesh.
            world.clock.at(world.rng.random(), process, _start, process, rings)
        self.run(2.0)
        world.events.clear()
        for counts in world.traffic.values():
            counts[:] = [0, 0]

    def _process(self, node_id: str) -> Process:
        process = self._world.processes.get(node_id)
        if process is None or process.is_over:
            raise ValueError(f"{node_id} does not run")
        return process

    def _stall_again(self, actor: Actor, node_id: str, seconds: float, every: float) -> None:
        process = self._world.processes[node_id]
        if not process.is_over:
            process.stopped_until = max(process.stopped_until, self.now + seconds)
        self._world.clock.after(every, actor, self._stall_again, actor, node_id, seconds, every)

    def _close(self, node_id: str, blocked: float, opened: float) -> None:
        self.block(node_id)
        actor = self._flaps[node_id]
        self._world.clock.after(blocked, actor, self._open, node_id, blocked, opened)

    def _open(self, node_id: str, blocked: float, opened: float) -> None:
        self.unblock(node_id)
        actor = self._flaps[node_id]
        self._world.clock.after(opened, actor, self._close, node_id, blocked, opened)


def _start(process: Process, rings: Rings) -> None:
    process.start(rings=clone(rings))
