"""One life of a simulated node: the real parts, and around them the shell in virtual time."""

from __future__ import annotations

from collections.abc import Iterable

from aegis_discovery import InvalidRecordError, NodeInfo, NodeStatus, Topology, TopologyEvent
from aegis_discovery.feed import BATCH, HEARTBEAT, FeedReader, FeedWriter, ReceiveResult
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import (
    LEASE,
    REPUBLISH_EVERY,
    Record,
    RecordSigner,
    signed_from_wire,
)
from aegis_discovery.transport import Backoff

from aegis_core._membership.membership import REVIEW, Membership
from aegis_core._membership.rings import Rings
from aegis_core._peers.dialing import (
    GOODBYES,
    LEFT_PAUSE,
    MAINTENANCE,
    RECOVER_EVERY,
    RECOVERY,
    REDIAL_AFTER,
    lost_one,
)
from aegis_core.simulation._fake_signing import MESH, FakeSigning, FakeVerifier
from aegis_core.simulation._world import Host, Stream, Watch, World

_GRACE = 0.5
"""Seconds that a leaving node waits for the last news to be sent."""

_NOTHING = ReceiveResult(complete=False)

_SOON = 1e-9
"""Seconds that sums of times may be off."""


class Process(Host):
    """A node's process, from its start to its end.

    Attributes:
        serving: The feeds that it serves.
        watches: The feeds that it reads, by node id.
    """

    def __init__(
        self,
        world: World[Process],
        node_id: str,
        *,
        signer: RecordSigner | None = None,
        seeds: Iterable[str] = (),
    ) -> None:
        self.id = node_id
        self._world = world
        self._clock = world.clock
        wall = world.wall_clock(node_id)
        self._signer = signer or fake_signer(world, node_id)
        self.topology = Topology(owner=node_id, signer=self._signer, clock=wall)
        self.topology.log_id = world.rng.randbytes(8)
        self._verifier = FakeVerifier(world.decoder, wall)
        self._wall = wall
        self._seeds = tuple(seed for seed in seeds if seed != node_id)
        self.watches: dict[str, Watch] = {}
        self.serving: dict[Stream, None] = {}
        self._membership: Membership | None = None
        self._is_leaving = False
        self._ticked_at = 0.0
        self._is_tick_due = self._is_flush_due = False
        self._reconciled_at = -1
        self._answered: set[str] = set()

    @property
    def membership(self) -> Membership:
        """What decides in it."""
        assert self._membership is not None  # noqa: S101 - it is there since the start
        return self._membership

    def start(self, *, rings: Rings | None = None) -> None:
        """Begins to work; with prepared rings, everything in the topology is on them already."""
        now = self._clock.now
        if self.topology.get_record(self.id) is None:
            self.topology.add_node(NodeInfo(self.id, address=f"{self.id}:7000"))
        position = self.topology.log_position if rings else 0
        self._membership = Membership(self.topology, now, rings=rings, position=position)
        self.topology.subscribe(self._on_event)
        self.topology.subscribe_changed(self._on_wake)
        self._tick()
        self._clock.after(REVIEW, self, self._review)
        self._clock.after(HEARTBEAT, self, self._beat)
        self._clock.after(RECOVER_EVERY, self, self._recover)
        self._clock.after(MAINTENANCE * self._world.rng.random(), self, self._maintain)

    def end(self) -> None:
        """Ends at once, as by SIGKILL: whoever can be reached sees its streams break."""
        self.is_over = True
        self.membership.close()
        for watch in self.watches.values():
            if watch.stream is not None:
                watch.stream.is_over = True
        for stream in self.serving:
            self._world.reset(stream)

    def leave(self) -> None:
        """Ends in order: says so, ends its feeds with OK, and is gone a little later."""
        self._is_leaving = True
        for node_id in list(self.watches):
            self._let_go(node_id)
        self.topology.remove_node(self.id)
        aware = {stream.watcher.id for stream in self.serving}
        unaware = [
            node.id
            for node in self.topology.nodes.values()
            if node.status is NodeStatus.ALIVE and node.id not in aware
        ]
        told = self._world.rng.sample(unaware, min(len(unaware), GOODBYES))
        for node_id in told:
            self._try(node_id)
        self._clock.after(_GRACE, self, self._close)

    def _close(self) -> None:
        for stream in self.serving:
            if not stream.is_over and stream.writer is not None:
                self._tell(stream)
                self._world.send(stream, None)
        # Its last bytes are the kernel's to send.
        self.is_over = True
        self.membership.close()

    # Ticking

    def _on_event(self, event: TopologyEvent) -> None:
        self._world.note(self.id, event.kind.value, event.node.id)

    def _on_wake(self) -> None:
        if not self._is_tick_due:
            self._is_tick_due = True
            self._clock.after(0.0, self, self._tick)
        if not self._is_flush_due and self.serving:
            self._is_flush_due = True
            self._clock.after(BATCH, self, self._flush)

    def _tick(self) -> None:
        self._is_tick_due = False
        self._ticked_at = self._clock.now
        if self._is_leaving:
            return
        self.membership.tick(self._clock.now)
        # Whom to watch depends on nothing but what has a place in the log.
        if self._reconciled_at != self.topology.log_position:
            self._reconciled_at = self.topology.log_position
            self._reconcile()

    def _review(self) -> None:
        if self._ticked_at + REVIEW <= self._clock.now + _SOON:
            self._tick()
        self._clock.at(self._ticked_at + REVIEW, self, self._review)

    def _maintain(self) -> None:
        self.topology.expire()
        record = self.topology.get_record(self.id)
        if record is not None and record.expires_at / 1000 - self._wall() < LEASE - REPUBLISH_EVERY:
            self.topology.republish()
        self._clock.after(MAINTENANCE, self, self._maintain)

    def _recover(self) -> None:
        if self._is_leaving:
            return
        lost = lost_one(self.membership, self.watches, self._world.rng.choice)
        if lost is not None:
            self._try(lost)
        self._clock.after(RECOVER_EVERY, self, self._recover)

    # Watching

    def _reconcile(self) -> None:
        wanted = set(self.membership.watched)
        for seed in self._seeds:
            record = self.topology.get_record(seed)
            if record is None or record.info is None:
                wanted.add(seed)
        for node_id in sorted(self.watches.keys() - wanted):
            self._let_go(node_id)
        for node_id in sorted(wanted - self.watches.keys()):
            watch = self._new_watch(node_id)
            self.watches[node_id] = watch
            self._dial(watch)
        for node_id, watch in self.watches.items():
            if watch.stream is None and self._stamp_of(node_id) != watch.stamp:
                self._dial(watch)

    def _let_go(self, node_id: str) -> None:
        watch = self.watches.pop(node_id)
        watch.tries += 1
        if watch.stream is not None:
            self._world.drop(watch.stream)

    def _new_watch(self, node_id: str, *, is_for_once: bool = False) -> Watch:
        reader = FeedReader(self.topology, self._verifier, trusts_statuses=False)
        backoff = Backoff(uniform=self._world.rng.uniform)
        return Watch(node_id, reader, backoff, is_for_once)

    def _stamp_of(self, node_id: str) -> int:
        record = self.topology.get_record(node_id)
        return record.stamp if record is not None and record.voucher is None else 0

    def _dial(self, watch: Watch) -> None:
        watch.tries += 1
        watch.heard_at = self._clock.now
        stream = watch.stream = Stream(watch.peer, self, watch)
        own = self.topology.get_record(self.id)
        request = watch.reader.request(MESH, own, source=watch.peer).SerializeToString()
        self._world.connect(stream, request)
        if not watch.is_for_once:
            self._clock.after(REDIAL_AFTER, self, self._look, stream)

    def _dial_again(self, watch: Watch, tries: int) -> None:
        if watch.stream is None and watch.tries == tries:
            self._dial(watch)

    def _look(self, stream: Stream) -> None:
        """Gives a stream up that has been silent for too long."""
        watch = stream.watch
        if stream.is_over or watch.stream is not stream:
            return
        silent_until = watch.heard_at + REDIAL_AFTER
        if silent_until <= self._clock.now + _SOON:
            self.lose(stream, is_hint=False)
        else:
            self._clock.at(silent_until, self, self._look, stream)

    def _try(self, node_id: str) -> None:
        """Exchanges once what both know."""
        watch = self._new_watch(node_id, is_for_once=True)
        self._dial(watch)
        assert watch.stream is not None  # noqa: S101 - just dialled
        self._clock.after(RECOVERY, self, self._world.drop, watch.stream)

    def lose(self, stream: Stream, *, pause: float = 0.0, is_hint: bool = True) -> None:
        """Takes note that a stream ended, and dials again after a while."""
        if stream.is_over:
            return
        self._world.drop(stream)
        watch = stream.watch
        watch.stream = None
        if watch.is_for_once:
            return
        watch.stamp = self._stamp_of(watch.peer)
        if is_hint:
            self.membership.lost(watch.peer, self._clock.now)
            self._on_wake()
        watch.tries += 1
        delay = max(watch.backoff.next(), pause)
        self._clock.after(delay, self, self._dial_again, watch, watch.tries)

    def receive(self, stream: Stream, data: bytes | None) -> None:
        """Takes in what came on a stream; None is its end in order."""
        if stream.is_over:
            return
        watch = stream.watch
        if data is None:
            self.lose(stream, pause=LEFT_PAUSE, is_hint=False)
            return
        received = self._read(watch, data)
        if not watch.is_for_once:
            watch.heard_at = self._clock.now
            watch.backoff.reset()
            self.membership.heard(watch.peer, self._clock.now)
        elif received.complete:
            self._world.drop(stream)
        if received.foreign is not None:
            self._meet_foreign(received.foreign)
        if received.diverged and not stream.is_over and not watch.is_for_once:
            self._world.drop(stream)
            self._dial(watch)

    def _read(self, watch: Watch, data: bytes) -> ReceiveResult:
        """Takes in a message; one heartbeat after the other says nothing while nothing changes."""
        beat = (data, self.topology.log_position, self.topology.version)
        if watch.beat == beat:
            return _NOTHING
        message = self._world.decode(data)
        received = watch.reader.receive(message, source=watch.peer)
        is_at_rest = not message.cursor and message.digest == self.topology.digest
        watch.beat = beat if is_at_rest and message.version <= beat[2] else None
        return received

    def _meet_foreign(self, record: Record) -> None:
        """Answers as a node does: once above it, then it gives way."""
        if self._is_leaving:
            return
        if record.info is None or record.instance not in self._answered:
            self._answered.add(record.instance)
            self.topology.republish()
            for watch in list(self.watches.values()):
                if watch.stream is not None:
                    self._world.drop(watch.stream)
                self._dial(watch)
            return
        self._world.note(self.id, "id in use", self.id)
        self.end()

    # Serving

    def accept(self, stream: Stream, request: bytes) -> None:
        """Opens a feed for a watcher."""
        if stream.is_over:
            return
        message = mesh_pb2.WatchRequest.FromString(request)
        if message.HasField("record"):
            try:
                record = self._verifier.verify(signed_from_wire(message.record))
            except InvalidRecordError:
                self._world.reset(stream)
                return
            result = self.topology.merge_records([record], origin=stream.watcher.id)
            if result.foreign is not None:
                self._meet_foreign(result.foreign)
        stream.writer = FeedWriter(
            self.topology, lambda _: None, watcher=stream.watcher.id, request=message
        )
        self._tell(stream)

    def _flush(self) -> None:
        self._is_flush_due = False
        self._forget_ended()
        for stream in self.serving:
            if stream.writer is not None:
                self._tell(stream)

    def _tell(self, stream: Stream) -> None:
        assert stream.writer is not None  # noqa: S101 - it was accepted
        stream.beat_at = self._clock.now + HEARTBEAT
        for message in stream.writer.messages():
            self._world.send(stream, message.SerializeToString())

    def _beat(self) -> None:
        """Sends a heartbeat on each feed that said nothing for its time."""
        now = self._clock.now
        self._forget_ended()
        due = now + HEARTBEAT
        idle: list[Stream] = []
        for stream in self.serving:
            if stream.writer is None:
                continue
            if stream.beat_at <= now + _SOON:
                stream.beat_at = now + HEARTBEAT
                writer = stream.writer
                idle.append(stream)
            due = min(due, stream.beat_at)
        if idle:
            # At one moment it is the same for all.
            self._world.send_heartbeat(idle, writer.heartbeat().SerializeToString())
        self._clock.at(due, self, self._beat)

    def _forget_ended(self) -> None:
        for stream in [stream for stream in self.serving if stream.is_over]:
            del self.serving[stream]


def fake_signer(world: World[Process], node_id: str) -> RecordSigner:
    """Makes the signer of one life of a node."""
    signer = RecordSigner(node_id, mesh=MESH, key=FakeSigning(), clock=world.wall_clock(node_id))
    signer.instance = world.rng.randbytes(8).hex()
    return signer
