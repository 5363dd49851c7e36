"""What all simulated processes share: time, chance, links, and the record of what happened."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from aegis_discovery import Topology
from aegis_discovery.feed import PROCESS_TICKS, FeedWriter, Ticks
from aegis_discovery.proto import mesh_pb2

from aegis_core._peers.feed import Feed, FeedEnd
from aegis_core.simulation._event_loop import Entity, VirtualClock
from aegis_core.simulation._fake_signing import Decoder
from aegis_core.simulation._network import (
    FIRST_CONNECT_RETRY,
    FIRST_RETRY,
    Network,
    next_try,
)

EPOCH = 1_800_000_000.0
"""Wall clock at the start of every simulation (Unix seconds)."""

MAX_DECODED = 10_000


class Host(Entity):
    """A process as the network sees it.

    Attributes:
        id: Its node id.
        topology: Its own topology.
        serving: The feeds that it serves.
    """

    id: str
    topology: Topology
    serving: dict[Stream, None]

    def accept(self, stream: Stream, request: bytes) -> None:
        """Starts to serve a feed."""

    def on_message(self, stream: Stream, data: bytes | None) -> None:
        """Handles a message of a feed that it reads, or the end of that feed in order (None)."""

    def on_end(self, stream: Stream, end: FeedEnd) -> None:
        """Handles any other end of a feed that it reads."""

    def on_ahead(self) -> None:
        """Handles that a server refuses its record as signed too far ahead of time."""


HostT = TypeVar("HostT", bound=Host)


@dataclass(slots=True, eq=False)
class Stream:
    """The stream of one feed, from a node to its watcher."""

    server: str
    watcher: Host
    feed: Feed
    serving: Host | None = None
    writer: FeedWriter | None = None
    is_closed: bool = False
    counts: list[int] = field(default_factory=list)
    heartbeat_at: float = 0.0
    ticks: Ticks = PROCESS_TICKS
    arrives_at: float = 0.0
    queued: list[bytes | None] | None = None
    queued_since: float = 0.0
    last_heartbeat: tuple[bytes, int, int] | None = None


class Event(NamedTuple):
    """An event that a node saw, or an action on the mesh.

    Attributes:
        at: Seconds since the start.
        by: The node that saw it; empty for an action on the mesh.
        kind: The kind of the topology's event, or the action.
        subject: The node that it is about.
    """

    at: float
    by: str
    kind: str
    subject: str


class Traffic(NamedTuple):
    """The messages on one edge, and their bytes without the transport's framing."""

    messages: int
    octets: int


@dataclass
class Spread:
    """How a change reaches the mesh.

    Attributes:
        subject: The node that changed its record.
        hops: The number of feeds over which it first reached each node.
        seconds: The time that it took.
        across: What `spread` sent between regions.
    """

    subject: str
    stamp: int
    began: float
    hops: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    across: Traffic = field(default_factory=lambda: Traffic(0, 0))


class Line:
    """What waits for the line from one region to another: its streams share it, as over TCP."""

    def __init__(self) -> None:
        self.waiting: dict[Stream, deque[tuple[bytes | None, float]]] = {}
        self.is_busy = False

    def take(self) -> tuple[Stream, bytes | None, float] | None:
        """Takes the next message, of each stream in turn; a stream that ended sends nothing."""
        for stream in [stream for stream in self.waiting if stream.is_closed]:
            del self.waiting[stream]
        if not self.waiting:
            return None
        stream = next(iter(self.waiting))
        messages = self.waiting.pop(stream)
        data, delay = messages.popleft()
        if messages:
            self.waiting[stream] = messages  # at the end
        return stream, data, delay


class World(Generic[HostT]):
    """Carries streams between processes, and records what happens."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = VirtualClock()
        self.network = Network(self.rng)
        self.decoder = Decoder()
        self.processes: dict[str, HostT] = {}
        self.addresses: dict[str, HostT] = {}
        self.skews: dict[str, float] = {}
        self.events: list[Event] = []
        self.traffic: dict[tuple[str, str], list[int]] = {}
        self.spreads: list[Spread] = []
        self._lines: dict[tuple[str, str], Line] = {}
        self._decoded: dict[bytes, mesh_pb2.WatchResponse] = {}

    def wall_clock(self, node_id: str) -> Callable[[], float]:
        clock, skews = self.clock, self.skews
        return lambda: EPOCH + clock.now + skews.get(node_id, 0.0)

    def log_event(self, by: str, kind: str, subject: str) -> None:
        self.events.append(Event(self.clock.now, by, kind, subject))

    def decode(self, data: bytes) -> mesh_pb2.WatchResponse:
        """Decodes a message; one that a node sends to all its watchers is decoded once."""
        message = self._decoded.get(data)
        if message is None:
            if len(self._decoded) >= MAX_DECODED:
                self._decoded.clear()
            message = self._decoded[data] = mesh_pb2.WatchResponse.FromString(data)
        return message

    # Streams

    def connect(self, stream: Stream, request: bytes) -> None:
        self._try_connect(stream, request, self.clock.now)

    def _try_connect(self, stream: Stream, request: bytes, began: float) -> None:
        if stream.is_closed:
            return
        if not self.network.is_open(stream.server, stream.watcher.id):
            when = next_try(began, self.clock.now, FIRST_CONNECT_RETRY)
            self.clock.at(when, None, self._try_connect, stream, request, began)
            return
        process = self.processes.get(stream.server)
        if process is None or process.has_ended:
            self.break_stream(stream, after=2 * self._latency(stream))
            return
        stream.serving = process
        stream.counts = self.traffic.setdefault((stream.server, stream.watcher.id), [0, 0])
        process.serving[stream] = None
        # TCP's handshake, TLS's, and the request: two and a half round trips.
        self.clock.after(5 * self._latency(stream), process, process.accept, stream, request)

    def reset(self, stream: Stream) -> None:
        """Breaks a stream at its server's end; a watcher out of reach does not notice."""
        if not stream.is_closed and self.network.is_open(stream.server, stream.watcher.id):
            self.break_stream(stream, after=self._latency(stream))

    def break_stream(self, stream: Stream, *, after: float = 0.0) -> None:
        """Breaks a stream at its watcher's end, before any more messages arrive."""
        watcher = stream.watcher
        self.clock.after(after, watcher, watcher.on_end, stream, FeedEnd.BROKEN)

    def close(self, stream: Stream) -> None:
        stream.is_closed = True

    def send(self, stream: Stream, data: bytes | None) -> None:
        """Sends a message, or the end (None), in order; waits while packets do not get through."""
        if self._can_send_now(stream, data):
            self._transfer(stream, data, self._latency(stream))

    def send_heartbeat(self, streams: list[Stream], data: bytes) -> None:
        """Sends a heartbeat to several watchers, at the same time for all unless it is late.

        They are all in the server's region, or all in one other region.
        """
        latency = self._latency(streams[0])
        in_time: list[Stream] = []
        for stream in streams:
            if self._can_send_now(stream, data):
                late = self.network.lateness()
                if late or stream.arrives_at > self.clock.now + latency:
                    self._transfer(stream, data, latency + late)
                else:
                    in_time.append(stream)
        self.clock.after(latency, None, self._deliver_heartbeat, in_time, data)

    def _can_send_now(self, stream: Stream, data: bytes | None) -> bool:
        """Counts a message; returns whether to send it now, otherwise it is queued."""
        if stream.is_closed:
            return False
        counts = stream.counts
        counts[0] += 1
        counts[1] += len(data) if data else 0
        if stream.queued is not None:
            stream.queued.append(data)
            return False
        if self.network.is_open(stream.server, stream.watcher.id):
            return True
        stream.queued, stream.queued_since = [data], self.clock.now
        self.clock.after(FIRST_RETRY, None, self._retransmit, stream)
        return False

    def _retransmit(self, stream: Stream) -> None:
        if stream.is_closed:
            return
        if not self.network.is_open(stream.server, stream.watcher.id):
            when = next_try(stream.queued_since, self.clock.now, FIRST_RETRY)
            self.clock.at(when, None, self._retransmit, stream)
            return
        queued, stream.queued = stream.queued or [], None
        for data in queued:
            self._transfer(stream, data, self._latency(stream))
        if stream.serving is not None and stream.serving.has_ended:
            self.reset(stream)

    def _latency(self, stream: Stream) -> float:
        return self.network.latency(stream.server, stream.watcher.id)

    def _transfer(self, stream: Stream, data: bytes | None, delay: float) -> None:
        way = self.network.line_of(stream.server, stream.watcher.id)
        is_slow = self.network.bandwidth < math.inf or stream.arrives_at == math.inf
        if way is not None and is_slow:
            line = self._lines.setdefault(way, Line())
            line.waiting.setdefault(stream, deque()).append((data, delay))
            stream.arrives_at = math.inf
            if not line.is_busy:
                self._use(line)
            return
        when = max(self.clock.now + delay, stream.arrives_at)
        stream.arrives_at = when
        self.clock.at(when, stream.watcher, self._deliver, stream, data)

    def _use(self, line: Line) -> None:
        """Sends the next message over a line, if there is any."""
        taken = line.take()
        line.is_busy = taken is not None
        if taken is not None:
            seconds = len(taken[1] or b"") / self.network.bandwidth
            self.clock.after(seconds, None, self._used, line, *taken)

    def _used(self, line: Line, stream: Stream, data: bytes | None, delay: float) -> None:
        when = self.clock.now + delay
        stream.arrives_at = math.inf if stream in line.waiting else when
        self.clock.at(when, stream.watcher, self._deliver, stream, data)
        self._use(line)

    def _deliver(self, stream: Stream, data: bytes | None) -> None:
        stream.watcher.on_message(stream, data)
        if self.spreads:
            self._follow(stream.server, stream.watcher)

    def _deliver_heartbeat(self, streams: list[Stream], data: bytes) -> None:
        for stream in streams:
            watcher = stream.watcher
            if watcher.paused_until > self.clock.now:
                self.clock.after(0.0, watcher, watcher.on_message, stream, data)
            elif not watcher.has_ended:
                watcher.on_message(stream, data)

    def _follow(self, server: str, watcher: Host) -> None:
        """Records over how many hops a change reached a node."""
        for spread in self.spreads:
            if watcher.id not in spread.hops and server in spread.hops:
                record = watcher.topology.get_record(spread.subject)
                if record is not None and record.stamp >= spread.stamp:
                    spread.hops[watcher.id] = spread.hops[server] + 1
                    spread.seconds[watcher.id] = self.clock.now - spread.began


def address_of(node_id: str) -> str:
    """Returns the address of a node, whose host is its id; the number of a worker cannot be."""
    return f"{node_id.replace('#', '.worker-')}:7000"
