"""What the verdicts on a node say together: the rules of feeds and registries alike. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

from aegis_certs import owner_of

from aegis_discovery.records._record import Record
from aegis_discovery.records._verdict import Opinion, Verdict

UNREFUTED = 2.0
"""Seconds after which an accused observer that did not answer is not waited for any more."""

UNREFUTED_ELSEWHERE = 12.0
"""The same for observers in other regions.

It is longer than a region that was cut off needs to count as unreachable: the answers may be behind
the cut.
"""

REPLACED_AFTER = 2.0
"""Seconds after which an observer that is not waited for any more is replaced by another one.

Most nodes that die have failed before, so their replacement changes the observers once.
"""


class VerdictSource(Protocol):
    """What holds records and verdicts: a topology."""

    def get_record(self, node_id: str) -> Record | None:
        """Returns the record of a node."""

    def get_verdicts(self, node_id: str) -> Collection[Verdict]:
        """Returns the latest verdict of each accuser on a node."""


class Count(NamedTuple):
    """What the verdicts on one node say together.

    Attributes:
        counts: Whether any accusation counts.
        is_unanswered: Whether one of these is about the latest record.
        has_failed: Whether the node has failed: most of its observers say so.
    """

    counts: bool
    is_unanswered: bool
    has_failed: bool


class VerdictCounter:
    """Counts verdicts, and remembers since when accusations are unanswered.

    All nodes that hold the same records and verdicts, and choose the same observers, come to the
    same result.

    Args:
        source: The topology of one process.
        patience: Returns the seconds for which the answer of an accused observer is waited for.
    """

    def __init__(
        self, source: VerdictSource, *, patience: Callable[[str], float] = lambda _: UNREFUTED
    ) -> None:
        self._source = source
        self._patience = patience
        # Stamp and time: since when accusations of the latest record are unanswered. First those
        # that count, then all.
        self._suspected_since: dict[str, tuple[int, float]] = {}
        self._accused_since: dict[str, tuple[int, float]] = {}

    def forget(self, node_id: str) -> None:
        """Forgets a node that is not in the topology any more, or cannot be heard."""
        self._suspected_since.pop(node_id, None)
        self._accused_since.pop(node_id, None)

    def count(self, record: Record, electors: frozenset[str], now: float) -> Count:
        """Counts the accusations of a node by its observers, the electors.

        A worker that does not answer a worker of its own identity is missing too, although that one
        does not vote: no other node may be left that observes it.
        """
        accused = valid_accusations(self._source, record)
        identity = owner_of(record.id)
        counted = [
            v
            for v in accused
            if (v.accuser in electors or owner_of(v.accuser) == identity)
            and (is_unanswered(record, v) or not self._is_outlived(v, now))
        ]
        suspects = any(is_unanswered(record, v) for v in counted)
        _note(self._suspected_since, record, now, holds=suspects)
        accuses = any(is_unanswered(record, v) for v in accused)
        _note(self._accused_since, record, now, holds=accuses)
        return Count(bool(counted), suspects, self._has_failed(record.id, electors, counted, now))

    def _has_failed(
        self, subject: str, electors: frozenset[str], counted: list[Verdict], now: float
    ) -> bool:
        failing = electors & {v.accuser for v in counted if v.opinion is Opinion.FAILED}
        waited_for = electors
        if self._is_missing(subject, now):
            # While the subject answers, its other observers count although they are missing: where
            # most nodes died at once, a lone liar would decide.
            waited_for = frozenset(
                observer
                for observer in electors
                if observer in failing or not self._is_missing(observer, now)
            )
        return 2 * len(failing) > len(waited_for)

    def is_unresponsive(self, node_id: str, now: float) -> bool:
        """Tells whether others are to observe in place of a node that has not failed yet.

        A dead node may have dead observers only, which nobody accuses and everybody waits for.
        """
        return self._is_missing(node_id, now, longer=REPLACED_AFTER)

    def _is_missing(self, node_id: str, now: float, *, longer: float = 0.0) -> bool:
        """Tells whether a node is accused by its observers and has not answered for a while.

        A live node answers at once, so one liar cannot make all others not count.
        """
        suspected = self._suspected_since.get(node_id)
        return suspected is not None and now - suspected[1] >= self._patience(node_id) + longer

    def _is_outlived(self, held: Verdict, now: float) -> bool:
        """Tells whether the accuser of a held verdict is dead, as far as its subject can show that.

        The subject answered, and accuses its accuser, who did not answer. Otherwise the verdict of
        a node that died could count until its lease ends, and that of its subject could not.
        """
        accuser = self._source.get_record(held.accuser)
        accused = self._accused_since.get(held.accuser)
        if accuser is None or accused is None or now - accused[1] < UNREFUTED_ELSEWHERE:
            return False
        return any(
            v.accuser == held.subject and is_unanswered(accuser, v)
            for v in valid_accusations(self._source, accuser)
        )


def accusations(source: VerdictSource, record: Record) -> list[Verdict]:
    """Returns the accusations of a node's present record, of observers or not."""
    verdicts = source.get_verdicts(record.id)
    return [v for v in verdicts if v.opinion is not Opinion.CLEAR and v.is_about(record)]


def valid_accusations(source: VerdictSource, record: Record) -> list[Verdict]:
    """Returns those of accusers that have not restarted since, or left."""

    def is_valid(verdict: Verdict) -> bool:
        accuser = source.get_record(verdict.accuser)
        return accuser is not None and accuser.instance == verdict.accuser_instance

    return [verdict for verdict in accusations(source, record) if is_valid(verdict)]


def is_unanswered(record: Record, accusation: Verdict) -> bool:
    """Tells whether an accusation is about the latest record of its subject.

    A held verdict on an older record counts as answered: its accuser may be the only node that
    does not hear the subject, or lie.
    """
    return accusation.subject_stamp == record.stamp or record.voucher is not None


def _note(since: dict[str, tuple[int, float]], record: Record, now: float, *, holds: bool) -> None:
    """Notes since when something holds of a record; not of the records before it."""
    known = since.get(record.id)
    if not holds:
        since.pop(record.id, None)
    elif known is None or known[0] != record.stamp:
        since[record.id] = (record.stamp, now)
