"""What all simulated processes share: time, chance, links, and what is seen from above."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from aegis_discovery import Topology
from aegis_discovery.feed import FeedWriter
from aegis_discovery.proto import mesh_pb2

from aegis_core._peers.feed import Feed, FeedEnd
from aegis_core.simulation._event_loop import Actor, VirtualClock
from aegis_core.simulation._fake_signing import Decoder
from aegis_core.simulation._network import (
    FIRST_CONNECT_RETRY,
    FIRST_RETRY,
    Network,
    next_try,
)

EPOCH = 1_800_000_000.0
"""Wall clock at the start of every simulation (Unix seconds)."""

_DECODED_AT_MOST = 10_000


class Host(Actor):
    """A process as the network sees it.

    Attributes:
        id: Its node id.
        topology: What it knows.
        serving: The feeds that it serves.
    """

    id: str
    topology: Topology
    serving: dict[Stream, None]

    def accept(self, stream: Stream, request: bytes) -> None:
        """Begins to serve a feed."""
        raise NotImplementedError

    def on_message(self, stream: Stream, data: bytes | None) -> None:
        """Takes a message of a feed that it reads, or the end of that feed in order (None)."""
        raise NotImplementedError

    def on_end(self, stream: Stream, end: FeedEnd) -> None:
        """Notices that a feed that it reads ended otherwise."""
        raise NotImplementedError


HostT = TypeVar("HostT", bound=Host)


@dataclass(slots=True, eq=False)
class Stream:
    """One feed on its way from a node to its watcher."""

    server: str
    watcher: Host
    feed: Feed
    serving: Host | None = None
    writer: FeedWriter | None = None
    is_over: bool = False
    counts: list[int] = field(default_factory=list)
    beat_at: float = 0.0
    arrives_at: float = 0.0
    stuck: list[bytes | None] | None = None
    stuck_since: float = 0.0
    last_heartbeat: tuple[bytes, int, int] | None = None


class Event(NamedTuple):
    """Something that happened.

    Attributes:
        at: When, in seconds since the start.
        by: The node that saw it; empty for what was done to the mesh.
        kind: As the topology's events, or what was done.
        subject: To whom.
    """

    at: float
    by: str
    kind: str
    subject: str


class Traffic(NamedTuple):
    """What went over one edge, without the transport's framing."""

    messages: int
    octets: int


@dataclass
class Spread:
    """How a change reaches the mesh.

    Attributes:
        subject: The node that changed its record.
        hops: Over how many feeds it first came to each node.
        seconds: How long after the change that was.
    """

    subject: str
    stamp: int
    began: float
    hops: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class World(Generic[HostT]):
    """Carries streams between processes, and writes down what happens."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = VirtualClock()
        self.network = Network(self.rng)
        self.decoder = Decoder()
        self.processes: dict[str, HostT] = {}
        self.skews: dict[str, float] = {}
        self.events: list[Event] = []
        self.traffic: dict[tuple[str, str], list[int]] = {}
        self.spreads: list[Spread] = []
        self._decoded: dict[bytes, mesh_pb2.WatchResponse] = {}

    def wall_clock(self, node_id: str) -> Callable[[], float]:
        """Returns a node's own clock."""
        clock, skews = self.clock, self.skews
        return lambda: EPOCH + clock.now + skews.get(node_id, 0.0)

    def note(self, by: str, kind: str, subject: str) -> None:
        """Writes down what happened."""
        self.events.append(Event(self.clock.now, by, kind, subject))

    def decode(self, data: bytes) -> mesh_pb2.WatchResponse:
        """Reads a message; what a node tells all its watchers is read once."""
        message = self._decoded.get(data)
        if message is None:
            if len(self._decoded) >= _DECODED_AT_MOST:
                self._decoded.clear()
            message = self._decoded[data] = mesh_pb2.WatchResponse.FromString(data)
        return message

    # Streams

    def connect(self, stream: Stream, request: bytes) -> None:
        """Opens a stream, as soon as packets get through; a host whose node ended refuses."""
        self._knock(stream, request, self.clock.now)

    def _knock(self, stream: Stream, request: bytes, began: float) -> None:
        if stream.is_over:
            return
        if not self.network.is_open(stream.server, stream.watcher.id):
            when = next_try(began, self.clock.now, FIRST_CONNECT_RETRY)
            self.clock.at(when, None, self._knock, stream, request, began)
            return
        process = self.processes.get(stream.server)
        if process is None or process.is_over:
            self.break_stream(stream, after=2 * self.network.latency())
            return
        stream.serving = process
        stream.counts = self.traffic.setdefault((stream.server, stream.watcher.id), [0, 0])
        process.serving[stream] = None
        # TCP's handshake, TLS's, and the request: two and a half round trips.
        self.clock.after(5 * self.network.latency(), process, process.accept, stream, request)

    def reset(self, stream: Stream) -> None:
        """Breaks a stream from its server's end; a watcher out of reach does not notice."""
        if not stream.is_over and self.network.is_open(stream.server, stream.watcher.id):
            self.break_stream(stream, after=self.network.latency())

    def break_stream(self, stream: Stream, *, after: float = 0.0) -> None:
        """Breaks a stream at its watcher's end, before anything more comes out of it."""
        watcher = stream.watcher
        self.clock.after(after, watcher, watcher.on_end, stream, FeedEnd.BROKEN)

    def drop(self, stream: Stream) -> None:
        """Ends a stream from its watcher's end."""
        stream.is_over = True

    def send(self, stream: Stream, data: bytes | None) -> None:
        """Sends a message, or the end, in order; it waits where packets do not get through."""
        if self._leaves(stream, data):
            self._transfer(stream, data, self.network.latency())

    def send_heartbeat(self, streams: list[Stream], data: bytes) -> None:
        """Sends a heartbeat to several watchers, which it reaches at one time unless it is late."""
        latency = self.network.latency()
        in_time: list[Stream] = []
        for stream in streams:
            if self._leaves(stream, data):
                late = self.network.lateness()
                if late or stream.arrives_at > self.clock.now + latency:
                    self._transfer(stream, data, latency + late)
                else:
                    in_time.append(stream)
        self.clock.after(latency, None, self._deliver_heartbeat, in_time, data)

    def _leaves(self, stream: Stream, data: bytes | None) -> bool:
        """Counts a message, and tells whether it leaves now; if not, it does so in its turn."""
        if stream.is_over:
            return False
        counts = stream.counts
        counts[0] += 1
        counts[1] += len(data) if data else 0
        if stream.stuck is not None:
            stream.stuck.append(data)
            return False
        if self.network.is_open(stream.server, stream.watcher.id):
            return True
        stream.stuck, stream.stuck_since = [data], self.clock.now
        self.clock.after(FIRST_RETRY, None, self._send_again, stream)
        return False

    def _send_again(self, stream: Stream) -> None:
        if stream.is_over:
            return
        if not self.network.is_open(stream.server, stream.watcher.id):
            when = next_try(stream.stuck_since, self.clock.now, FIRST_RETRY)
            self.clock.at(when, None, self._send_again, stream)
            return
        stuck, stream.stuck = stream.stuck or [], None
        for data in stuck:
            self._transfer(stream, data, self.network.latency())
        if stream.serving is not None and stream.serving.is_over:
            self.reset(stream)

    def _transfer(self, stream: Stream, data: bytes | None, delay: float) -> None:
        when = max(self.clock.now + delay, stream.arrives_at)
        stream.arrives_at = when
        self.clock.at(when, stream.watcher, self._deliver, stream, data)

    def _deliver(self, stream: Stream, data: bytes | None) -> None:
        stream.watcher.on_message(stream, data)
        if self.spreads:
            self._follow(stream.server, stream.watcher)

    def _deliver_heartbeat(self, streams: list[Stream], data: bytes) -> None:
        for stream in streams:
            watcher = stream.watcher
            if watcher.stopped_until > self.clock.now:
                self.clock.after(0.0, watcher, watcher.on_message, stream, data)
            elif not watcher.is_over:
                watcher.on_message(stream, data)

    def _follow(self, server: str, watcher: Host) -> None:
        """Notes by how many hops a change came to a node that it is new to."""
        for spread in self.spreads:
            if watcher.id not in spread.hops and server in spread.hops:
                record = watcher.topology.get_record(spread.subject)
                if record is not None and record.stamp >= spread.stamp:
                    spread.hops[watcher.id] = spread.hops[server] + 1
                    spread.seconds[watcher.id] = self.clock.now - spread.began
