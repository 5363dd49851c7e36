"""The links between nodes: which are open, and how long a message takes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

LATENCY = (0.0003, 0.0015)
"""Least and most seconds that a message takes: a local network."""

ROUND_TRIP = 0.15
"""Seconds of a round trip between regions, of 70 to 250 ms on real lines."""

FIRST_RETRY = 0.2
"""Seconds until TCP retransmits; doubles each time (RFC 6298)."""

FIRST_CONNECT_RETRY = 1.0
"""The same for the packet that opens a connection."""

LAST_RETRY = 120.0
"""The most seconds between two retransmissions."""


class Network:
    """Knows between which nodes packets get through.

    A stream needs both directions, one of them for acknowledgements. So a link that is blocked in
    one direction also stalls the other, and neither end receives anything.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.regions: dict[str, str] = {}
        self._cut: set[str] = set()
        self._round_trip = ROUND_TRIP
        self.bandwidth = math.inf
        self._groups: dict[str, int] = {}
        self._blocked: set[tuple[str | None, str | None]] = set()
        self._late_share = 0.0
        self._lateness = (0.0, 0.0)

    def latency(self, one: str, other: str) -> float:
        least, most = LATENCY
        near = least + (most - least) * self._rng.random()
        return near + self._round_trip / 2 if self.is_across(one, other) else near

    def line_of(self, source: str, target: str) -> tuple[str, str] | None:
        """Returns the line between two regions that a message takes; None within a region."""
        if not self.is_across(source, target):
            return None
        return self.regions.get(source, ""), self.regions.get(target, "")

    def is_across(self, one: str, other: str) -> bool:
        """Tells whether two nodes are in different regions."""
        regions = self.regions
        return bool(regions) and regions.get(one, "") != regions.get(other, "")

    def set_lines(self, round_trip: float, bandwidth: float) -> None:
        self._round_trip, self.bandwidth = round_trip, bandwidth

    def cut(self, regions: Iterable[str]) -> None:
        self._cut.update(regions)

    def lateness(self) -> float:
        """Draws the extra latency of a heartbeat; mostly 0."""
        if not self._late_share or self._rng.random() >= self._late_share:
            return 0.0
        return self._rng.uniform(*self._lateness)

    def is_open(self, one: str, other: str) -> bool:
        if self._groups and self._groups.get(one, -1) != self._groups.get(other, -1):
            return False
        if self._cut and self.is_across(one, other):
            ends = {self.regions.get(one, ""), self.regions.get(other, "")}
            if not ends.isdisjoint(self._cut):
                return False
        blocked = self._blocked
        return not blocked or not (
            (one, other) in blocked
            or (other, one) in blocked
            or (one, None) in blocked
            or (other, None) in blocked
            or (None, one) in blocked
            or (None, other) in blocked
        )

    def divide(self, groups: Iterable[Iterable[str]]) -> None:
        """Separates groups of nodes from each other; all other nodes are one more group."""
        self._groups = {node_id: number for number, group in enumerate(groups) for node_id in group}

    def block(self, source: str | None, target: str | None) -> None:
        self._blocked.add((source, target))

    def unblock(self, source: str | None, target: str | None) -> None:
        self._blocked.discard((source, target))

    def delay(self, share: float, least: float, most: float) -> None:
        self._late_share = share
        self._lateness = (least, most)

    def heal(self) -> None:
        self._groups = {}
        self._blocked = set()
        self._cut = set()
        self._late_share = 0.0


def next_try(began: float, now: float, first: float) -> float:
    """Returns when TCP next retransmits a packet that it first sent at `began`."""
    pause, when = first, began + first
    while when <= now:
        pause = min(2 * pause, LAST_RETRY)
        when += pause
    return when
