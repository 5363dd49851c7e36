"""Who is alive, as the whole mesh sees it: derived by every node from the same verdicts. Pure."""

from __future__ import annotations

import logging
from collections import Counter

from aegis_discovery import NodeStatus, Topology
from aegis_discovery.records import (
    UNREFUTED,
    UNREFUTED_ELSEWHERE,
    Record,
    VerdictCounter,
    accusations,
)

from aegis_core._membership.regions import Regions

_log = logging.getLogger("aegis.membership")

TAKE_OVER = 10.0
"""Seconds that new observers have for verdicts of their own after a change of the boundaries."""

_LINES = {
    NodeStatus.ALIVE: "%s recovered",
    NodeStatus.SUSPECTED: "%s is suspected",
}


class Agreement:
    """Derives the status of each node, and sets it in the topology of one node.

    Attributes:
        accused: Ids of the nodes that are not alive, or on which there is any accusation.
        undecided: Ids of those with verdicts that count and have not failed: time may change that.
        failed: The failed nodes, with the stamp of their record, their observers at that time, and
            that time.
        unresponsive: Ids of the nodes that have not failed, but left an accusation unanswered for
            so long that others observe in their place.
        moved: Ids of those that became so, or ceased to be: the rings change with them.
        unreachable: The regions that are silent as a whole, as most bridges of the own one say.
    """

    def __init__(self, topology: Topology, regions: Regions) -> None:
        assert topology.owner  # noqa: S101 - a topology of nobody has no place in a mesh
        self._own_id = topology.owner
        self._topology = topology
        self._regions = regions
        self.unreachable: frozenset[str] = frozenset()
        self.accused: set[str] = set()
        self.undecided: set[str] = set()
        self.failed: dict[str, tuple[int, frozenset[str], float]] = {}
        self.unresponsive: set[str] = set()
        self.moved: set[str] = set()
        self._warned: dict[str, int] = {}  # the stamps of records that were logged as failed
        self._counter = VerdictCounter(topology, patience=self._patience)

    def forget(self, node_id: str) -> None:
        """Forgets a node that is not in the topology any more."""
        self.accused.discard(node_id)
        self.undecided.discard(node_id)
        self.failed.pop(node_id, None)
        self.unresponsive.discard(node_id)
        self._warned.pop(node_id, None)
        self._counter.forget(node_id)

    def derive(self, node_id: str, now: float) -> None:
        """Derives the status of a node other than the own one anew."""
        record = self._topology.get_record(node_id)
        node = self._topology.get_node(node_id)
        if record is None or node is None or node_id == self._own_id:
            self.accused.discard(node_id)
            self.undecided.discard(node_id)
            self._note_unresponsive(node_id, holds=False)
            return
        if self._regions.region_of(node_id) in self.unreachable:
            self._derive_unreachable(record)
            return
        electors = self._electors(record, now)
        count = self._counter.count(record, electors, now)
        if count.has_failed:
            status = NodeStatus.FAILED
        else:
            status = NodeStatus.SUSPECTED if count.is_unanswered else NodeStatus.ALIVE
        # A verdict that does not count yet may count after a change of the rings.
        if status is not NodeStatus.ALIVE or accusations(self._topology, record):
            self.accused.add(node_id)
        else:
            self.accused.discard(node_id)
        if count.counts and status is not NodeStatus.FAILED:
            self.undecided.add(node_id)
        else:
            self.undecided.discard(node_id)
        self._note_unresponsive(
            node_id,
            holds=status is NodeStatus.SUSPECTED and self._counter.is_unresponsive(node_id, now),
        )
        if status is NodeStatus.FAILED:
            known = self.failed.get(node_id)
            since = known[2] if known and known[:2] == (record.stamp, electors) else now
            self.failed[node_id] = record.stamp, electors, since
        else:
            self.failed.pop(node_id, None)
        if node.status is not status and self._topology.set_status(node_id, record.stamp, status):
            # The end of a cut is logged once for the whole region.
            was_cut_off = node.status is NodeStatus.UNREACHABLE and status is NodeStatus.ALIVE
            if status is NodeStatus.FAILED:
                # New observers judge anew, and often say the same again.
                is_known = self._warned.get(node_id) == record.stamp
                self._warned[node_id] = record.stamp
                _log.log(logging.DEBUG if is_known else logging.WARNING, "%s failed", node_id)
            else:
                if status is NodeStatus.ALIVE:
                    self._warned.pop(node_id, None)
                _log.log(logging.DEBUG if was_cut_off else logging.INFO, _LINES[status], node_id)

    def _derive_unreachable(self, record: Record) -> None:
        """Keeps a failure that was agreed before the region fell silent; nobody fails meanwhile."""
        node_id = record.id
        self.accused.add(node_id)
        self.undecided.discard(node_id)
        self._counter.forget(node_id)
        self._note_unresponsive(node_id, holds=False)
        known = self.failed.get(node_id)
        if known is None or known[0] != record.stamp:
            self.failed.pop(node_id, None)
            self._topology.set_status(node_id, record.stamp, NodeStatus.UNREACHABLE)

    def _note_unresponsive(self, node_id: str, *, holds: bool) -> None:
        if holds is not (node_id in self.unresponsive):
            self.unresponsive.symmetric_difference_update((node_id,))
            self.moved.add(node_id)

    def review_regions(self) -> list[str]:
        """Decides which regions are unreachable; returns ids of the nodes to derive anew.

        A region is, if more than half of the own region's bridges say that they do not hear it.
        """
        regions, before = self._regions, self.unreachable
        own = regions.region_of(self._own_id)
        bridges = () if own is None else regions.bridges(own)
        said: Counter[str] = Counter()
        for bridge in bridges:
            node = self._topology.get_node(bridge)
            said.update(set(node.silent_regions) if node else ())
        self.unreachable = frozenset(
            name for name in regions.names() if name != own and 2 * said[name] > len(bridges)
        )
        if self.unreachable == before:
            return []
        for name in sorted(self.unreachable - before):
            _log.warning("region %r is unreachable: its nodes keep their last state", name)
        for name in sorted(before - self.unreachable):
            _log.info("region %r can be reached again", name)
        changed = self.unreachable ^ before
        return [node_id for name in changed for node_id in regions.members(name)]

    def _electors(self, record: Record, now: float) -> frozenset[str]:
        """Returns the nodes whose verdicts count; for a failed node, the observers at its failure.

        A failed node cannot observe, so the nodes that it observed get new observers. Without
        verdicts of these, such a node would be alive again, and change the observers of this one:
        without end. Of those that have failed meanwhile, held verdicts would count for good.
        """
        stamp, electors, since = self.failed.get(record.id, (None, frozenset[str](), 0.0))
        # Observers from before a change of the boundaries do not watch the node any more.
        changed_at = self._regions.changed_at
        is_valid = stamp == record.stamp and (since >= changed_at or now - changed_at < TAKE_OVER)
        left = electors - self.failed.keys() if is_valid else None
        return left or self._regions.observers(record.id)

    def _patience(self, observer: str) -> float:
        region_of = self._regions.region_of
        is_near = region_of(observer) == region_of(self._own_id)
        return UNREFUTED if is_near else UNREFUTED_ELSEWHERE
