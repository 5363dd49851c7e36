"""What changed in a topology since a position of its log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aegis_discovery._model import NodeStatus
from aegis_discovery._topology.store import Entry
from aegis_discovery.records._record import Record
from aegis_discovery.records._verdict import SignedVerdict, VerdictEntry


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reader at an older position lacks, and the position that it reaches with it.

    Attributes:
        entries: What is held now of the nodes whose record or status changed, in order.
        verdict_entries: The verdicts that came in.
        since: The position of the reader.
        position: The position that this leads to.
        version: The topology's version there.
        digest: The digest of all live records there.
        signed_since: Finds the position since which a certificate signs a node's record.
    """

    entries: tuple[Entry, ...]
    verdict_entries: tuple[VerdictEntry, ...]
    since: int
    position: int
    version: int
    digest: bytes
    signed_since: Callable[[str, bytes], int | None]

    def records(self, *, reader: str | None = None, held: int = 0) -> Iterable[Record]:
        """Goes through the records that changed, less those that came from the reader.

        Of its own id it hears all the same: another process may have published under it. What
        changed up to the position `held` it has already.
        """
        since = max(self.since, held)
        for entry in self.entries:
            echo = reader is not None and entry.origin == reader != entry.record.id
            if entry.record_position > since and not echo:
                yield entry.record

    def verdicts(self, *, reader: str | None = None) -> Iterable[SignedVerdict]:
        """Goes through the verdicts that came in, less those that came from the reader."""
        for entry in self.verdict_entries:
            if reader is None or entry.origin != reader:
                yield entry.content

    def statuses(self, *, unchanged: bool = False) -> Iterable[tuple[str, int, NodeStatus]]:
        """Goes through (id, stamp, status) where that changed, or through all entries here."""
        for entry in self.entries:
            if entry.node is not None and (unchanged or entry.status_position > self.since):
                yield entry.record.id, entry.record.stamp, entry.node.status
