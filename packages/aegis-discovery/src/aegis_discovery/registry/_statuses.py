"""Who is alive, as all processes derive it from a registry. Pure: the time is an argument."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from aegis_discovery._model import NodeStatus
from aegis_discovery._topology.topology import Topology
from aegis_discovery.records._count import VerdictCounter, accusations
from aegis_discovery.records._record import Record
from aegis_discovery.registry._observers import RendezvousObservers

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
        self._unresponsive: set[str] = set()
        self._counter = VerdictCounter(topology)

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
                    self._place(entry.record, entry.node.status)
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
        self._unresponsive.discard(node_id)
        self._counter.forget(node_id)

    def _derive(self, node_id: str, now: float) -> None:
        record = self._topology.get_record(node_id)
        if record is None or record.info is None:
            self._forget(node_id)
            return
        if not self._sets_statuses or node_id == self._topology.owner:
            return
        # Observers are expensive to choose.
        is_accused = self._counts_verdicts and accusations(self._topology, record)
        electors = self._electors(record) if is_accused else frozenset[str]()
        count = self._counter.count(record, electors, now)
        if count.has_failed:
            status = NodeStatus.FAILED
            self._failed[node_id] = record.stamp, electors
        else:
            is_suspect = count.is_unanswered or node_id in self._vanished
            status = NodeStatus.SUSPECTED if is_suspect else NodeStatus.ALIVE
            self._failed.pop(node_id, None)
        # Its accuser may become an observer when another one is replaced.
        if is_accused:
            self._undecided.add(node_id)
        else:
            self._undecided.discard(node_id)
        is_unresponsive = status is NodeStatus.SUSPECTED and self._counter.is_unresponsive(
            node_id, now
        )
        if is_unresponsive is not (node_id in self._unresponsive):
            self._unresponsive.symmetric_difference_update((node_id,))
            self._place(record, status)
        if self._topology.set_status(node_id, record.stamp, status):
            if status is NodeStatus.FAILED and self._topology.owner is not None:
                _log.warning("%s failed", node_id)
            else:
                _log.info(_LINES[status], node_id)

    def _place(self, record: Record, status: NodeStatus) -> None:
        is_able = status is not NodeStatus.FAILED and record.id not in self._unresponsive
        self.observers.place(record.id, can_observe=is_able and record.voucher is None)

    def _electors(self, record: Record) -> frozenset[str]:
        """Returns the observers of a node; for a failed one, those at its failure that live."""
        stamp, electors = self._failed.get(record.id, (None, frozenset[str]()))
        left = electors - self._failed.keys() if stamp == record.stamp else None
        return left or self.observers.observers(record.id)
