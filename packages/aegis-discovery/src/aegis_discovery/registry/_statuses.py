"""Who is alive, as all processes derive it from a registry. Pure: the time is an argument."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from aegis_discovery._model import NodeStatus
from aegis_discovery._topology.topology import Topology
from aegis_discovery.records._record import Record
from aegis_discovery.records._verdict import Opinion, Verdict
from aegis_discovery.registry._observers import RendezvousObservers

UNREFUTED = 2.0
"""Seconds after which an accused observer that did not answer is not waited for any more."""

_LINES = {
    NodeStatus.ALIVE: "%s recovered",
    NodeStatus.SUSPECTED: "%s is suspected",
    NodeStatus.FAILED: "%s failed",
}

_log = logging.getLogger("aegis.membership")


class RegistryStatuses:
    """Derives the status of each node from its key, and from the verdicts of its observers.

    A node whose key vanished is suspected, so that calls avoid it. It counts as failed once most of
    its observers say so, and that they do only if they cannot reach it themselves.

    Args:
        topology: The topology of a client, or of a node.
        counts_verdicts: False for a client of some services: it does not know the observers.
        sets_statuses: False for a node that derives the statuses from its feeds.

    Attributes:
        observers: Chooses the observers of each node.
    """

    def __init__(
        self, topology: Topology, *, counts_verdicts: bool = True, sets_statuses: bool = True
    ) -> None:
        self._topology = topology
        self._counts_verdicts = counts_verdicts
        self._sets_statuses = sets_statuses
        self.observers = RendezvousObservers()
        self._position = 0
        self._vanished: set[str] = set()
        self._undecided: set[str] = set()
        self._failed: dict[str, tuple[int, frozenset[str]]] = {}
        self._accused_since: dict[str, tuple[int, float]] = {}

    def key_changes(self, vanished: Iterable[str], returned: Iterable[str], now: float) -> None:
        """Notes which nodes have no key any more, and which have one again."""
        vanished, returned = list(vanished), list(returned)
        self._vanished.update(vanished)
        self._vanished.difference_update(returned)
        self.review(now, also=[*vanished, *returned])

    def review(self, now: float, *, also: Iterable[str] = ()) -> None:
        """Derives the status of nodes whose records, verdicts or keys changed."""
        changed = {*also, *self._undecided}
        # Statuses that are set here are changes too, of who can observe.
        while self._topology.log_position != self._position:
            changes = self._topology.changes_since(self._position)
            self._position = changes.position
            for entry in changes.entries:
                node_id = entry.record.id
                changed.add(node_id)
                if entry.node is None:
                    self._forget(node_id)
                else:
                    is_able = entry.record.voucher is None and (
                        entry.node.status is not NodeStatus.FAILED
                    )
                    self.observers.place(node_id, can_observe=is_able)
            changed.update(entry.content.verdict.subject for entry in changes.verdict_entries)
            for node_id in sorted(changed):
                self._derive(node_id, now)
            changed.clear()
        for node_id in sorted(changed):
            self._derive(node_id, now)

    def _forget(self, node_id: str) -> None:
        self.observers.remove(node_id)
        self._vanished.discard(node_id)
        self._undecided.discard(node_id)
        self._failed.pop(node_id, None)
        self._accused_since.pop(node_id, None)

    def _derive(self, node_id: str, now: float) -> None:
        record = self._topology.get_record(node_id)
        if record is None or record.info is None:
            self._forget(node_id)
            return
        if not self._sets_statuses or node_id == self._topology.owner:
            return
        verdicts = self._counted(record) if self._counts_verdicts else []
        is_accused = any(v.subject_stamp == record.stamp for v in verdicts)
        self._note_accusation(record, now, is_accused=is_accused)
        if verdicts and self._is_agreed(record, verdicts, now):
            status = NodeStatus.FAILED
            self._failed[node_id] = record.stamp, self._electors(record)
        else:
            is_suspect = is_accused or node_id in self._vanished
            status = NodeStatus.SUSPECTED if is_suspect else NodeStatus.ALIVE
            self._failed.pop(node_id, None)
        if verdicts:
            self._undecided.add(node_id)
        else:
            self._undecided.discard(node_id)
        if self._topology.set_status(node_id, record.stamp, status):
            _log.info(_LINES[status], node_id)

    def _electors(self, record: Record) -> frozenset[str]:
        """Returns the observers of a node; for a failed one, those at its failure."""
        stamp, electors = self._failed.get(record.id, (None, frozenset[str]()))
        return electors if stamp == record.stamp else self.observers.observers(record.id)

    def _counted(self, record: Record) -> list[Verdict]:
        """Returns the accusations of a node by its observers, in their present lives."""
        accusations = [
            v
            for v in self._topology.get_verdicts(record.id)
            if v.opinion is not Opinion.CLEAR and v.is_about(record)
        ]
        if not accusations:
            return []
        electors = self._electors(record)
        return [v for v in accusations if v.accuser in electors and self._is_of_present_life(v)]

    def _is_of_present_life(self, verdict: Verdict) -> bool:
        accuser = self._topology.get_record(verdict.accuser)
        return accuser is not None and accuser.instance == verdict.accuser_instance

    def _is_agreed(self, record: Record, verdicts: Iterable[Verdict], now: float) -> bool:
        failing = {v.accuser for v in verdicts if v.opinion is Opinion.FAILED}
        waited_for = {
            observer
            for observer in self._electors(record)
            if observer in failing or not self._is_missing(observer, now)
        }
        return 2 * len(failing) > len(waited_for)

    def _note_accusation(self, record: Record, now: float, *, is_accused: bool) -> None:
        known = self._accused_since.get(record.id)
        if not is_accused:
            self._accused_since.pop(record.id, None)
        elif known is None or known[0] != record.stamp:
            self._accused_since[record.id] = record.stamp, now

    def _is_missing(self, observer: str, now: float) -> bool:
        accused = self._accused_since.get(observer)
        return accused is not None and now - accused[1] >= UNREFUTED
