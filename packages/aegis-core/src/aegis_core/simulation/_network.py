"""The links between nodes: which are open, and how long a message takes."""

from __future__ import annotations

import random
from collections.abc import Iterable

LATENCY = (0.0003, 0.0015)
"""Least and most seconds that a message takes: a local network."""

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
        self._groups: dict[str, int] = {}
        self._blocked: set[tuple[str | None, str | None]] = set()
        self._late_share = 0.0
        self._lateness = (0.0, 0.0)

    def latency(self) -> float:
        least, most = LATENCY
        return least + (most - least) * self._rng.random()

    def lateness(self) -> float:
        """Draws the extra latency of a heartbeat; mostly 0."""
        if not self._late_share or self._rng.random() >= self._late_share:
            return 0.0
        return self._rng.uniform(*self._lateness)

    def is_open(self, one: str, other: str) -> bool:
        if self._groups and self._groups.get(one, -1) != self._groups.get(other, -1):
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
        self._late_share = 0.0


def next_try(began: float, now: float, first: float) -> float:
    """Returns when TCP next retransmits a packet that it first sent at `began`."""
    pause, when = first, began + first
    while when <= now:
        pause = min(2 * pause, LAST_RETRY)
        when += pause
    return when
