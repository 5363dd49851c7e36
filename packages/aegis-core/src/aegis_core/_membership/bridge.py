"""A node's part as a bridge of its region: one feed to a node of every other region. Pure."""

from __future__ import annotations

import math

from aegis_certs import owner_of

from aegis_core._membership.failure_detector import SUSPECT_AFTER
from aegis_core._membership.regions import Regions

SILENT_AFTER = 2 * SUSPECT_AFTER
"""Seconds without a message of a region after which a bridge says so: one node was silent for half
of that, and another one too."""

AVOIDED = 30.0
"""Seconds for which a node is not asked again whose feed broke or fell silent."""

RETRY = 1.0
"""Seconds between two feeds of the same region."""


class _Crossing:
    """The way from one other region.

    Attributes:
        heard_at: When its last message arrived, or the bridge began.
        dial_at: When a feed may be opened next.
        is_silent: Whether it was not heard for so long that this bridge says so.
        avoided: Until when some of its nodes are not asked.
        awake: A node that wrote a record while the region was silent; it is asked next.
    """

    __slots__ = ("avoided", "awake", "dial_at", "heard_at", "is_silent")

    def __init__(self, now: float, *, is_silent: bool) -> None:
        self.heard_at = self.dial_at = now
        self.is_silent = is_silent
        self.avoided: dict[str, float] = {}
        self.awake = ""


class Bridge:
    """Decides from which nodes of other regions one node reads, and which regions are silent.

    Attributes:
        version: Grows whenever it may read from other nodes than before.
    """

    def __init__(self, own_id: str, regions: Regions) -> None:
        self._own_id = own_id
        self._regions = regions
        self._crossings: dict[str, _Crossing] = {}
        self.version = 0

    def __repr__(self) -> str:
        return f"<Bridge {self._own_id} of {len(self._crossings)} other regions>"

    def review(self, unreachable: frozenset[str], now: float) -> None:
        """Begins or ends to read other regions; to be called after each change of the regions.

        Args:
            unreachable: The regions that count as such now: a new bridge says so too, until it
                hears them.
            now: Monotonic seconds.
        """
        regions = self._regions
        own = regions.region_of(self._own_id)
        is_bridge = own is not None and self._own_id in regions.bridges(own)
        others = [name for name in regions.names() if name != own] if is_bridge else []
        for region in self._crossings.keys() - set(others):
            del self._crossings[region]
        for region in others:
            if region not in self._crossings:
                self._crossings[region] = _Crossing(now, is_silent=region in unreachable)

    def targets(self, now: float) -> dict[str, str]:
        """Returns the nodes to read from, with their regions."""
        found = {}
        for region in self._crossings:
            target = self._target(region, now)
            if target:
                found[target] = region
        return found

    def dial_at(self, region: str) -> float:
        return self._crossings[region].dial_at

    def message_received(self, region: str, now: float) -> None:
        crossing = self._crossings.get(region)
        if crossing is not None:
            crossing.heard_at, crossing.is_silent, crossing.awake = now, False, ""

    def feed_ended(self, node_id: str, region: str, now: float) -> None:
        """Notes that a feed broke, fell silent or was refused: another node is asked next."""
        crossing = self._crossings.get(region)
        if crossing is None:
            return
        crossing.dial_at = now + RETRY
        crossing.awake = ""
        crossing.avoided = {i: until for i, until in crossing.avoided.items() if until > now}
        crossing.avoided[node_id] = now + AVOIDED
        self.version += 1

    def record_written(self, node_id: str, now: float) -> None:
        """Notes that a node wrote a record: if its region is silent, it is asked next."""
        region = self._regions.region_of(node_id)
        crossing = None if region is None else self._crossings.get(region)
        if crossing is not None and now - crossing.heard_at > SUSPECT_AFTER:
            crossing.awake = node_id
            self.version += 1

    def silent(self, now: float) -> tuple[str, ...]:
        """Returns the regions that this bridge does not hear, in order."""
        for crossing in self._crossings.values():
            crossing.is_silent |= now - crossing.heard_at >= SILENT_AFTER
        return tuple(sorted(r for r, crossing in self._crossings.items() if crossing.is_silent))

    def _target(self, region: str, now: float) -> str:
        """Returns the node to read a region from; empty if there is none."""
        crossing = self._crossings[region]
        if self._regions.region_of(crossing.awake) == region:
            return crossing.awake
        taken = self._taken_by_others(region)
        order = self._regions.walk(region, f"{self._own_id} {region}")
        best, least = "", (math.inf, True, True)
        for node_id, is_living in order:
            until = crossing.avoided.get(node_id, -math.inf)
            # The one that was asked longest ago; a failed one after those, as this region may be
            # wrong about all of them; and rather one that no other bridge reads.
            rank = (until if until > now else -math.inf, not is_living, owner_of(node_id) in taken)
            if rank < least:
                best, least = node_id, rank
            if rank == (-math.inf, False, False):
                break
        return best

    def _taken_by_others(self, region: str) -> set[str]:
        """Returns the identities that the bridges before this one read that region from."""
        taken: set[str] = set()
        own = self._regions.region_of(self._own_id)
        for bridge in self._regions.bridges(own or ""):
            if bridge == self._own_id:
                break
            for node_id, is_living in self._regions.walk(region, f"{bridge} {region}"):
                if is_living and owner_of(node_id) not in taken:
                    taken.add(owner_of(node_id))
                    break
        return taken
