"""What one node itself thinks of those that it watches. Pure: time comes in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from aegis_discovery.records import Opinion

SUSPECT_AFTER = 3.0
"""Seconds without a message, three heartbeats, after which a node is suspected."""

LOST_FOR = 1.0
"""Seconds that a node has to be heard of again after its feed broke, before it counts as failed.

A killed process is noticed at once by its broken connection, so this is nearly all the time that
its failure takes to be known; a node that only restarts its connection is back far sooner.
"""

SILENT_FOR = 2.0
"""The same for one that fell silent: a pause of a busy process is over by then."""

STALL = 1.0
"""Seconds between two ticks from which on the fault is ours: such time counts against nobody."""

FLAPS = 2
"""Failures of one life of a node within `FLAP_WINDOW` after which it has to prove itself.

With three, a node that comes and goes every ten seconds would be believed for 45 seconds.
"""

FLAP_WINDOW = 60.0
"""Seconds in which failures add up, and for which such a node has to be in order."""

MAX_DOUBT = 4
"""The most that self-doubt adds, in times of each delay."""

CALM = 10.0
"""Seconds after which one piece of self-doubt is forgotten."""

MAX_QUIET = 96.0
"""The most seconds for which one that was wrong about a node does not accuse it again."""


@dataclass(slots=True)
class _Subject:
    heard_at: float
    opinion: Opinion = Opinion.CLEAR
    held: bool = False
    failed_at: float = 0.0
    quiet_until: float = 0.0
    quiet_for: float = SUSPECT_AFTER
    in_order_since: float | None = None
    failures: list[float] = field(default_factory=list)


class FailureDetector:
    """Judges each watched node by what is heard of it.

    clear   -- lost, or silent too long ----------> suspect
    suspect -- heard -----------------------------> clear
    suspect -- not heard for a while -------------> failed
    failed  -- heard -----------------------------> clear, unless held
    failed  -- wrote a new record ----------------> suspect, unless held
    held    -- heard all the time for a minute ---> clear

    Its own delays make it slower to accuse, and so does being wrong: the local health of Lifeguard
    (Dadgar et al., DSN 2018).
    """

    def __init__(self, now: float) -> None:
        self._ticked_at = now
        self._doubt = 0
        self._doubted_at = now
        self._subjects: dict[str, _Subject] = {}

    def __repr__(self) -> str:
        shown = ", ".join(f"{i}={s.opinion}" for i, s in sorted(self._subjects.items()))
        return f"<FailureDetector {shown or 'of nobody'}>"

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._subjects

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._subjects))

    def opinion(self, node_id: str) -> tuple[Opinion, bool]:
        """Returns what this node thinks of a watched one, and whether that is held."""
        subject = self._subjects[node_id]
        return subject.opinion, subject.held

    def watch(
        self, node_id: str, now: float, *, opinion: Opinion = Opinion.CLEAR, held: bool = False
    ) -> None:
        """Begins to judge a node, from an opinion that this one published of it before."""
        subject = self._subjects[node_id] = _Subject(now)
        subject.held = held
        if opinion is not Opinion.CLEAR:
            subject.opinion = opinion
            subject.failed_at = now + SILENT_FOR

    def forget(self, node_id: str) -> None:
        """Judges a node no longer."""
        self._subjects.pop(node_id, None)

    def doubt(self, now: float) -> None:
        """Notes a reason for this node to believe itself less: it was late, or accused wrongly."""
        self._doubt = min(self._doubt + 1, MAX_DOUBT)
        self._doubted_at = now

    def heard(self, node_id: str, now: float) -> None:
        """Notes a sign of life that came directly."""
        subject = self._subjects.get(node_id)
        if subject is None:
            return
        if subject.in_order_since is None or now - subject.heard_at >= SUSPECT_AFTER:
            subject.in_order_since = now
        subject.heard_at = now
        if subject.held:
            if now - subject.in_order_since < FLAP_WINDOW:
                return
            subject.held = False
            subject.failures.clear()
        subject.opinion = Opinion.CLEAR

    def lost(self, node_id: str, now: float) -> None:
        """Notes that its feed broke, or could not be opened."""
        subject = self._subjects.get(node_id)
        if subject is None:
            return
        subject.in_order_since = None
        if subject.opinion is Opinion.CLEAR and now >= subject.quiet_until:
            self._suspect(subject, now, LOST_FOR)

    def renewed(self, node_id: str, now: float, *, alone: bool) -> None:
        """Notes that a node wrote a new record: whatever was said of it, it lived then.

        Args:
            node_id: Who.
            now: When.
            alone: Whether none of its other observers accuses it: then the fault is likely ours,
                and it is left in peace for a while, twice as long each time.
        """
        subject = self._subjects.get(node_id)
        if subject is None or subject.held:
            return
        if subject.opinion is Opinion.CLEAR:
            subject.heard_at = now
        elif alone:
            subject.opinion = Opinion.CLEAR
            subject.heard_at = now
            if now - subject.quiet_until > FLAP_WINDOW:
                subject.quiet_for = SUSPECT_AFTER
            subject.quiet_for = min(2 * subject.quiet_for, MAX_QUIET)
            subject.quiet_until = now + subject.quiet_for
        elif subject.opinion is Opinion.FAILED:
            self._suspect(subject, now, SILENT_FOR)

    def tick(self, now: float) -> None:
        """Moves time on; call it a few times a second."""
        gap = now - self._ticked_at
        self._ticked_at = now
        if gap > STALL:
            self.doubt(now)
            for subject in self._subjects.values():
                subject.heard_at = min(now, subject.heard_at + gap)
                subject.failed_at += gap
        elif self._doubt and now - self._doubted_at >= CALM:
            self._doubt -= 1
            self._doubted_at = now
        patience = SUSPECT_AFTER * self._slowness
        for subject in self._subjects.values():
            if subject.opinion is Opinion.CLEAR and now - subject.heard_at < patience:
                continue
            self._judge(subject, now)

    def _judge(self, subject: _Subject, now: float) -> None:
        """Moves on one that is accused, or silent for too long."""
        if subject.opinion is Opinion.CLEAR:
            if now >= subject.quiet_until:
                self._suspect(subject, now, SILENT_FOR)
        elif subject.opinion is Opinion.SUSPECT and now >= subject.failed_at:
            subject.opinion = Opinion.FAILED
            if self._is_cut_off:
                return
            subject.failures = [t for t in subject.failures if now - t < FLAP_WINDOW]
            subject.failures.append(now)
            subject.held = len(subject.failures) >= FLAPS

    def _suspect(self, subject: _Subject, now: float, patience: float) -> None:
        subject.opinion = Opinion.SUSPECT
        subject.failed_at = now + patience * self._slowness

    @property
    def _is_cut_off(self) -> bool:
        """Whether most of those it watches are lost: then it is hardly they who come and go."""
        accused = sum(s.opinion is not Opinion.CLEAR for s in self._subjects.values())
        return len(self._subjects) > 2 and 2 * accused > len(self._subjects)

    @property
    def _slowness(self) -> int:
        return 1 + self._doubt
