"""Counts calls by edge. Bounded, and cheap enough for every call."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING

from aegis_discovery._runtime.call_outcomes import CODES, LATENCY_BOUNDS

if TYPE_CHECKING:
    from aegis_discovery._runtime.edge_stats import EdgeStats

MAX_EDGES = 2000
"""Edges that one side of a process counts apart; the calls of further ones count as `other`."""

SWEEP_INTERVAL = 600.0
"""Seconds between two looks at a full table. An edge without a call from one to the next makes room
for another, and its counts are added to `other`."""

OTHER = "other"
"""In place of the names of edges that are not counted apart, and of methods that do not exist."""

FOLD_MASK = 63
"""A call whose number has none of these bits set folds the pending ones of its edge: one of 64."""

_BUCKETS = len(LATENCY_BOUNDS) + 1


class Edge:
    """The counts of one edge. Any thread may add to them.

    There is no lock: CPython switches threads between calls, not within `+= 1`.

    Calls that succeed may be added to `pending`, which costs them less than `ended`: between two
    calls a processor's caches forget the counts, and many calls at once find them there.

    Attributes:
        started: Calls that began.
        codes: Calls that ended, by the number of their status.
        buckets: Calls that ended, by the seconds that they took.
        seconds: The seconds of all of them.
        pending: The seconds of calls that succeeded and are not yet among the above.
        swept: Calls that had begun when a full table was last looked at.
        is_kept: Whether the table has it under its own names.
    """

    __slots__ = ("buckets", "codes", "is_kept", "pending", "seconds", "started", "swept")

    def __init__(self) -> None:
        self.started = 0
        self.codes = [0] * len(CODES)
        self.buckets = [0] * _BUCKETS
        self.seconds = 0.0
        self.pending: list[float] = []
        self.swept = -1
        self.is_kept = True

    def ended(self, code: int, seconds: float) -> None:
        """Counts the end of a call.

        Args:
            code: The number of its status.
            seconds: How long it took.
        """
        self.codes[code] += 1
        self.buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.seconds += seconds

    def fold(self) -> None:
        """Counts the pending calls."""
        pending = self.pending
        while pending:
            try:
                seconds = pending.pop()
            except IndexError:  # another thread counted it
                return
            self.ended(0, seconds)

    def rejected(self, code: int) -> None:
        """Counts a call that ended at once."""
        self.started += 1
        self.ended(code, 0.0)

    def add(self, edge: Edge) -> None:
        """Adds the counts of another edge."""
        edge.fold()
        self.started += edge.started
        self.codes = [a + b for a, b in zip(self.codes, edge.codes, strict=True)]
        self.buckets = [a + b for a, b in zip(self.buckets, edge.buckets, strict=True)]
        self.seconds += edge.seconds

    @property
    def is_idle(self) -> bool:
        """Whether no call began since the last look, and none runs."""
        self.fold()
        return self.started == self.swept == sum(self.codes)

    def stats(self, side: str, caller: str, service: str, method: str, provider: str) -> EdgeStats:
        """Returns a frozen copy, with the names of the edge."""
        from aegis_discovery._runtime.edge_stats import EdgeStats, LatencyStats  # seldom asked for

        self.fold()
        buckets = tuple(self.buckets)
        return EdgeStats(
            side,
            caller,
            service,
            method,
            provider,
            self.started,
            {name: count for name, count in zip(CODES, self.codes, strict=True) if count},
            LatencyStats(sum(buckets), self.seconds, buckets),
        )


class PeerEdges(dict[str, Edge]):
    """The edges of one method, by the peer: its caller or its provider. A missing one is made."""

    def __init__(self, table: EdgeTable) -> None:
        self._table = table

    def __missing__(self, peer: str) -> Edge:
        return self._table.make(self, peer)


class EdgeTable:
    """The edges that one side of a process counts.

    Args:
        side: `client` or `server`.
        max_edges: How many edges are counted apart, and how many methods.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        side: str,
        *,
        max_edges: int = MAX_EDGES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.side = side
        self._max_edges = max_edges
        self._clock = clock
        self._lock = threading.Lock()
        self._methods: dict[tuple[str, str], PeerEdges] = {}
        self._other = Edge()
        self._other.is_kept = False
        self._others = _Others(self, self._other)
        self._count = 0
        self._sweep_at = 0.0

    def __len__(self) -> int:
        return self._count

    def of(self, service: str, method: str) -> PeerEdges:
        """Returns the edges of a method: always the same object, to be kept and looked up in.

        Args:
            service: The service, such as `orders/v1`.
            method: The full method, with or without the slash before it.
        """
        key = (service, method.removeprefix("/"))
        found = self._methods.get(key)
        if found is None:
            with self._lock:
                if len(self._methods) >= self._max_edges:
                    return self._methods.get(key, self._others)
                found = self._methods.setdefault(key, PeerEdges(self))
        return found

    def make(self, peers: PeerEdges, peer: str) -> Edge:
        """Makes an edge, or returns the common one if there are too many."""
        with self._lock:
            if self._count >= self._max_edges:
                self._sweep()
            if self._count >= self._max_edges:
                return self._other
            edge = dict.get(peers, peer)
            if edge is None:
                edge = peers[peer] = Edge()
                self._count += 1
            return edge

    def _sweep(self) -> None:
        now = self._clock()
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_INTERVAL
        for peers in self._methods.values():
            for peer, edge in list(peers.items()):
                if edge.is_idle:
                    edge.is_kept = False
                    self._other.add(peers.pop(peer))
                    self._count -= 1
                else:
                    edge.swept = edge.started

    def stats(self, own: str, service: str = "") -> tuple[EdgeStats, ...]:
        """Returns the edges that had a call.

        Args:
            own: The name of this process: the caller on the client's side, the provider on the
                server's.
            service: The service of edges for which none is known.
        """
        with self._lock:
            edges = [
                (key, peer, edge)
                for key, peers in self._methods.items()
                for peer, edge in peers.items()
            ]
        edges.append(((OTHER, OTHER), OTHER, self._other))
        is_client = self.side == "client"
        return tuple(
            edge.stats(
                self.side,
                own if is_client else peer,
                name or service,
                method,
                peer if is_client else own,
            )
            for (name, method), peer, edge in edges
            if edge.started
        )


class _Others(PeerEdges):
    """Stands for the edges of the methods that are too many."""

    def __init__(self, table: EdgeTable, edge: Edge) -> None:
        super().__init__(table)
        self._edge = edge

    def __missing__(self, peer: str) -> Edge:
        return self._edge
