"""One node's part in the membership protocol. Pure: time and chance are arguments.

Every node watches a few others and publishes verdicts on them. From the same verdicts, every node
derives the same status of each node: SWIM's suspicion and refutation (Das et al., DSN 2002), with
the several observers and the agreement of Rapid (Suresh et al., USENIX ATC 2018).
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable

from aegis_certs import owner_of
from aegis_discovery import EventKind, NodeInfo, NodeStatus, Topology, TopologyEvent
from aegis_discovery.records import (
    VERDICT_LEASE,
    Opinion,
    Record,
    Verdict,
    is_unanswered,
    valid_accusations,
)
from aegis_discovery.signals import LogLimiter

from aegis_core._membership.agreement import Agreement
from aegis_core._membership.bridge import Bridge
from aegis_core._membership.failure_detector import FLAP_WINDOW, REVIEW, FailureDetector
from aegis_core._membership.refutation import Refutation
from aegis_core._membership.regions import TAKE_UP_AFTER, Regions

_log = logging.getLogger("aegis.membership")

REVIEW_ALL = 2.0
"""Seconds between two reviews of all accused nodes; changes of the topology are handled at once.

Only a restart or an answer of an accuser, or the end of a lease, changes an agreed failure without
a change of its node. In a divided mesh half of all nodes have failed, and each review has a cost.
"""

REPEAT = FLAP_WINDOW
"""Seconds after which a held verdict that was answered is published again, on the latest record.

Only then do others see whether its subject still answers, or died while it was held.
"""


class Membership:
    """Decides which nodes to watch, which verdicts to publish, and who is alive.

    It reads the node's topology and writes to it: verdicts, the status of every node, and a new own
    record when another node accuses this one.

    Args:
        topology: The node's own.
        now: Monotonic seconds, on the clock of all other calls.
        regions: Regions that hold the topology's first `position` changes already.
        position: How far the topology's log was read.

    Attributes:
        position: How far the topology's log was read.
        regions: The regions, and the rings.
        bridge: This node's part as a bridge.
        rings_version: Grows whenever a change of the rings may change which nodes to watch.
    """

    def __init__(
        self, topology: Topology, now: float, *, regions: Regions | None = None, position: int = 0
    ) -> None:
        assert topology.owner  # noqa: S101 - a topology of nobody has no place in a mesh
        self._own_id = topology.owner
        self._topology = topology
        self.regions = regions or Regions()
        self.position = position
        self._detector = FailureDetector(now)
        self.rings_version = 0
        self._subjects: dict[str, Record] = {}
        self._agreement = Agreement(topology, self.regions)
        self.bridge = Bridge(self._own_id, self.regions)
        self._reviewed_at = self._reviewed_all_at = now
        self._refutation = Refutation()
        self._log_limiter = LogLimiter(_log)
        self._answered_at: tuple[str, float] = ("", -math.inf)
        self._published_at: dict[str, float] = {}
        self._removed: list[str] = []
        self._lock = threading.Lock()
        self._end = topology.subscribe(self._on_event)
        if regions is not None:
            self._update_subjects(now)
            self.bridge.review(frozenset(), now)

    def __repr__(self) -> str:
        return f"<Membership of {self._own_id}: {len(self.regions)} nodes, {self._detector!r}>"

    @property
    def watched(self) -> frozenset[str]:
        """Ids of the nodes whose feeds this node holds open, or tries to.

        A node that failed by agreement is only tried now and then, unless it is held: then it has
        to prove that it stays.
        """
        return frozenset(node_id for node_id in self._subjects if self._is_watched(node_id))

    @property
    def missing(self) -> frozenset[str]:
        """Ids of the nodes to look for, which may be back, or behind a healed partition.

        These are the failed ones. A node that hears none of those it watches does not know which
        nodes failed, so it looks for all.
        """
        if any(self._detector.opinion(node_id)[0] is Opinion.CLEAR for node_id in self._detector):
            lost = frozenset(self._agreement.failed)
        else:
            lost = frozenset(self._topology.nodes.keys() - {self._own_id})
        own = self.own_region
        # Other regions look for their own nodes, and the bridges for other regions.
        return lost if own is None else lost.intersection(self.regions.members(own))

    def others_alive(self) -> list[str]:
        """Returns ids of other nodes that are alive, of the own region if there are any."""
        others = [
            node.id
            for node in self._topology.nodes.values()
            if node.status is NodeStatus.ALIVE and not node.vouched_by and node.id != self._own_id
        ]
        own = self.own_region
        return [node_id for node_id in others if self.regions.region_of(node_id) == own] or others

    @property
    def unreachable(self) -> frozenset[str]:
        """The regions that are silent as a whole, as most bridges of the own one say."""
        return self._agreement.unreachable

    def observers(self, node_id: str) -> frozenset[str]:
        return self.regions.observers(node_id)

    def message_received(self, node_id: str, now: float) -> None:
        self._detector.message_received(node_id, now)

    def feed_broken(self, node_id: str, now: float) -> None:
        self._detector.feed_broken(node_id, now)

    def close(self) -> None:
        self._end()

    def tick(self, now: float) -> float:
        """Handles changes and does what is due; returns when to call it again at the latest."""
        changed = self._take_changes(now)
        due = self._detector.tick(now)
        self._publish_verdicts(now)
        if now - self._reviewed_at >= REVIEW:
            self._reviewed_at = now
            changed |= self._agreement.undecided
        if now - self._reviewed_all_at >= REVIEW_ALL:
            self._reviewed_all_at = now
            changed |= self._agreement.accused
        for node_id in sorted(changed):
            self._agreement.derive(node_id, now)
        is_accused = self._refute(now)
        # An accused node that has not failed changes its status with time only.
        return min(due, now + REVIEW) if self._agreement.undecided or is_accused else due

    # Which nodes to watch

    def _on_event(self, event: TopologyEvent) -> None:
        if event.kind in (EventKind.EXPIRED, EventKind.REVOKED, EventKind.FORGOTTEN):
            # Removed records are not in the log; all other changes are read from it.
            with self._lock:
                self._removed.append(event.node.id)

    def _take_changes(self, now: float) -> set[str]:
        """Reads new entries of the log; returns ids of the nodes whose status may have changed."""
        with self._lock:
            removed, self._removed = self._removed, []
        is_changed = False
        changed = set()
        for node_id in removed:
            if self._topology.get_node(node_id) is None:
                is_changed |= self._remove(node_id)
        if self._topology.log_position != self.position:
            since = self.position
            changes = self._topology.changes_since(since)
            self.position = changes.position
            for entry in changes.entries:
                node_id = entry.record.id
                changed.add(node_id)
                if entry.node is None:
                    is_changed |= self._remove(node_id)
                    continue
                is_changed |= self._place(entry.record, entry.node)
                if entry.record_position > since:
                    self.bridge.record_written(node_id, now)
                if node_id in self._subjects:
                    self._take_record(entry.record, now)
            changed.update(entry.content.verdict.subject for entry in changes.verdict_entries)
        for node_id in sorted(self._agreement.moved):
            record, node = self._topology.get_record(node_id), self._topology.get_node(node_id)
            if record is not None and node is not None:
                is_changed |= self._place(record, node)
        self._agreement.moved.clear()
        is_changed |= self._settle_boundaries(now)
        if is_changed:
            self._update_subjects(now)
            changed |= self._agreement.accused
        if changed or is_changed:
            changed.update(self._agreement.review_regions())
        if is_changed:
            self.bridge.review(self.unreachable, now)
        return changed

    def _place(self, record: Record, node: NodeInfo) -> bool:
        """Places a node on the rings; returns whether that changes any."""
        can_observe = node.id == self._own_id or (
            record.voucher is None
            and node.status is not NodeStatus.FAILED
            and node.id not in self._agreement.unresponsive
            and not node.registry
        )
        return self.regions.place(node, can_observe=can_observe)

    def _settle_boundaries(self, now: float) -> bool:
        changed_at = self.regions.changed_at
        if not self.regions.settle(now):
            return False
        what = self.regions.lacking or "the number of regions"
        if self.regions.is_bounded:
            _log.info("%s keeps membership inside %r", self._own_id, self.own_region)
        elif now - changed_at < TAKE_UP_AFTER:  # it has just started, and knew itself only
            _log.info("%s waits with its boundary because of %s", self._own_id, what)
        else:
            line = "%s takes part in membership everywhere: boundaries end because of %s"
            self._log_limiter.warn("", line, line, self._own_id, what, now=now)
        return True

    @property
    def own_region(self) -> str | None:
        """The region of this node; None without boundaries."""
        return self.regions.region_of(self._own_id)

    def _remove(self, node_id: str) -> bool:
        self._agreement.forget(node_id)
        self._forget_accuser(node_id)
        return self.regions.remove(node_id)

    def _forget_accuser(self, node_id: str) -> None:
        if not self._topology.get_nodes_by_identity(owner_of(node_id)):
            self._refutation.forget(node_id)

    def _update_subjects(self, now: float) -> None:
        """Begins to watch the nodes that the rings assign now, and forgets all others."""
        self.rings_version += 1
        subjects = self.regions.subjects(self._own_id) | self.regions.followed(self._own_id)
        for node_id in sorted(self._subjects.keys() - subjects):
            del self._subjects[node_id]
            self._detector.forget(node_id)
            self._published_at.pop(node_id, None)
        for node_id in sorted(subjects - self._subjects.keys()):
            record = self._topology.get_record(node_id)
            if record is not None:
                self._subjects[node_id] = record
                verdict = self._own_verdict(record)
                if verdict is None:
                    self._detector.watch(node_id, now)
                else:
                    self._published_at[node_id] = now
                    opinion, held = verdict.opinion, verdict.held
                    self._detector.watch(node_id, now, opinion=opinion, held=held)

    def _take_record(self, record: Record, now: float) -> None:
        known, self._subjects[record.id] = self._subjects[record.id], record
        if record.voucher is not None or known.stamp == record.stamp:
            return
        if known.instance != record.instance:
            self._detector.watch(record.id, now)
        else:
            others = self.regions.observers(record.id) - {self._own_id}
            alone = bool(others) and not any(
                verdict.opinion is not Opinion.CLEAR
                for verdict in self._topology.get_verdicts(record.id)
                if verdict.accuser in others
            )
            self._detector.record_renewed(record.id, now, alone=alone)

    def _is_watched(self, node_id: str) -> bool:
        opinion, held = self._detector.opinion(node_id)
        has_failed = opinion is Opinion.FAILED and node_id in self._agreement.failed
        return not has_failed or held or self._subjects[node_id].voucher is not None

    def _is_own(self, node_id: str) -> bool:
        """Tells whether a node is a worker of this node's identity."""
        return owner_of(node_id) == owner_of(self._own_id)

    # Which verdicts to publish

    def _own_verdict(self, record: Record) -> Verdict | None:
        content = self._topology.get_verdict(record.id, self._own_id)
        own = self._topology.get_record(self._own_id)
        if content is None or own is None:
            return None
        verdict = content.verdict
        if verdict.accuser_instance != own.instance or not verdict.is_about(record):
            return None
        return verdict

    def _publish_verdicts(self, now: float) -> None:
        for node_id in self._detector:
            opinion, held = self._detector.opinion(node_id)
            if opinion is Opinion.CLEAR and node_id not in self._published_at:
                continue
            if self._own_id not in self.regions.observers(node_id) and not self._is_own(node_id):
                continue  # its feed is only followed for the news
            record = self._subjects[node_id]
            published = self._own_verdict(record)
            if published is None:
                if opinion is Opinion.CLEAR:
                    continue
            elif (published.opinion, published.held) == (opinion, held):
                is_open = is_unanswered(record, published)
                period = VERDICT_LEASE / 3 if is_open else REPEAT
                is_due = now - self._published_at.get(node_id, now) >= period
                if opinion is Opinion.CLEAR or not is_due:
                    continue
            _log.log(
                logging.DEBUG if published and published.opinion is opinion else logging.INFO,
                "%s reports %s as %s%s",
                self._own_id,
                node_id,
                opinion,
                ", until it has been heard for a while" if held else "",
            )
            self._published_at[node_id] = now
            self._topology.publish_verdict(node_id, opinion, held=held)

    # Accusations of this node

    def _refute(self, now: float) -> bool:
        """Answers accusations of this node; returns whether there are any."""
        own = self._topology.get_record(self._own_id)
        if own is None or own.info is None:
            return False
        verdicts = valid_accusations(self._topology, own)
        observers = self.regions.observers(self._own_id)
        self._note_outvoted(own, verdicts, observers, now)
        answered = is_own_fault = False
        for verdict in verdicts:
            if verdict.subject_stamp != own.stamp:
                continue
            # Another accuser may be at the other side of a partition, or lie.
            is_observer = verdict.accuser in observers
            counts = is_observer or self._is_own(verdict.accuser)
            if not self._refutation.is_due(verdict.accuser, now, is_observer=counts):
                continue
            self._refutation.answered(verdict, now, is_observer=counts)
            is_own_fault |= is_observer and self._is_seconded(verdict.accuser, now)
            answered = True
        if is_own_fault:
            self._detector.penalize_own_health(now)
        if answered:
            self._topology.republish()
        return bool(verdicts)

    def _is_seconded(self, accuser: str, now: float) -> bool:
        """Tells whether another observer accused this node too within the last minute.

        Only then is the fault likely its own: one liar could make every node slow to accuse.
        """
        before, at = self._answered_at
        self._answered_at = (accuser, now)
        return owner_of(before) not in ("", owner_of(accuser)) and now - at < FLAP_WINDOW

    def _note_outvoted(
        self, own: Record, verdicts: Iterable[Verdict], observers: frozenset[str], now: float
    ) -> None:
        """Finds the observers that maintain what was answered and most others do not say."""
        answered = [v for v in verdicts if v.subject_stamp != own.stamp and v.accuser in observers]
        is_outvoted = 2 * len(answered) <= len(observers)
        self._refutation.outvoted(answered if is_outvoted else (), now)
