"""Who watches whom: every node its successors on a few rings.

Each ring is a cycle over the node ids in the order of their hashes, so what one node knows reaches
everybody over a few connections per node: after Rapid (Suresh et al., USENIX ATC 2018).
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator

RINGS = 5
"""Rings, and so the observers of a node. A failure needs three of them to agree."""

_WORDS = struct.Struct(f">{RINGS}Q")


class Rings:
    """Places node ids on the rings.

    A node that does not fit (it is failed, or has no feed to tell by) observes nobody and is passed
    over: its predecessor watches it, and the next one as well. While there are no more nodes than
    a node has observers, everybody watches everybody.
    """

    def __init__(self) -> None:
        self._hashes = [array("Q") for _ in range(RINGS)]
        self._ids: list[list[str]] = [[] for _ in range(RINGS)]
        self._members: dict[str, tuple[int, ...]] = {}
        self._unfit: set[str] = set()
        self._observers: dict[str, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._members

    def place(self, node_id: str, *, fits: bool) -> bool:
        """Puts a node on the rings, or notes whether it fits; returns whether that is news."""
        if node_id in self._members:
            if fits == (node_id not in self._unfit):
                return False
        else:
            points = self._members[node_id] = _points(node_id)
            for ring, point in enumerate(points):
                index = self._index(ring, point, node_id)
                self._hashes[ring].insert(index, point)
                self._ids[ring].insert(index, node_id)
        if fits:
            self._unfit.discard(node_id)
        else:
            self._unfit.add(node_id)
        self._observers.clear()
        return True

    def remove(self, node_id: str) -> bool:
        """Takes a node off the rings; returns whether it was there."""
        if node_id not in self._members:
            return False
        self._unfit.discard(node_id)
        self._observers.clear()
        for ring, point in enumerate(self._members.pop(node_id)):
            index = self._index(ring, point, node_id)
            del self._hashes[ring][index]
            del self._ids[ring][index]
        return True

    def observers(self, subject: str) -> frozenset[str]:
        """Returns who watches a node: on each ring the nearest one before it that fits."""
        observers = self._observers.get(subject)
        if observers is None:
            # Asked for with every verdict, and the same until somebody comes, goes or fails.
            observers = self._observers[subject] = frozenset(self._find_observers(subject))
        return observers

    def subjects(self, observer: str) -> frozenset[str]:
        """Returns whom a node watches: on each ring all up to the next one that fits."""
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
            return self._members.keys() - self._unfit - {subject}
        found: set[str] = set()
        for ring in range(RINGS):
            found.update(self._walk(ring, subject, -1, through=False))
        return found

    @property
    def _is_small(self) -> bool:
        return len(self._members) <= RINGS + 1

    def _walk(self, ring: int, start: str, step: int, *, through: bool) -> Iterator[str]:
        """Goes round a ring to the first that fits; yields those on the way if `through`."""
        ids = self._ids[ring]
        index = self._index(ring, self._members[start][ring], start)
        for _ in range(len(ids) - 1):
            index = (index + step) % len(ids)
            fits = ids[index] not in self._unfit
            if fits or through:
                yield ids[index]
            if fits:
                return

    def _index(self, ring: int, point: int, node_id: str) -> int:
        index = bisect_left(self._hashes[ring], point)
        ids = self._ids[ring]
        # Two ids with one point would be a wonder; then the ids decide, at every node alike.
        while index < len(ids) and self._hashes[ring][index] == point and ids[index] < node_id:
            index += 1
        return index


def _points(node_id: str) -> tuple[int, ...]:
    """Returns the place of an id on each ring: 64 bits each of its SHA-512."""
    return _WORDS.unpack_from(hashlib.sha512(node_id.encode()).digest())
