"""Verdicts: what the nodes that watch another one say of it, ordered, leased and signed."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from aegis_discovery.records._record import Record, Signed

VERDICT_CONTEXT = "aegis.mesh.v1 verdict"

VERDICT_LEASE = 3600.0
"""Seconds for which an accusation is believed without its accuser's repeating it."""

CLEAR_LEASE = 2 * VERDICT_LEASE
"""Seconds for which an acquittal is kept: longer than any accusation that it takes back."""

MAX_VERDICT = 1024
"""Bytes of a verdict's body."""

MAX_ACCUSATIONS = 256
"""Subjects of one accuser that are kept; an honest one watches a few nodes only."""


class Opinion(StrEnum):
    """What one node says of another one."""

    CLEAR = "clear"
    SUSPECT = "suspect"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one node says of another one that it watches.

    Attributes:
        accuser: Who says so; its certificate signed it.
        accuser_instance: Its life; void in the next one, which knows nothing of it.
        stamp: Orders an accuser's verdicts, as a record's stamp; the latest on a subject counts.
        expires_at: End of the lease, Unix milliseconds.
        subject: The node that it is about.
        subject_instance: Its life; void on any other one.
        subject_stamp: The record that it is about.
        opinion: What the accuser says.
        held: Whether it holds for newer records too: the subject has failed again and again, and
            only its observers clear it.
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
        """Tells whether it still says anything of this record.

        What others vouch for is no sign of life, so it refutes nothing.
        """
        if record.voucher is not None:
            return True
        if self.subject_instance != record.instance:
            return False
        if self.held:
            return self.subject_stamp <= record.stamp
        return self.subject_stamp == record.stamp


@dataclass(frozen=True, slots=True)
class SignedVerdict:
    """A verdict, and the bytes by which its accuser signed it."""

    verdict: Verdict
    signed: Signed


@dataclass(frozen=True, slots=True)
class VerdictEntry:
    """One (subject, accuser) pair's place in the store: what counts, since when, and from whom."""

    content: SignedVerdict
    position: int
    origin: str | None


class VerdictStore:
    """Holds the latest verdict per (subject, accuser), in the order of their arrival.

    One that its subject refuted stays as long as its lease: what it replaced must not come back.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], VerdictEntry] = OrderedDict()
        self._by_subject: dict[str, dict[str, SignedVerdict]] = {}
        self._by_accuser: dict[str, set[str]] = {}
        self._first_end: float = math.inf

    @property
    def signers(self) -> frozenset[bytes]:
        """Fingerprints of the certificates that signed what is held."""
        return frozenset(entry.content.signed.signer for entry in self._entries.values())

    def of(self, subject: str) -> Mapping[str, SignedVerdict]:
        """Returns what is said of a node, by accuser."""
        return MappingProxyType(self._by_subject.get(subject, {}))

    def get(self, subject: str, accuser: str) -> SignedVerdict | None:
        """Returns what one node says of another one."""
        return self._by_subject.get(subject, {}).get(accuser)

    def count(self, accuser: str) -> int:
        """Returns of how many nodes this one's verdicts are held."""
        return len(self._by_accuser.get(accuser, ()))

    def is_superseded_by(self, content: SignedVerdict) -> bool:
        """Tells whether a verdict would replace the one held for its subject and accuser."""
        held = self.get(content.verdict.subject, content.verdict.accuser)
        return held is None or _is_later(content, held)

    def put(self, content: SignedVerdict, position: int, origin: str | None) -> None:
        """Stores a verdict over what was held of its subject and accuser."""
        verdict = content.verdict
        key = (verdict.subject, verdict.accuser)
        self._entries[key] = VerdictEntry(content, position, origin)
        self._entries.move_to_end(key)
        self._by_subject.setdefault(verdict.subject, {})[verdict.accuser] = content
        self._by_accuser.setdefault(verdict.accuser, set()).add(verdict.subject)
        self._first_end = min(self._first_end, verdict.expires_at)

    def changed_since(self, position: int) -> list[VerdictEntry]:
        """Returns what came in after a position, in order."""
        tail: list[VerdictEntry] = []
        for entry in reversed(self._entries.values()):
            if entry.position <= position:
                break
            tail.append(entry)
        tail.reverse()
        return tail

    def forget(self, node_id: str) -> None:
        """Drops what is said of a node, and what it says: it is no part of the mesh any more."""
        on_it = [(node_id, accuser) for accuser in self._by_subject.get(node_id, ())]
        by_it = [(subject, node_id) for subject in self._by_accuser.get(node_id, ())]
        self._drop(on_it + by_it)

    def expire(self, now: int) -> None:
        """Drops all whose lease ended by `now` (Unix milliseconds)."""
        if now < self._first_end:
            return
        ends = {key: entry.content.verdict.expires_at for key, entry in self._entries.items()}
        self._drop([key for key, end in ends.items() if end <= now])
        self._first_end = min((end for end in ends.values() if end > now), default=math.inf)

    def _drop(self, keys: Iterable[tuple[str, str]]) -> None:
        for subject, accuser in keys:
            del self._entries[subject, accuser]
            said, accused = self._by_subject[subject], self._by_accuser[accuser]
            del said[accuser]
            if not said:
                del self._by_subject[subject]
            accused.remove(subject)
            if not accused:
                del self._by_accuser[accuser]


def is_refuted(verdict: Verdict, record: Record) -> bool:
    """Tells whether a verdict can never again say anything of its subject, which wrote this."""
    if verdict.held or verdict.opinion is Opinion.CLEAR or record.voucher is not None:
        return False
    return verdict.subject_stamp < record.stamp


def _is_later(one: SignedVerdict, other: SignedVerdict) -> bool:
    # Of two with one stamp, which an honest accuser never signs, all nodes take the same.
    return (one.verdict.stamp, one.signed.body) > (other.verdict.stamp, other.signed.body)
