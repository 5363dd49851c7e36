"""One process of a simulated node: the real session, feeds and topology in virtual time."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

from aegis_discovery import InvalidRecordError, NodeInfo, Topology, TopologyEvent
from aegis_discovery.documents import DocumentStore
from aegis_discovery.feed import (
    BATCH,
    HEARTBEAT,
    FeedReader,
    FeedWriter,
    ReceiveResult,
    Ticks,
    heartbeat_phase,
    heartbeat_ticks,
)
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import RecordSigner, signed_from_wire

from aegis_core._membership.regions import Regions
from aegis_core._peers.feed import Feed, FeedEnd
from aegis_core._peers.info import PeerInfo
from aegis_core._peers.session import MAINTENANCE, Session
from aegis_core.simulation._fake_signing import (
    MESH,
    FakeDocumentVerifier,
    FakeSigning,
    FakeVerifier,
)
from aegis_core.simulation._world import Host, Stream, World, address_of

_GRACE = 0.5
"""Seconds that a leaving node takes to send its last changes."""

_NOTHING = ReceiveResult(complete=False)

_EPSILON = 1e-9
"""The rounding error of sums of times (s)."""


class Process(Host):
    """A node's process, from its start to its end.

    Attributes:
        documents: The documents that it holds.
        serving: The feeds that it serves.
        streams: The feeds that it reads.
        region: Its region.
        withholds: Whether it lies to its watchers: it sends heartbeats, and nothing else.
    """

    def __init__(
        self,
        world: World[Process],
        node_id: str,
        *,
        signer: RecordSigner | None = None,
        seeds: Iterable[str] = (),
        address: str | None = None,
        boundary: str = "",
    ) -> None:
        self.id = node_id
        self.region, self._boundary = world.network.regions.get(node_id, ""), boundary
        self.withholds = False
        self.address = address or address_of(node_id)
        self._world = world
        self._clock = world.clock
        wall = world.wall_clock(node_id)
        self._ticks = Ticks(zlib.crc32(node_id.encode()) / 2**32)
        self._signer = signer or fake_signer(world, node_id)
        self.topology = Topology(owner=node_id, signer=self._signer, clock=wall)
        self.topology.log_id = world.rng.randbytes(8)
        self._verifier = FakeVerifier(world.decoder, wall)
        self.documents = DocumentStore(FakeDocumentVerifier(wall), clock=wall)
        self._wall = wall
        self._seeds = tuple(seed for seed in seeds if seed != node_id)
        self.serving: dict[Stream, None] = {}
        self.streams: dict[Feed, Stream] = {}
        self._session: Session | None = None
        self._next_tick = math.inf
        self._is_flush_due = False

    def start(self, *, regions: Regions | None = None) -> None:
        """Starts; prepared regions hold all nodes of the topology already."""
        now = self._clock.now
        if self.topology.get_record(self.id) is None:
            self.topology.add_node(
                NodeInfo(self.id, address=self.address, region=self.region, boundary=self._boundary)
            )
        self._session = Session(
            self.topology,
            self,
            now,
            new_reader=lambda region: FeedReader(
                self.topology,
                self._verifier,
                trusts_statuses=False,
                region=region,
                documents=self.documents,
            ),
            rng=self._world.rng,
            ticks=self._ticks,
            regions=regions,
        )
        self._world.addresses[self.address] = self
        for seed in self._seeds:
            self._check_own_id(seed)
        if self.has_ended:
            return
        for seed in self._seeds:
            self.session.peers.add(PeerInfo(seed, address_of(seed)))
        self.topology.subscribe(self._on_event)
        self.topology.subscribe_changed(self._on_changed)
        self.documents.subscribe_changed(self._on_document)
        self._tick_at(self.session.tick(now))
        self._clock.at(self._ticks.after(now), self, self._send_heartbeats)
        self._clock.after(MAINTENANCE * self._world.rng.random(), self, self._maintain)

    @property
    def instance(self) -> str:
        return self._signer.instance

    def _check_own_id(self, seed: str) -> None:
        """Asks a process that runs under this id; without delay, which no rule depends on."""
        world = self._world
        if not self._reaches(world.processes.get(seed)):
            return
        listed = world.processes[seed].topology.get_node(self.id)
        if listed is not None:
            holder = world.addresses.get(listed.address)
            if holder is not None and self._reaches(holder):
                self.session.holder_answered(holder.id, holder.instance, listed.address)

    def _reaches(self, process: Process | None) -> bool:
        if process is None or process.has_ended or process.paused_until > self._clock.now:
            return False
        is_open = self._world.network.is_open
        return is_open(process.id, self.id) and is_open(self.id, process.id)

    def end(self) -> None:
        """Ends at once, as by SIGKILL: all streams break on which packets get through."""
        self.has_ended = True
        self.session.membership.close()
        for stream in self.streams.values():
            stream.is_closed = True
        for stream in self.serving:
            self._world.reset(stream)

    def leave(self) -> None:
        self.session.leave()
        self.session.say_goodbye({stream.watcher.id for stream in self.serving}, self._clock.now)
        self._clock.after(_GRACE, self, self._close)

    def _close(self) -> None:
        for stream in self.serving:
            if not stream.is_closed and stream.writer is not None:
                self._send_changes(stream)
                self._world.send(stream, None)
        # The kernel sends the last bytes of a process that has ended.
        self.has_ended = True
        self.session.membership.close()

    # SessionShell

    @property
    def session(self) -> Session:
        assert self._session is not None  # noqa: S101 - there since the start
        return self._session

    def wake(self) -> None:
        self._tick_at(self._clock.now)

    def open(self, feed: Feed) -> None:
        stream = self.streams[feed] = Stream(feed.peer.id, self, feed)
        own = self.topology.get_record(self.id)
        phase = heartbeat_phase(self._clock.now, self._wall(), self._ticks)
        request = feed.reader.request(MESH, own, source=feed.peer.id, heartbeat_phase=phase)
        self._world.connect(stream, request.SerializeToString())

    def poll(self, feed: Feed) -> None:
        """Is never called: all simulated nodes have feeds."""
        raise NotImplementedError

    def close(self, feed: Feed) -> None:
        self._world.close(self.streams.pop(feed))

    def release(self, peer_id: str) -> None:
        """Does nothing: there are no connections but streams."""

    def give_way(self, address: str) -> None:
        self._world.log_event(self.id, "id in use", self.id)
        self.end()

    def _on_event(self, event: TopologyEvent) -> None:
        self._world.log_event(self.id, event.kind.value, event.node.id)

    def _on_changed(self) -> None:
        self.wake()
        if not self._is_flush_due and self.serving:
            self._is_flush_due = True
            self._clock.after(BATCH, self, self._flush)

    def _on_document(self) -> None:
        self.topology.forget(self.documents.forgotten_until)
        self._on_changed()

    def _tick_at(self, when: float) -> None:
        """Plans a tick, unless there is an earlier one."""
        if when < self._next_tick:
            self._next_tick = when
            self._clock.at(when, self, self._tick, when)

    def _tick(self, planned: float) -> None:
        # An earlier tick may have replaced this one.
        if planned == self._next_tick:
            self._next_tick = math.inf
            self._tick_at(self.session.tick(self._clock.now))

    def _maintain(self) -> None:
        self.session.maintain(self._wall())
        self._clock.after(MAINTENANCE, self, self._maintain)

    # Reading feeds

    def on_message(self, stream: Stream, data: bytes | None) -> None:
        """Handles a message of a feed, or its end in order (None)."""
        if data is None:
            self.on_end(stream, FeedEnd.IN_ORDER)
        elif not stream.is_closed:
            received = self._read(stream, data)
            self.session.message_received(stream.feed, received, self._clock.now)
            if received.diverged:
                self.on_end(stream, FeedEnd.DIVERGED)

    def on_end(self, stream: Stream, end: FeedEnd) -> None:
        if not stream.is_closed:
            self.close(stream.feed)
            self.session.feed_ended(stream.feed, end, self._clock.now)

    def on_ahead(self) -> None:
        if self.topology.restart_stamps():
            self.session.reopen_feeds(self._clock.now)

    def _read(self, stream: Stream, data: bytes) -> ReceiveResult:
        """Reads a message; equal heartbeats are read once while nothing changes."""
        heartbeat = (data, self.topology.log_position, self.topology.version)
        if stream.last_heartbeat == heartbeat:
            return _NOTHING
        message = self._world.decode(data)
        received = stream.feed.reader.receive(message, source=stream.server)
        is_at_rest = not message.cursor and message.digest == stream.feed.reader.digest
        is_at_rest &= message.home_digest in (b"", self.topology.region_digest(self.region))
        is_at_rest &= message.regions_digest in (b"", self.topology.regions_digest)
        is_idle = is_at_rest and message.version <= self.topology.version
        stream.last_heartbeat = heartbeat if is_idle else None
        return received

    # Serving feeds

    def accept(self, stream: Stream, request: bytes) -> None:
        if stream.is_closed:
            return
        message = mesh_pb2.WatchRequest.FromString(request)
        if message.HasField("record"):
            try:
                record = self._verifier.verify(signed_from_wire(message.record))
            except InvalidRecordError as error:
                self._world.reset(stream)
                if error.is_ahead:
                    stream.watcher.on_ahead()
                return
            result = self.topology.merge_records([record], origin=stream.watcher.id)
            if result.foreign is not None:
                self.session.foreign_record_received(result.foreign, self._clock.now)
        stream.writer = FeedWriter(
            self.topology,
            lambda _: None,
            watcher=stream.watcher.id,
            request=message,
            documents=self.documents,
        )
        phase = stream.writer.heartbeat_phase
        stream.ticks = heartbeat_ticks(phase, self._clock.now, self._wall())
        self._send_changes(stream)

    def _flush(self) -> None:
        self._is_flush_due = False
        self._forget_ended()
        for stream in self.serving:
            if stream.writer is not None:
                self._send_changes(stream)

    def _send_changes(self, stream: Stream) -> None:
        assert stream.writer is not None  # noqa: S101 - it was accepted
        stream.heartbeat_at = stream.ticks.after(self._clock.now, HEARTBEAT)
        for message in stream.writer.messages():
            if self.withholds:
                # It claims to hold the same as the watcher, or to have nothing more.
                message = mesh_pb2.WatchResponse(complete=message.complete)
            self._world.send(stream, message.SerializeToString())

    def _send_heartbeats(self) -> None:
        now = self._clock.now
        self._forget_ended()
        due = self._ticks.after(now)
        idle: list[Stream] = []
        for stream in self.serving:
            if stream.writer is None:
                continue
            if stream.heartbeat_at <= now + _EPSILON:
                stream.heartbeat_at = stream.ticks.after(now, HEARTBEAT)
                idle.append(stream)
            due = min(due, stream.heartbeat_at)
        self._send_heartbeat(idle)
        self._clock.at(due, self, self._send_heartbeats)

    def _send_heartbeat(self, streams: list[Stream]) -> None:
        # At the same time it is the same for all of a region.
        groups: dict[tuple[str | None, str], list[Stream]] = {}
        for stream in streams:
            assert stream.writer is not None  # noqa: S101 - it was accepted
            region = self._world.network.regions.get(stream.watcher.id, "")
            groups.setdefault((stream.writer.region, region), []).append(stream)
        for same in groups.values():
            assert same[0].writer is not None  # noqa: S101 - as above
            heartbeat = same[0].writer.heartbeat()
            if self.withholds:
                heartbeat.digest = b""
            self._world.send_heartbeat(same, heartbeat.SerializeToString())

    def _forget_ended(self) -> None:
        for stream in [stream for stream in self.serving if stream.is_closed]:
            del self.serving[stream]


def fake_signer(world: World[Process], node_id: str) -> RecordSigner:
    signer = RecordSigner(node_id, mesh=MESH, key=FakeSigning(), clock=world.wall_clock(node_id))
    signer.instance = world.rng.randbytes(8).hex()
    return signer
