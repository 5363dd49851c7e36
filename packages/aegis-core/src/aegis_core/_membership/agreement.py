"""Who is alive, as the whole mesh sees it: derived by every node from the same verdicts. Pure."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from aegis_discovery import NodeStatus, Topology
from aegis_discovery.records import Opinion, Record, Verdict

from aegis_core._membership.regions import Regions

_log = logging.getLogger("aegis.membership")

UNREFUTED = 2.0
"""Seconds after which an accused observer that did not answer is not waited for any more."""

TAKE_OVER = 10.0
"""Seconds that new observers have for verdicts of their own after a change of the boundaries."""

UNREFUTED_ELSEWHERE = 12.0
"""The same for observers in other regions.

It is longer than a region that was cut off needs to count as unreachable: the answers may be behind
the cut.
"""

_LINES = {
    NodeStatus.ALIVE: "%s recovered",
    NodeStatus.SUSPECTED: "%s is suspected",
    NodeStatus.FAILED: "%s failed",
}


class Agreement:
    """Derives the status of each node, and sets it in the topology of one node.

    Attributes:
        accused: Ids of the nodes that are not alive, or on which there is any accusation.
        undecided: Ids of those with verdicts that count and have not failed: time may change that.
        failed: The failed nodes, with the stamp of their record, their observers at that time, and
            that time.
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
        # Since when accusations of the latest record are unanswered: those that count, and all.
        self._suspected_since: dict[str, tuple[int, float]] = {}
        self._accused_since: dict[str, tuple[int, float]] = {}

    def forget(self, node_id: str) -> None:
        """Forgets a node that is not in the topology any more."""
        self.accused.discard(node_id)
        self.undecided.discard(node_id)
        self.failed.pop(node_id, None)
        self._suspected_since.pop(node_id, None)
        self._accused_since.pop(node_id, None)

    def derive(self, node_id: str, now: float) -> None:
        """Derives the status of a node other than the own one anew."""
        record = self._topology.get_record(node_id)
        node = self._topology.get_node(node_id)
        if record is None or node is None or node_id == self._own_id:
            self.accused.discard(node_id)
            self.undecided.discard(node_id)
            return
        if self._regions.region_of(node_id) in self.unreachable:
            self._derive_unreachable(record)
            return
        accused = accusations(self._topology, record)
        electors = self._electors(record, now)
        verdicts = self._counted(record, accused, electors, now)
        is_unanswered = _is_unanswered(record, verdicts)
        _note(self._accused_since, record, now, holds=_is_unanswered(record, accused))
        _note(self._suspected_since, record, now, holds=is_unanswered)
        if verdicts and self._is_agreed(electors, verdicts, now):
            status = NodeStatus.FAILED
        else:
            status = NodeStatus.SUSPECTED if is_unanswered else NodeStatus.ALIVE
        # A verdict that does not count yet may count after a change of the rings.
        if status is not NodeStatus.ALIVE or accused:
            self.accused.add(node_id)
        else:
            self.accused.discard(node_id)
        if verdicts and status is not NodeStatus.FAILED:
            self.undecided.add(node_id)
        else:
            self.undecided.discard(node_id)
        if status is NodeStatus.FAILED:
            known = self.failed.get(node_id)
            since = known[2] if known and known[:2] == (record.stamp, electors) else now
            self.failed[node_id] = record.stamp, electors, since
        else:
            self.failed.pop(node_id, None)
        if node.status is not status and self._topology.set_status(node_id, record.stamp, status):
            # The end of a cut is logged once for the whole region.
            was_cut_off = node.status is NodeStatus.UNREACHABLE and status is NodeStatus.ALIVE
            level = logging.WARNING if status is NodeStatus.FAILED else logging.INFO
            _log.log(logging.DEBUG if was_cut_off else level, _LINES[status], node_id)

    def _derive_unreachable(self, record: Record) -> None:
        """Keeps a failure that was agreed before the region fell silent; nobody fails meanwhile."""
        node_id = record.id
        self.accused.add(node_id)
        self.undecided.discard(node_id)
        self._suspected_since.pop(node_id, None)
        self._accused_since.pop(node_id, None)
        known = self.failed.get(node_id)
        if known is None or known[0] != record.stamp:
            self.failed.pop(node_id, None)
            self._topology.set_status(node_id, record.stamp, NodeStatus.UNREACHABLE)

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
        without end.
        """
        stamp, electors, since = self.failed.get(record.id, (None, frozenset[str](), 0.0))
        # Observers from before a change of the boundaries do not watch the node any more.
        changed_at = self._regions.changed_at
        is_valid = stamp == record.stamp and (since >= changed_at or now - changed_at < TAKE_OVER)
        return electors if is_valid else self._regions.observers(record.id)

    def _counted(
        self, record: Record, accused: Iterable[Verdict], electors: frozenset[str], now: float
    ) -> list[Verdict]:
        return [
            v
            for v in accused
            if v.accuser in electors
            and is_by_present_life(self._topology, v)
            and (_is_unanswered(record, [v]) or not self._is_outlived(v, now))
        ]

    def _is_outlived(self, held: Verdict, now: float) -> bool:
        """Tells whether the accuser of a held verdict is dead, as far as its subject can show that.

        The subject answered, and accuses its accuser, who did not answer. Otherwise the verdict of
        a node that died could count until its lease ends, and that of its subject could not.
        """
        accuser = self._topology.get_record(held.accuser)
        accused = self._accused_since.get(held.accuser)
        if accuser is None or accused is None or now - accused[1] < UNREFUTED_ELSEWHERE:
            return False
        return any(
            v.accuser == held.subject and _is_unanswered(accuser, [v])
            for v in accusations(self._topology, accuser)
        )

    def _is_agreed(self, electors: frozenset[str], verdicts: Iterable[Verdict], now: float) -> bool:
        failing = {v.accuser for v in verdicts if v.opinion is Opinion.FAILED}
        waited_for = {
            observer
            for observer in electors
            if observer in failing or not self._is_missing(observer, now)
        }
        return 2 * len(failing) > len(waited_for)

    def _is_missing(self, observer: str, now: float) -> bool:
        """Tells whether an observer is accused and has not answered for `UNREFUTED` seconds.

        A live node answers at once, so one liar cannot make all others not count.
        """
        if observer == self._own_id:
            return False
        suspected = self._suspected_since.get(observer)
        if suspected is None:
            return False
        region_of = self._regions.region_of
        is_near = region_of(observer) == region_of(self._own_id)
        return now - suspected[1] >= (UNREFUTED if is_near else UNREFUTED_ELSEWHERE)


def _note(since: dict[str, tuple[int, float]], record: Record, now: float, *, holds: bool) -> None:
    """Notes since when something holds of a record; not of the records before it."""
    known = since.get(record.id)
    if not holds:
        since.pop(record.id, None)
    elif known is None or known[0] != record.stamp:
        since[record.id] = (record.stamp, now)


def accusations(topology: Topology, record: Record) -> list[Verdict]:
    """Returns all accusations of a node's present record, of observers or not."""
    verdicts = topology.get_verdicts(record.id)
    return [v for v in verdicts if v.opinion is not Opinion.CLEAR and v.is_about(record)]


def is_by_present_life(topology: Topology, verdict: Verdict) -> bool:
    """Tells whether the accuser of a verdict has not restarted since, or left."""
    accuser = topology.get_record(verdict.accuser)
    return accuser is not None and accuser.instance == verdict.accuser_instance


def _is_unanswered(record: Record, verdicts: Iterable[Verdict]) -> bool:
    """Tells whether any of these verdicts is about the latest record of its subject.

    A held verdict on an older record counts as answered: its accuser may be the only node that
    does not hear the subject, or lie.
    """
    return any(v.subject_stamp == record.stamp or record.voucher is not None for v in verdicts)
