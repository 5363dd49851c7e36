"""Which nodes to ping after their keys vanished, and what to say of them. Pure.

A registry tells that a lease ended, not why. So the observers of a node, chosen by rendezvous hash,
try to reach it, and say in signed verdicts whether they could.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

from aegis_discovery import Topology
from aegis_discovery.records import (
    VERDICT_LEASE,
    Opinion,
    Verdict,
    is_unanswered,
    valid_accusations,
)
from aegis_discovery.registry import RendezvousObservers

from aegis_core._membership.refutation import Refutation

PING_AGAIN = 0.5
"""Seconds between two pings of a suspect that did not answer."""

FAIL_AFTER = 1.0
"""Seconds without an answer after which an observer says that a suspect failed."""

RECHECK = 5.0
"""Seconds between two pings of a node without a key that answers, or has failed."""

REVIEW = 0.5
"""Seconds between two reviews of the suspects while there are any."""

REST = 5.0
"""The same while there are none."""

MAX_REVIEWED = 32
"""Suspects of which a review finds out who their observers are: each takes a look at all nodes."""

MAX_PINGS = 32
"""Pings at the same time."""

_log = logging.getLogger("aegis.membership")


@dataclass(slots=True)
class _Check:
    """A node that this one pings.

    Attributes:
        due: When to ping it next.
        silent_since: Since when no ping was answered; None while it answers.
        is_waiting: Whether a ping is under way.
        said_at: When this node said last what it thinks.
    """

    due: float
    silent_since: float | None = None
    is_waiting: bool = False
    said_at: float = 0.0


class RegistryObserver:
    """Decides for one node whom to ping, and publishes its verdicts in its topology.

    Args:
        topology: The node's own.
        observers: Chooses the observers of each node.
        refutes: Whether to answer accusations of this node; without it somebody else does.
    """

    def __init__(
        self, topology: Topology, observers: RendezvousObservers, *, refutes: bool
    ) -> None:
        self._own_id = topology.owner or ""
        self._topology = topology
        self._observers = observers
        self._refutes = refutes
        self._refutation = Refutation()
        # In the order of their reviews, so that a few at a time are enough.
        self._suspects: dict[str, None] = {}
        self._checks: dict[str, _Check] = {}

    def key_changes(self, vanished: Iterable[str], returned: Iterable[str], now: float) -> None:
        """Notes which nodes have no key any more, and which have one again."""
        for node_id in vanished:
            self._suspects[node_id] = None
        for node_id in returned:
            self._suspects.pop(node_id, None)
            check = self._checks.get(node_id)
            if check is None:
                continue
            if self._accuses(node_id):
                check.due = now  # its answer takes back what was said
            else:
                del self._checks[node_id]

    def tick(self, now: float) -> float:
        """Reviews suspects and accusations; returns when to call it again at the latest."""
        for node_id in list(self._suspects)[:MAX_REVIEWED]:
            del self._suspects[node_id]
            if self._topology.get_node(node_id) is None:
                self._checks.pop(node_id, None)
                continue
            self._suspects[node_id] = None
            is_observer = self._own_id in self._observers.observers(node_id)
            if is_observer and node_id not in self._checks:
                self._checks[node_id] = _Check(now)
            elif not is_observer and not self._accuses(node_id):
                self._checks.pop(node_id, None)
        for node_id in [i for i in self._checks if self._topology.get_node(i) is None]:
            del self._checks[node_id]
        if self._refutes:
            self._refute(now)
        if not self._suspects and not self._checks:
            return now + REST
        pings = (c.due for c in self._checks.values() if not c.is_waiting)
        return min(now + REVIEW, min(pings, default=math.inf))

    def take_pings(self, now: float) -> list[str]:
        """Returns the nodes to ping now; `ping_ended` is to be called for each."""
        due = [i for i, c in self._checks.items() if c.due <= now and not c.is_waiting]
        waiting = sum(check.is_waiting for check in self._checks.values())
        due = due[: max(0, MAX_PINGS - waiting)]
        for node_id in due:
            self._checks[node_id].is_waiting = True
        return due

    def ping_ended(self, node_id: str, now: float, *, answered: bool) -> None:
        """Notes whether a node answered, and says so if that is new."""
        check = self._checks.get(node_id)
        if check is None:
            return
        check.is_waiting = False
        if answered:
            check.silent_since = None
            check.due = now + RECHECK
            if self._accuses(node_id):
                self._say(node_id, Opinion.CLEAR, check, now)
            if node_id not in self._suspects:
                del self._checks[node_id]
            return
        if check.silent_since is None:
            check.silent_since = now
        has_failed = now - check.silent_since >= FAIL_AFTER
        self._say(node_id, Opinion.FAILED if has_failed else Opinion.SUSPECT, check, now)
        check.due = now + (RECHECK if has_failed else PING_AGAIN)

    def _say(self, node_id: str, opinion: Opinion, check: _Check, now: float) -> None:
        verdict = self._own_verdict(node_id)
        is_said = verdict is not None and verdict.opinion is opinion
        if is_said and now - check.said_at < VERDICT_LEASE / 3:
            return
        if not is_said:
            _log.info("%s reports %s as %s", self._own_id, node_id, opinion)
        check.said_at = now
        self._topology.publish_verdict(node_id, opinion)

    def _own_verdict(self, node_id: str) -> Verdict | None:
        """Returns what this process said of a node's present record."""
        own, record = (self._topology.get_record(i) for i in (self._own_id, node_id))
        content = self._topology.get_verdict(node_id, self._own_id)
        if content is None or own is None or record is None:
            return None
        verdict = content.verdict
        is_present = verdict.accuser_instance == own.instance and verdict.is_about(record)
        return verdict if is_present else None

    def _accuses(self, node_id: str) -> bool:
        verdict = self._own_verdict(node_id)
        return verdict is not None and verdict.opinion is not Opinion.CLEAR

    # Accusations of this node

    def _refute(self, now: float) -> None:
        """Answers accusations of this node with a newer record, which makes them void."""
        own = self._topology.get_record(self._own_id)
        if own is None or own.info is None:
            return
        accused = valid_accusations(self._topology, own)
        unanswered = [verdict for verdict in accused if is_unanswered(own, verdict)]
        if not unanswered:
            return
        observers = self._observers.observers(self._own_id)
        answered = False
        for verdict in unanswered:
            is_observer = verdict.accuser in observers
            if self._refutation.is_due(verdict.accuser, now, is_observer=is_observer):
                self._refutation.answered(verdict, now, is_observer=is_observer)
                answered = True
        if answered:
            self._topology.republish()
