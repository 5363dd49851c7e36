"""What one node thinks of each node that it watches. Pure: the time is an argument."""

from __future__ import annotations

import math
from collections.abc import Iterator

from aegis_discovery.records import Opinion

SUSPECT_AFTER = 4.0
"""Seconds without a message, two heartbeats, after which a node is suspected.

So a node that stands still for less than two seconds is not suspected.
"""

FAIL_AFTER_BREAK = 1.0
"""Seconds from a broken feed to failed, unless the node is heard again.

A broken connection shows a killed process at once, so its failure is known after hardly more than
this. A node that only restarts its connection is back far sooner.
"""

FAIL_AFTER_SILENCE = 1.5
"""Seconds from suspected to failed for a silent node: a pause of a busy process is shorter."""

REVIEW = 0.2
"""Seconds between two ticks while a node is suspected."""

REST = 1.0
"""Seconds between two ticks while none is."""

MAX_DELAY = 0.8
"""Seconds after which a tick is so late that this process itself was paused: no node is blamed.

With a tick each second and a heartbeat each two, a shorter pause makes no node look silent.
"""

BREAKS_IGNORED = 1.0
"""Seconds after a pause of this process in which a broken feed counts as silent.

Others closed its connections during the pause, and gRPC's first attempt to open one again may fail
because the kernel reports what happened meanwhile.
"""

FLAPS = 2
"""Failures of one instance within `FLAP_WINDOW` after which its node is held.

With three, a node that comes and goes every ten seconds would be believed for 45 seconds.
"""

FLAP_WINDOW = 60.0
"""Seconds in which failures add up, and for which a held node has to be heard all the time."""

MAX_HEALTH_PENALTY = 4
"""The most that the node's own faults add to the multiplier of its delays."""

HEALTH_RECOVERY = 10.0
"""Seconds after which one fault of the node's own is forgotten."""

MAX_ACCUSATION_PAUSE = 96.0
"""The most seconds for which an observer that was wrong about a node does not accuse it again."""


class _Subject:
    __slots__ = (
        "accusation_pause",
        "comes_and_goes",
        "fails_at",
        "failures",
        "heard_at",
        "heard_since",
        "held",
        "is_back",
        "no_accusation_before",
        "opinion",
    )  # fmt: skip

    def __init__(self, now: float, *, held: bool) -> None:
        self.heard_at = now
        # Whether it was heard since its last failure, and between the two for which it is held.
        self.is_back = False
        self.comes_and_goes = self.held = held
        self.opinion = Opinion.CLEAR
        self.fails_at = self.no_accusation_before = 0.0
        self.accusation_pause = SUSPECT_AFTER
        self.heard_since: float | None = None
        self.failures: list[float] = []


class FailureDetector:
    """Forms an opinion of each watched node from the messages and feeds that reach this one.

    clear   -- feed broken, or silent too long ---> suspect
    suspect -- heard -----------------------------> clear
    suspect -- not heard for a while -------------> failed
    failed  -- heard -----------------------------> clear, unless held
    failed  -- wrote a new record ----------------> suspect, unless held
    held    -- heard all the time for a minute ---> clear, at once if it was never heard between
                                                    its failures: its line was cut once, for long

    Faults of this node itself make it slower to accuse: the local health of Lifeguard (Dadgar et
    al., DSN 2018). After a wrong accusation it leaves that node alone for a while.
    """

    def __init__(self, now: float) -> None:
        self._ticked_at = now
        self._due_at = math.inf
        self._resumed_at = -math.inf
        self._health_penalty = 0
        self._penalty_changed_at = now
        self._subjects: dict[str, _Subject] = {}

    def __repr__(self) -> str:
        shown = ", ".join(f"{i}={s.opinion}" for i, s in sorted(self._subjects.items()))
        return f"<FailureDetector {shown or 'without nodes'}>"

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._subjects))

    def opinion(self, node_id: str) -> tuple[Opinion, bool]:
        subject = self._subjects[node_id]
        return subject.opinion, subject.held

    def watch(
        self, node_id: str, now: float, *, opinion: Opinion = Opinion.CLEAR, held: bool = False
    ) -> None:
        """Begins with a node, from the opinion that this node published of it before."""
        subject = self._subjects[node_id] = _Subject(now, held=held)
        if opinion is not Opinion.CLEAR:
            subject.opinion = opinion
            subject.fails_at = now + FAIL_AFTER_SILENCE

    def forget(self, node_id: str) -> None:
        self._subjects.pop(node_id, None)

    def penalize_own_health(self, now: float) -> None:
        """Notes a fault of this node itself: it was paused, or two observers accused it."""
        self._health_penalty = min(self._health_penalty + 1, MAX_HEALTH_PENALTY)
        self._penalty_changed_at = now

    def message_received(self, node_id: str, now: float) -> None:
        subject = self._subjects.get(node_id)
        if subject is None:
            return
        if subject.heard_since is None or now - subject.heard_at >= SUSPECT_AFTER:
            subject.heard_since = now
        subject.heard_at, subject.is_back = now, True
        if subject.held:
            if subject.comes_and_goes:
                if now - subject.heard_since < FLAP_WINDOW:
                    return
                subject.failures.clear()
            subject.held = False
        subject.opinion = Opinion.CLEAR

    def feed_broken(self, node_id: str, now: float) -> None:
        subject = self._subjects.get(node_id)
        if subject is None:
            return
        subject.heard_since = None
        if self._was_paused(now) or now - self._resumed_at < BREAKS_IGNORED:
            return
        if subject.opinion is Opinion.CLEAR and now >= subject.no_accusation_before:
            self._suspect(subject, now, FAIL_AFTER_BREAK)

    def record_renewed(self, node_id: str, now: float, *, alone: bool) -> None:
        """Notes that a node wrote a new record, so it was alive then.

        If this node is `alone` in accusing it, the fault is likely this node's own, so it does not
        accuse that one again for a while, twice as long each time.
        """
        subject = self._subjects.get(node_id)
        if subject is None or subject.held:
            return
        if subject.opinion is Opinion.CLEAR:
            subject.heard_at = now
        elif alone:
            subject.opinion = Opinion.CLEAR
            subject.heard_at = now
            if now - subject.no_accusation_before > FLAP_WINDOW:
                subject.accusation_pause = SUSPECT_AFTER
            subject.accusation_pause = min(2 * subject.accusation_pause, MAX_ACCUSATION_PAUSE)
            subject.no_accusation_before = now + subject.accusation_pause
        elif subject.opinion is Opinion.FAILED:
            self._suspect(subject, now, FAIL_AFTER_SILENCE)

    def tick(self, now: float) -> float:
        """Applies the passing of time; returns when to call it again at the latest."""
        if self._was_paused(now):
            self._resumed_at = now
            gap = now - self._ticked_at
            self.penalize_own_health(now)
            for subject in self._subjects.values():
                subject.heard_at = min(now, subject.heard_at + gap)
                subject.fails_at += gap
        elif self._health_penalty and now - self._penalty_changed_at >= HEALTH_RECOVERY:
            self._health_penalty -= 1
            self._penalty_changed_at = now
        self._ticked_at = now
        self._due_at = now + REST
        suspect_after = SUSPECT_AFTER * self._multiplier
        for subject in self._subjects.values():
            if subject.opinion is Opinion.CLEAR:
                silent_at = subject.heard_at + suspect_after
                if now < silent_at:
                    self._due_at = min(self._due_at, silent_at)
                    continue
            self._advance(subject, now)
            if subject.opinion is Opinion.SUSPECT:
                self._due_at = min(self._due_at, subject.fails_at, now + REVIEW)
        return self._due_at

    def _advance(self, subject: _Subject, now: float) -> None:
        if subject.opinion is Opinion.CLEAR:
            if now >= subject.no_accusation_before:
                self._suspect(subject, now, FAIL_AFTER_SILENCE)
        elif subject.opinion is Opinion.SUSPECT and now >= subject.fails_at:
            subject.opinion = Opinion.FAILED
            if self._is_cut_off:
                return
            subject.failures = [t for t in subject.failures if now - t < FLAP_WINDOW]
            subject.failures.append(now)
            subject.held = len(subject.failures) >= FLAPS
            # Without that, others brought its answers while this node could not hear it.
            subject.comes_and_goes, subject.is_back = subject.is_back, False

    def _was_paused(self, now: float) -> bool:
        """Whether this process was paused and has not ticked since."""
        return now - self._due_at > MAX_DELAY

    def _suspect(self, subject: _Subject, now: float, fail_after: float) -> None:
        subject.opinion = Opinion.SUSPECT
        subject.fails_at = now + fail_after * self._multiplier

    @property
    def _is_cut_off(self) -> bool:
        """Whether most watched nodes are accused: the fault is then hardly theirs."""
        accused = sum(s.opinion is not Opinion.CLEAR for s in self._subjects.values())
        return len(self._subjects) > 2 and 2 * accused > len(self._subjects)

    @property
    def _multiplier(self) -> int:
        return 1 + self._health_penalty
