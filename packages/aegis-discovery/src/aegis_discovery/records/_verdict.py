"""Verdicts: what observers say about the nodes that they watch, ordered, leased and signed."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import takewhile
from types import MappingProxyType
from typing import NamedTuple

from aegis_certs import owner_of

from aegis_discovery.records._record import Record, Signed

VERDICT_CONTEXT = "aegis.mesh.v1 verdict"

VERDICT_LEASE = 3600.0
"""Seconds for which an accusation is valid unless its accuser repeats it."""

CLEAR_LEASE = 2 * VERDICT_LEASE
"""Seconds for which a clear verdict is kept: longer than any accusation that it takes back."""

MAX_VERDICT = 1024
"""Bytes of a verdict's body."""

MAX_ACCUSATIONS = 256
"""Subjects of one accuser that are kept; an honest accuser watches only a few nodes."""

MAX_ACCUSATIONS_OF_IDENTITY = 4 * MAX_ACCUSATIONS
"""The same for all workers of one identity together, of which there may be 64."""


class Opinion(StrEnum):
    """An observer's opinion of the node that it watches."""

    CLEAR = "clear"
    SUSPECT = "suspect"
    FAILED = "failed"


class Verdict(NamedTuple):
    """What one node says about another node that it watches.

    Attributes:
        accuser: The observer, whose certificate signed the verdict.
        accuser_instance: The accuser's instance. The verdict is void once the accuser restarts.
        stamp: Orders an accuser's verdicts, as a record's stamp; the latest on a subject counts.
        expires_at: End of the lease, Unix milliseconds.
        subject: The node that the verdict is about.
        subject_instance: The subject's instance. The verdict is void for any other instance.
        subject_stamp: The stamp of the record that the verdict is about.
        opinion: The accuser's opinion.
        held: Whether the verdict also applies to newer records: the subject failed repeatedly, so
            only its observers can clear it.
    """

    accuser: str
    accuser_instance: str
    stamp: int
    expires_at: int
    subject: str
    subject_instance: str
    subject_stamp: int
    opinion: Opinion
    held: bool = False

    def is_about(self, record: Record) -> bool:
        """Tells whether the verdict applies to this record.

        A record that is vouched for is no sign of life, so it refutes nothing.
        """
        if record.voucher is not None:
            return True
        if self.subject_instance != record.instance:
            return False
        if self.held:
            return self.subject_stamp <= record.stamp
        return self.subject_stamp == record.stamp


class SignedVerdict(NamedTuple):
    """A verdict and its signed bytes."""

    verdict: Verdict
    signed: Signed

    @property
    def precedence(self) -> tuple[int, bytes]:
        """Orders the verdicts of one accuser on one subject totally; the greatest is valid."""
        # An honest accuser makes no two with one stamp; if one does, all nodes choose the same.
        return (self.verdict.stamp, self.signed.body)


class VerdictEntry(NamedTuple):
    """The verdict of one (subject, accuser) pair, its log position, and the node that sent it."""

    content: SignedVerdict
    position: int
    origin: str | None


class VerdictStore:
    """Holds the latest verdict per (subject, accuser), in the order of their arrival.

    A refuted verdict remains until its lease ends: the verdict that it replaced must not return.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], VerdictEntry] = OrderedDict()
        self._by_subject: dict[str, dict[str, SignedVerdict]] = {}
        self._by_accuser: dict[str, set[str]] = {}
        self._by_identity: Counter[str] = Counter()
        self.first_end: float = math.inf

    @property
    def signers(self) -> frozenset[bytes]:
        """Fingerprints of the certificates that signed these verdicts."""
        return frozenset(entry.content.signed.signer for entry in self._entries.values())

    def of(self, subject: str) -> Mapping[str, SignedVerdict]:
        """Returns the verdicts on a node, by accuser."""
        return MappingProxyType(self._by_subject.get(subject, {}))

    def get(self, subject: str, accuser: str) -> SignedVerdict | None:
        """Returns the verdict of one node on another."""
        return self._by_subject.get(subject, {}).get(accuser)

    def by(self, accuser: str) -> list[SignedVerdict]:
        """Returns the verdicts of a node."""
        return [self._by_subject[subject][accuser] for subject in self._by_accuser.get(accuser, ())]

    def limit_of(self, accuser: str) -> int:
        """Returns the limit that one more verdict of an accuser would exceed; 0 if it has room."""
        if len(self._by_accuser.get(accuser, ())) >= MAX_ACCUSATIONS:
            return MAX_ACCUSATIONS
        is_full = self._by_identity[owner_of(accuser)] >= MAX_ACCUSATIONS_OF_IDENTITY
        return MAX_ACCUSATIONS_OF_IDENTITY if is_full else 0

    def is_superseded_by(self, content: SignedVerdict) -> bool:
        """Tells whether a verdict would replace the one held for its subject and accuser."""
        held = self.get(content.verdict.subject, content.verdict.accuser)
        if held is content:
            return False
        return held is None or content.precedence > held.precedence

    def put(self, content: SignedVerdict, position: int, origin: str | None) -> None:
        """Stores a verdict over the one held for its subject and accuser."""
        verdict = content.verdict
        key = (verdict.subject, verdict.accuser)
        if key not in self._entries:
            self._by_identity[owner_of(verdict.accuser)] += 1
        self._entries[key] = VerdictEntry(content, position, origin)
        self._entries.move_to_end(key)
        self._by_subject.setdefault(verdict.subject, {})[verdict.accuser] = content
        self._by_accuser.setdefault(verdict.accuser, set()).add(verdict.subject)
        self.first_end = min(self.first_end, verdict.expires_at)

    def changed_since(self, position: int) -> list[VerdictEntry]:
        """Returns the entries stored after a position, in order."""
        latest_first = reversed(self._entries.values())
        return [*takewhile(lambda entry: entry.position > position, latest_first)][::-1]

    def forget(self, node_id: str) -> None:
        """Drops all verdicts on and by a node that has left the mesh."""
        as_subject = [(node_id, accuser) for accuser in self._by_subject.get(node_id, ())]
        as_accuser = [(subject, node_id) for subject in self._by_accuser.get(node_id, ())]
        self._drop(as_subject + as_accuser)

    def expire(self, now: int) -> None:
        """Drops all verdicts whose lease ended by `now` (Unix milliseconds)."""
        if now < self.first_end:
            return
        ends = {key: entry.content.verdict.expires_at for key, entry in self._entries.items()}
        self._drop([key for key, end in ends.items() if end <= now])
        self.first_end = min((end for end in ends.values() if end > now), default=math.inf)

    def _drop(self, keys: Iterable[tuple[str, str]]) -> None:
        for subject, accuser in keys:
            del self._entries[subject, accuser]
            identity = owner_of(accuser)
            self._by_identity[identity] -= 1
            if not self._by_identity[identity]:
                del self._by_identity[identity]
            verdicts, subjects = self._by_subject[subject], self._by_accuser[accuser]
            del verdicts[accuser]
            if not verdicts:
                del self._by_subject[subject]
            subjects.remove(subject)
            if not subjects:
                del self._by_accuser[accuser]


def is_refuted(verdict: Verdict, record: Record) -> bool:
    """Tells whether a verdict can never apply again, because its subject published this record."""
    if verdict.held or verdict.opinion is Opinion.CLEAR or record.voucher is not None:
        return False
    return verdict.subject_stamp < record.stamp
