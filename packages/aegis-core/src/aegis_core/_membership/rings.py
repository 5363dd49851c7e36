"""Which node watches which: every node watches its successors on a few rings.

Each ring is a cycle over all node ids in the order of their hashes, so a change reaches every node
over a few connections per node: after Rapid (Suresh et al., USENIX ATC 2018).
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from aegis_certs import owner_of

RINGS = 5
"""Number of rings, and so of the observers of a node. Three of them have to agree on a failure."""

_WORDS = struct.Struct(f">{RINGS}Q")


class Rings:
    """Places node ids on the rings.

    A node that cannot observe (it failed, or has no feed) is skipped: its predecessor watches it,
    and the next one too.

    One identity counts once, or a member could start workers until it outvotes all others. So at
    most one worker of an identity observes a node, and none of the node's own identity does, unless
    there is no other. In a mesh of `RINGS` + 1 identities or fewer, each observes all others.
    """

    def __init__(self) -> None:
        # First the rings of the nodes that can observe, then those of the others.
        self._hashes = [array("Q") for _ in range(2 * RINGS)]
        self._ids: list[list[str]] = [[] for _ in range(2 * RINGS)]
        self._members: dict[str, tuple[int, ...]] = {}
        self._identities: Counter[str] = Counter()
        self._not_observing: set[str] = set()
        self._observers: dict[str, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._members

    def copy(self) -> Rings:
        """Returns rings with the same nodes that change on their own."""
        copied = Rings()
        copied._hashes = [hashes[:] for hashes in self._hashes]
        copied._ids = [ids[:] for ids in self._ids]
        copied._members, copied._identities = self._members.copy(), self._identities.copy()
        copied._not_observing, copied._observers = (
            self._not_observing.copy(),
            self._observers.copy(),
        )
        return copied

    def place(self, node_id: str, *, can_observe: bool) -> bool:
        """Adds a node, or notes whether it can observe; returns whether that is a change."""
        if node_id in self._members:
            if can_observe == (node_id not in self._not_observing):
                return False
            self._take(node_id)
        else:
            self._members[node_id] = _points(node_id)
            self._identities[owner_of(node_id)] += 1
        if can_observe:
            self._not_observing.discard(node_id)
        else:
            self._not_observing.add(node_id)
        for ring, point, index in self._places(node_id):
            self._hashes[ring].insert(index, point)
            self._ids[ring].insert(index, node_id)
        self._observers.clear()
        return True

    def remove(self, node_id: str) -> bool:
        if node_id not in self._members:
            return False
        self._take(node_id)
        self._not_observing.discard(node_id)
        del self._members[node_id]
        identity = owner_of(node_id)
        self._identities[identity] -= 1
        if not self._identities[identity]:
            del self._identities[identity]
        self._observers.clear()
        return True

    def observers(self, subject: str) -> frozenset[str]:
        """Returns the observers of a node: on each ring, the nearest before it that counts."""
        observers = self._observers.get(subject)
        if observers is None:
            # Needed for every verdict, and the same until a node joins, leaves or fails.
            observers = self._observers[subject] = frozenset(self._find_observers(subject))
        return observers

    def subjects(self, observer: str) -> frozenset[str]:
        """Returns which nodes one observes."""
        if observer not in self._members:
            return frozenset()
        if self._is_small:
            nearby = self._members.keys() - {observer}
            return frozenset(s for s in nearby if observer in self.observers(s))
        is_alone = self._identities[owner_of(observer)] == 1
        found: set[str] = set()
        for ring in range(RINGS):
            behind, further = self._successors(ring, observer)
            if is_alone:
                found.update(behind)  # nothing is between, so they choose it
            else:
                further += behind
            found.update(s for s in further if observer in self.observers(s))
        return frozenset(found)

    def followed(self, node_id: str) -> frozenset[str]:
        """Returns the nearest node after this one on each ring that can observe.

        Their feeds bring each change to every node, also where few workers of many observe others.
        """
        if node_id not in self._members or len(self._identities) == len(self._members):
            return frozenset()  # without workers they are observed too
        nearest = (next(self._able(ring, node_id, 1), None) for ring in range(RINGS))
        return frozenset(found for found in nearest if found is not None)

    def _find_observers(self, subject: str) -> Iterable[str]:
        if subject not in self._members:
            return ()
        own, is_small = owner_of(subject), self._is_small
        chosen: dict[str, str] = {}
        for ring in range(1 if is_small else RINGS):
            for node_id in self._able(ring, subject, -1):
                identity = owner_of(node_id)
                # A node that two rings choose counts once; only further workers are passed over.
                counts = identity != own and chosen.setdefault(identity, node_id) == node_id
                if counts and not is_small:
                    break
        return chosen.values() or self._siblings(subject)

    def _siblings(self, subject: str) -> Iterable[str]:
        """Returns the observers of a node in a mesh where only its own identity can observe."""
        if self._identities[owner_of(subject)] <= RINGS + 1:
            return set(self._able(0, subject, -1))
        nearest = (next(self._able(ring, subject, -1), None) for ring in range(RINGS))
        return {node_id for node_id in nearest if node_id is not None}

    @property
    def _is_small(self) -> bool:
        return len(self._identities) <= RINGS + 1

    def _able(self, ring: int, start: str, step: int) -> Iterator[str]:
        """Walks once around a ring from a node; yields all others that can observe."""
        ids = self._ids[ring]
        index = self._index(ring, self._members[start][ring], start)
        if step > 0 and start in self._not_observing:
            index -= 1
        for _ in range(len(ids) - (start not in self._not_observing)):
            index = (index + step) % len(ids)
            yield ids[index]

    def _successors(self, ring: int, observer: str) -> tuple[list[str], list[str]]:
        """Returns the nodes after one on a ring that may choose it, as nearest or farther ones.

        The first are those up to the next that can observe.
        """
        behind: list[str] = []
        further: list[str] = []
        passed: set[str] = set()
        before = observer
        for node_id in self._able(ring, observer, 1):
            (further if passed else behind).extend(self._unable(ring, before, node_id))
            (further if passed else behind).append(node_id)
            before = node_id
            # A walk passes over workers of its own identity and of those that the rings before
            # chose, so never over the only node of an identity.
            identity = owner_of(node_id)
            passed.add(identity)
            if self._identities[identity] == 1 or len(passed) > ring + 1:
                return behind, further
        (further if passed else behind).extend(self._unable(ring, before, observer))
        return behind, further

    def _unable(self, ring: int, start: str, end: str) -> list[str]:
        """Returns the nodes between two that cannot observe; all others if the two are one."""
        ids = self._ids[ring + RINGS]
        if not ids:
            return []
        begins, ends = ((self._members[node_id][ring], node_id) for node_id in (start, end))
        first, last = (self._index(ring + RINGS, *place) for place in (begins, ends))
        found = ids[first:last] if begins < ends else ids[first:] + ids[:last]
        return [node_id for node_id in found if node_id != start]

    def _take(self, node_id: str) -> None:
        for ring, _, index in self._places(node_id):
            del self._hashes[ring][index]
            del self._ids[ring][index]

    def _places(self, node_id: str) -> Iterator[tuple[int, int, int]]:
        """Yields the ring, point and index of a node on all rings that it belongs to."""
        offset = RINGS if node_id in self._not_observing else 0
        for ring, point in enumerate(self._members[node_id], offset):
            yield ring, point, self._index(ring, point, node_id)

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
