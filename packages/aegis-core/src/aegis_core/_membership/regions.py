"""Which region each node is in: rings inside the regions, and the bridges between them. Pure.

While any node states no boundary, the whole mesh is on the same rings and nobody is a bridge.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from aegis_certs import owner_of
from aegis_discovery import NodeInfo
from aegis_discovery.records import MAX_REGION

from aegis_core._membership.rings import Rings

BRIDGES = 3
"""Bridges of a region: while two of them are dead, or lie, the third one carries everything."""

MAX_REGIONS = 64
"""Regions of a mesh with boundaries. Each bridge holds a feed to each, and a member may invent one
for each of its workers."""

TAKE_UP_AFTER = 10.0
"""Seconds without a node that states no boundary until boundaries take effect again.

Each change of the rings costs every node some work, so one node must not cause many.
"""


class Place(NamedTuple):
    """Where a node is, and what it may do there."""

    region: str
    has_boundary: bool
    can_observe: bool


_Spot = tuple[bytes, bytes, str]


class Regions:
    """Places nodes on rings: on those of their regions, or on the same ones without boundaries.

    Attributes:
        is_bounded: Whether boundaries are in effect.
        changed_at: When that changed last.
    """

    def __init__(self) -> None:
        self.is_bounded = False
        self.changed_at = -math.inf
        self._places: dict[str, Place] = {}
        self._sizes: Counter[str] = Counter()
        self._without_boundary: set[str] = set()
        self._lacked_at = -math.inf
        self._rings: dict[str | None, Rings] = {}
        # The nodes of each region in the order of rendezvous hashing, those of one identity
        # together: more workers are not more chances to be a bridge.
        self._order: dict[str, list[_Spot]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def copy(self) -> Regions:
        """Returns regions with the same nodes that change on their own."""
        copied = Regions()
        copied.is_bounded, copied._lacked_at = self.is_bounded, self._lacked_at
        copied.changed_at = self.changed_at
        copied._places, copied._sizes = self._places.copy(), self._sizes.copy()
        copied._without_boundary = self._without_boundary.copy()
        copied._rings = {region: rings.copy() for region, rings in self._rings.items()}
        copied._order = {region: order.copy() for region, order in self._order.items()}
        return copied

    def place(self, node: NodeInfo, *, can_observe: bool) -> bool:
        """Adds a node, or notes a change of it; returns whether that changes any rings."""
        has_boundary = node.boundary == "region" and len(node.region.encode()) <= MAX_REGION
        place = Place(node.region, has_boundary, can_observe)
        known = self._places.get(node.id)
        if known == place:
            return False
        if known is not None and known.region != place.region:
            self.remove(node.id)
            known = None
        if known is None:
            self._sizes[node.region] += 1
        self._places[node.id] = place
        if has_boundary:
            self._without_boundary.discard(node.id)
        else:
            self._without_boundary.add(node.id)
        return self._enter(node.id, place)

    def remove(self, node_id: str) -> bool:
        place = self._places.pop(node_id, None)
        if place is None:
            return False
        self._sizes[place.region] -= 1
        if not self._sizes[place.region]:
            del self._sizes[place.region]
        self._without_boundary.discard(node_id)
        key = place.region if self.is_bounded else None
        rings = self._rings[key]
        rings.remove(node_id)
        if not rings:
            del self._rings[key]
        if self.is_bounded:
            order, spot = self._order[place.region], _spot(node_id)
            del order[bisect_left(order, spot)]
            if not order:
                del self._order[place.region]
        return True

    def settle(self, now: float) -> bool:
        """Puts boundaries into effect, or ends them; returns whether either happened."""
        is_wanted = not self._without_boundary and 0 < len(self._sizes) <= MAX_REGIONS
        if not is_wanted:
            self._lacked_at = now
        if is_wanted == self.is_bounded or (is_wanted and now - self._lacked_at < TAKE_UP_AFTER):
            return False
        self.is_bounded, self.changed_at = is_wanted, now
        self._rings.clear()
        self._order.clear()
        for node_id, place in self._places.items():
            self._enter(node_id, place)
        return True

    @property
    def lacking(self) -> str | None:
        """The id of a node that states no boundary; None if all do."""
        return min(self._without_boundary, default=None)

    # The rings

    def observers(self, subject: str) -> frozenset[str]:
        rings = self._rings_of(subject)
        return frozenset() if rings is None else rings.observers(subject)

    def subjects(self, observer: str) -> frozenset[str]:
        rings = self._rings_of(observer)
        return frozenset() if rings is None else rings.subjects(observer)

    def followed(self, node_id: str) -> frozenset[str]:
        rings = self._rings_of(node_id)
        return frozenset() if rings is None else rings.followed(node_id)

    # The regions

    def region_of(self, node_id: str) -> str | None:
        """Returns the region of a node; None without boundaries, or if it is unknown."""
        place = self._places.get(node_id) if self.is_bounded else None
        return None if place is None else place.region

    def names(self) -> list[str]:
        """Returns the regions in order; none without boundaries."""
        return sorted(self._order)

    def members(self, region: str) -> list[str]:
        return [node_id for _, _, node_id in self._order.get(region, ())]

    def bridges(self, region: str) -> tuple[str, ...]:
        """Returns the bridges of a region, in order: living nodes of different identities."""
        found: dict[str, str] = {}
        for _, _, node_id in self._order.get(region, ()):
            if self._places[node_id].can_observe:
                found.setdefault(owner_of(node_id), node_id)
                if len(found) == BRIDGES:
                    break
        return tuple(found.values())

    def walk(self, region: str, start: str) -> Iterator[tuple[str, bool]]:
        """Yields the nodes of a region that a bridge may ask, and whether each is alive.

        It begins at a place that depends on `start`, so that bridges ask different nodes. Failed
        nodes are yielded after all others.
        """
        order = self._order.get(region, [])
        first = bisect_left(order, (_hash(start), b"", ""))
        for is_living in (True, False):
            for index in range(first, first + len(order)):
                node_id = order[index % len(order)][2]
                if self._places[node_id].can_observe == is_living:
                    yield node_id, is_living

    def _rings_of(self, node_id: str) -> Rings | None:
        place = self._places.get(node_id)
        if place is None:
            return None
        return self._rings.get(place.region if self.is_bounded else None)

    def _enter(self, node_id: str, place: Place) -> bool:
        rings = self._rings.setdefault(place.region if self.is_bounded else None, Rings())
        if self.is_bounded and node_id not in rings:
            insort(self._order.setdefault(place.region, []), _spot(node_id))
        return rings.place(node_id, can_observe=place.can_observe)


def _hash(text: str) -> bytes:
    return hashlib.sha256(b"aegis bridge " + text.encode()).digest()[:8]


def _spot(node_id: str) -> _Spot:
    return _hash(owner_of(node_id)), _hash(node_id), node_id
