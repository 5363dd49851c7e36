"""One node's part in what the mesh knows of who is alive. Pure: time and chance come in.

Every node watches a few others and says of them what it sees; out of what all say, each node
derives the same status of everybody: SWIM's suspicion and refutation (Das et al., DSN 2002), with
the many observers and the agreement of Rapid (Suresh et al., USENIX ATC 2018).
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable

from aegis_discovery import EventKind, NodeStatus, Topology, TopologyEvent
from aegis_discovery.records import VERDICT_LEASE, Opinion, Record, Verdict

from aegis_core._membership.failure_detector import FLAP_WINDOW, FailureDetector
from aegis_core._membership.refutation import Refutation
from aegis_core._membership.rings import Rings

_log = logging.getLogger("aegis.membership")

UNREFUTED = 2.0
"""Seconds after which an accused observer that did not answer is not waited for any longer."""

REVIEW = 0.2
"""Seconds between two looks at all who are accused, and not failed."""

REVIEW_ALL = 2.0
"""The same for all who are accused: what is agreed on changes by news, which is looked at at once.

Only a new life of an accuser, an answer of one, or the end of a lease change it without any; in a
divided mesh half of all nodes are failed, and a look at each of them costs something.
"""


class Membership:
    """Decides whom to watch, what to say of them, and who is alive.

    It reads the node's topology and writes to it: own verdicts, everybody's status, and a new own
    record where somebody believes this node dead.

    Args:
        topology: The node's own.
        now: The time, on the clock of all other calls (monotonic seconds).
        rings: To start from, where the topology's first `position` changes are on them already.
        position: How far the topology's log was read.

    Attributes:
        position: How far the topology's log was read.
        rings_version: Grows whenever a change of the rings may change which nodes to watch.
    """

    def __init__(
        self, topology: Topology, now: float, *, rings: Rings | None = None, position: int = 0
    ) -> None:
        assert topology.owner  # noqa: S101 - a topology of nobody has no place in a mesh
        self._own_id = topology.owner
        self._topology = topology
        self._rings = rings or Rings()
        self.position = position
        self._judge = FailureDetector(now)
        self.rings_version = 0
        self._subjects: dict[str, Record] = {}
        self._accused: set[str] = set()
        self._undecided: set[str] = set()
        self._failed: dict[str, tuple[int, frozenset[str]]] = {}
        self._suspected_since: dict[str, tuple[int, float]] = {}
        self._reviewed_at = self._reviewed_all_at = now
        self._answers = Refutation()
        self._contradicted_at: tuple[str, float] = ("", -math.inf)
        self._said_at: dict[str, float] = {}
        self._dropped: list[str] = []
        self._lock = threading.Lock()
        self._end = topology.subscribe(self._on_event)
        if rings is not None:
            self._reshape(now)

    def __repr__(self) -> str:
        return f"<Membership of {self._own_id}: {len(self._rings)} nodes, {self._judge!r}>"

    @property
    def watched(self) -> frozenset[str]:
        """Ids of those whose feed this node holds open, or tries to.

        One that the mesh agreed upon as failed is only tried now and then, unless it has to show
        that it stays.
        """
        return frozenset(node_id for node_id in self._subjects if self._is_to_be_dialled(node_id))

    @property
    def missing(self) -> frozenset[str]:
        """Ids of those that may be back, or behind a healed partition: all that are failed.

        One that hears none of those it watches knows too little of who is failed: its own side of
        a partition may be among the others, so anybody is worth a try.
        """
        if any(self._judge.opinion(node_id)[0] is Opinion.CLEAR for node_id in self._judge):
            return frozenset(self._failed)
        return frozenset(self._topology.nodes.keys() - {self._own_id})

    def observers(self, node_id: str) -> frozenset[str]:
        """Returns whose verdicts on a node count."""
        return self._rings.observers(node_id)

    def heard(self, node_id: str, now: float) -> None:
        """Notes a message of a watched node's own feed."""
        self._judge.heard(node_id, now)

    def lost(self, node_id: str, now: float) -> None:
        """Notes that the feed of a watched node broke, or could not be opened."""
        self._judge.lost(node_id, now)

    def close(self) -> None:
        """Ends following the topology."""
        self._end()

    def tick(self, now: float) -> None:
        """Takes in what changed and does what is due; call it on changes and every `REVIEW`."""
        changed = self._take_changes(now)
        self._judge.tick(now)
        self._say(now)
        if now - self._reviewed_at >= REVIEW:
            self._reviewed_at = now
            changed |= self._undecided
        if now - self._reviewed_all_at >= REVIEW_ALL:
            self._reviewed_all_at = now
            changed |= self._accused
        for node_id in sorted(changed):
            self._derive(node_id, now)
        self._refute(now)

    # Whom to watch

    def _on_event(self, event: TopologyEvent) -> None:
        if event.kind in (EventKind.EXPIRED, EventKind.REVOKED):
            # The log has no place for what is gone; all else is read there.
            with self._lock:
                self._dropped.append(event.node.id)

    def _take_changes(self, now: float) -> set[str]:
        """Reads the log on; returns ids of nodes about which something may have changed."""
        with self._lock:
            dropped, self._dropped = self._dropped, []
        reshaped = False
        changed = set()
        for node_id in dropped:
            if self._topology.get_node(node_id) is None:
                reshaped |= self._remove(node_id)
        if self._topology.log_position != self.position:
            changes = self._topology.changes_since(self.position)
            self.position = changes.position
            for entry in changes.entries:
                node_id = entry.record.id
                changed.add(node_id)
                if entry.node is None:
                    reshaped |= self._remove(node_id)
                    continue
                fits = entry.record.voucher is None and entry.node.status is not NodeStatus.FAILED
                reshaped |= self._rings.place(node_id, fits=fits or node_id == self._own_id)
                if node_id in self._subjects:
                    self._meet(entry.record, now)
            changed.update(said.content.verdict.subject for said in changes.verdict_entries)
        if reshaped:
            self._reshape(now)
            changed |= self._accused
        return changed

    def _remove(self, node_id: str) -> bool:
        self._accused.discard(node_id)
        self._undecided.discard(node_id)
        self._failed.pop(node_id, None)
        self._suspected_since.pop(node_id, None)
        self._answers.forget(node_id)
        return self._rings.remove(node_id)

    def _reshape(self, now: float) -> None:
        """Follows the rings: takes up new subjects, and lets go of old ones."""
        self.rings_version += 1
        subjects = self._rings.subjects(self._own_id)
        for node_id in sorted(self._subjects.keys() - subjects):
            del self._subjects[node_id]
            self._judge.forget(node_id)
            self._said_at.pop(node_id, None)
        for node_id in sorted(subjects - self._subjects.keys()):
            record = self._topology.get_record(node_id)
            if record is not None:
                self._subjects[node_id] = record
                said = self._said(record)
                if said is None:
                    self._judge.watch(node_id, now)
                else:
                    self._said_at[node_id] = now
                    self._judge.watch(node_id, now, opinion=said.opinion, held=said.held)

    def _meet(self, record: Record, now: float) -> None:
        """Looks at what a watched node wrote."""
        known, self._subjects[record.id] = self._subjects[record.id], record
        if record.voucher is not None or known.stamp == record.stamp:
            return
        if known.instance != record.instance:
            self._judge.watch(record.id, now)
        else:
            others = self._rings.observers(record.id) - {self._own_id}
            alone = bool(others) and not any(
                verdict.opinion is not Opinion.CLEAR
                for verdict in self._topology.get_verdicts(record.id)
                if verdict.accuser in others
            )
            self._judge.renewed(record.id, now, alone=alone)

    def _is_to_be_dialled(self, node_id: str) -> bool:
        opinion, held = self._judge.opinion(node_id)
        is_given_up = opinion is Opinion.FAILED and node_id in self._failed
        return not is_given_up or held or self._subjects[node_id].voucher is not None

    # What to say of them

    def _said(self, record: Record) -> Verdict | None:
        """Returns what this life of this node says of a record, if anything."""
        content = self._topology.get_verdict(record.id, self._own_id)
        own = self._topology.get_record(self._own_id)
        if content is None or own is None:
            return None
        verdict = content.verdict
        if verdict.accuser_instance != own.instance or not verdict.is_about(record):
            return None
        return verdict

    def _say(self, now: float) -> None:
        """Publishes this node's verdicts where they changed, or their leases are to be renewed."""
        for node_id in self._judge:
            opinion, held = self._judge.opinion(node_id)
            if opinion is Opinion.CLEAR and node_id not in self._said_at:
                continue
            record = self._subjects[node_id]
            said = self._said(record)
            if said is None:
                if opinion is Opinion.CLEAR:
                    continue
            elif (said.opinion, said.held) == (opinion, held):
                is_due = now - self._said_at.get(node_id, now) >= VERDICT_LEASE / 3
                if opinion is Opinion.CLEAR or not is_due:
                    continue
            _log.log(
                logging.DEBUG if said and said.opinion is opinion else logging.INFO,
                "%s is %s as %s sees it%s",
                node_id,
                opinion,
                self._own_id,
                ", until it was in order for a while" if held else "",
            )
            self._said_at[node_id] = now
            self._topology.publish_verdict(node_id, opinion, held=held)

    # Who is alive

    def _derive(self, node_id: str, now: float) -> None:
        """Works out a node's status from what its observers say."""
        record = self._topology.get_record(node_id)
        node = self._topology.get_node(node_id)
        if record is None or node is None or node_id == self._own_id:
            self._accused.discard(node_id)
            self._undecided.discard(node_id)
            return
        said = self._accusations(record)
        electors = self._electors(record)
        verdicts = self._standing(said, electors)
        is_unanswered = _is_unanswered(record, verdicts)
        self._note_suspicion(record, now, is_unanswered=is_unanswered)
        if verdicts and self._is_agreed(electors, verdicts, now):
            status = NodeStatus.FAILED
        else:
            status = NodeStatus.SUSPECTED if is_unanswered else NodeStatus.ALIVE
        # One that does not count yet may do so when the rings change, without any news of it.
        if status is not NodeStatus.ALIVE or said:
            self._accused.add(node_id)
        else:
            self._accused.discard(node_id)
        if verdicts and status is not NodeStatus.FAILED:
            self._undecided.add(node_id)
        else:
            self._undecided.discard(node_id)
        if status is NodeStatus.FAILED:
            self._failed[node_id] = record.stamp, electors
        else:
            self._failed.pop(node_id, None)
        if node.status is not status and self._topology.set_status(node_id, record.stamp, status):
            _log.info("%s is %s", node_id, status)

    def _accusations(self, record: Record) -> list[Verdict]:
        """Returns what is said against a node's present record, by whomever."""
        said = self._topology.get_verdicts(record.id)
        return [v for v in said if v.opinion is not Opinion.CLEAR and v.is_about(record)]

    def _electors(self, record: Record) -> frozenset[str]:
        """Returns whose word counts on a node: of one that is failed, of those who failed it.

        Its failure takes it off the rings, which gives others new observers, who may take that
        one's failure back for lack of words, which would give this one new observers: without end.
        """
        stamp, electors = self._failed.get(record.id, (None, frozenset[str]()))
        return electors if stamp == record.stamp else self._rings.observers(record.id)

    def _standing(self, said: Iterable[Verdict], electors: frozenset[str]) -> list[Verdict]:
        """Returns the accusations that count: those by electors."""
        return [v for v in said if v.accuser in electors and self._is_by_present_life(v)]

    def _is_by_present_life(self, verdict: Verdict) -> bool:
        accuser = self._topology.get_record(verdict.accuser)
        return accuser is not None and accuser.instance == verdict.accuser_instance

    def _is_agreed(self, electors: frozenset[str], verdicts: Iterable[Verdict], now: float) -> bool:
        """Counts the electors that say `failed` against all that can still be waited for."""
        failing = {v.accuser for v in verdicts if v.opinion is Opinion.FAILED}
        waited_for = {
            observer
            for observer in electors
            if observer in failing or not self._is_missing(observer, now)
        }
        return 2 * len(failing) > len(waited_for)

    def _note_suspicion(self, record: Record, now: float, *, is_unanswered: bool) -> None:
        """Notes since when a node has left an accusation of its latest record unanswered."""
        if is_unanswered:
            known = self._suspected_since.get(record.id)
            if known is None or known[0] != record.stamp:
                self._suspected_since[record.id] = (record.stamp, now)
        else:
            self._suspected_since.pop(record.id, None)

    def _is_missing(self, observer: str, now: float) -> bool:
        """Tells whether an observer is accused itself and had time enough to answer.

        The living answer at once; so one liar cannot make all others not count.
        """
        if observer == self._own_id:
            return False
        suspected = self._suspected_since.get(observer)
        return suspected is not None and now - suspected[1] >= UNREFUTED

    # What others say of this node

    def _refute(self, now: float) -> None:
        """Answers those who say of the latest own record that this node is not there."""
        own = self._topology.get_record(self._own_id)
        if own is None or own.info is None:
            return
        verdicts = [v for v in self._accusations(own) if self._is_by_present_life(v)]
        observers = self._rings.observers(self._own_id)
        self._name_outvoted(own, verdicts, observers, now)
        answered = is_doubtful = False
        for verdict in verdicts:
            if verdict.subject_stamp != own.stamp:
                continue
            # A stranger may be the other side of a partition, or accuse whom it likes.
            is_observer = verdict.accuser in observers
            if not self._answers.is_due(verdict.accuser, now, is_observer=is_observer):
                continue
            self._answers.give(verdict, now, is_observer=is_observer)
            is_doubtful |= is_observer and self._is_seconded(verdict.accuser, now)
            answered = True
        if is_doubtful:
            self._judge.doubt(now)
        if answered:
            self._topology.republish()

    def _is_seconded(self, accuser: str, now: float) -> bool:
        """Tells whether another observer was wrong about this node within the last minute.

        Only then is the fault likely ours: one alone could make any node slow to accuse others.
        """
        before, at = self._contradicted_at
        self._contradicted_at = (accuser, now)
        return before not in ("", accuser) and now - at < FLAP_WINDOW

    def _name_outvoted(
        self, own: Record, verdicts: Iterable[Verdict], observers: frozenset[str], now: float
    ) -> None:
        """Looks for those that hold against all answers what most other observers do not say."""
        holding = [v for v in verdicts if v.subject_stamp != own.stamp and v.accuser in observers]
        is_outvoted = 2 * len(holding) <= len(observers)
        self._answers.outlasted(holding if is_outvoted else (), now)


def _is_unanswered(record: Record, verdicts: Iterable[Verdict]) -> bool:
    """Tells whether any of these verdicts is about all that their subject has said so far.

    One that holds for newer records as well is answered all the same: its accuser may be the only
    one that does not hear the subject, or lie.
    """
    return any(v.subject_stamp == record.stamp or record.voucher is not None for v in verdicts)
