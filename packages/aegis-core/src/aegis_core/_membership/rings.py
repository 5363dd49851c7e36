"""Which node watches which: every node watches its successors on a few rings.

Each ring is a cycle over all node ids in the order of their hashes, so a change reaches every node
over a few connections per node: after Rapid (Suresh et al., USENIX ATC 2018).
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator

RINGS = 5
"""Number of rings, and so of the observers of a node. Three of them have to agree on a failure."""

_WORDS = struct.Struct(f">{RINGS}Q")


class Rings:
    """Places node ids on the rings.

    A node that cannot observe (it failed, or has no feed) is skipped: its predecessor watches it,
    and the next one too. In a mesh of `RINGS` + 1 nodes or fewer, each watches all others.
    """

    def __init__(self) -> None:
        self._hashes = [array("Q") for _ in range(RINGS)]
        self._ids: list[list[str]] = [[] for _ in range(RINGS)]
        self._members: dict[str, tuple[int, ...]] = {}
        self._not_observing: set[str] = set()
        self._observers: dict[str, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._members

    def place(self, node_id: str, *, can_observe: bool) -> bool:
        """Adds a node, or notes whether it can observe; returns whether that is a change."""
        if node_id in self._members:
            if can_observe == (node_id not in self._not_observing):
                return False
        else:
            points = self._members[node_id] = _points(node_id)
            for ring, point in enumerate(points):
                index = self._index(ring, point, node_id)
                self._hashes[ring].insert(index, point)
                self._ids[ring].insert(index, node_id)
        if can_observe:
            self._not_observing.discard(node_id)
        else:
            self._not_observing.add(node_id)
        self._observers.clear()
        return True

    def remove(self, node_id: str) -> bool:
        if node_id not in self._members:
            return False
        self._not_observing.discard(node_id)
        self._observers.clear()
        for ring, point in enumerate(self._members.pop(node_id)):
            index = self._index(ring, point, node_id)
            del self._hashes[ring][index]
            del self._ids[ring][index]
        return True

    def observers(self, subject: str) -> frozenset[str]:
        """Returns the observers of a node: on each ring, the nearest before it that can observe."""
        observers = self._observers.get(subject)
        if observers is None:
            # Needed for every verdict, and the same until a node joins, leaves or fails.
            observers = self._observers[subject] = frozenset(self._find_observers(subject))
        return observers

    def subjects(self, observer: str) -> frozenset[str]:
        """Returns which nodes one watches: on each ring, all up to the next that can observe."""
        if observer not in self._members:
            return frozenset()
        if self._is_small:
            return frozenset(self._members.keys() - {observer})
        found: set[str] = set()
        for ring in range(RINGS):
            found.update(self._walk(ring, observer, 1, through=True))
        return frozenset(found)

    def _find_observers(self, subject: str) -> set[str]:
        if subject not in self._members:
            return set()
        if self._is_small:
            return self._members.keys() - self._not_observing - {subject}
        found: set[str] = set()
        for ring in range(RINGS):
            found.update(self._walk(ring, subject, -1, through=False))
        return found

    @property
    def _is_small(self) -> bool:
        return len(self._members) <= RINGS + 1

    def _walk(self, ring: int, start: str, step: int, *, through: bool) -> Iterator[str]:
        """Walks along a ring to the first that can observe; yields those before it if `through`."""
        ids = self._ids[ring]
        index = self._index(ring, self._members[start][ring], start)
        for _ in range(len(ids) - 1):
            index = (index + step) % len(ids)
            can_observe = ids[index] not in self._not_observing
            if can_observe or through:
                yield ids[index]
            if can_observe:
                return

    def _index(self, ring: int, point: int, node_id: str) -> int:
        index = bisect_left(self._hashes[ring], point)
        ids = self._ids[ring]
        # Ids break the tie of equal hashes in the same way at every node.
        while index < len(ids) and self._hashes[ring][index] == point and ids[index] < node_id:
            index += 1
        return index


def _points(node_id: str) -> tuple[int, ...]:
    """Returns the position of an id on each ring: 64 bits each of its SHA-512."""
    return _WORDS.unpack_from(hashlib.sha512(node_id.encode()).digest())
