"""What changed in a topology after a position of its log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from aegis_discovery._model import NodeStatus
from aegis_discovery._topology.store import Entry
from aegis_discovery.records._record import Record
from aegis_discovery.records._verdict import SignedVerdict, VerdictEntry


class Changes(NamedTuple):
    """What a reader at an older position lacks, and the position that it reaches with it.

    Attributes:
        entries: The entries of the nodes whose record or status changed, in order.
        since: The position of the reader; `position`, `version` and `digest` are those after it.
        signed_since: As `RecordStore.signed_since`.
        region_of: Returns the region of a node.
        region: The only region whose records and verdicts the reader wants; None for all.
    """

    entries: tuple[Entry, ...]
    verdict_entries: tuple[VerdictEntry, ...]
    since: int
    position: int
    version: int
    digest: bytes
    signed_since: Callable[[str, bytes], int | None]
    region_of: Callable[[str], str | None]
    region: str | None = None

    def records(self, *, reader: str | None = None, held: int = 0) -> Iterable[Record]:
        """Yields the changed records, except those that the reader itself sent.

        The record of the reader's own id is always included: another process may have published
        under that id. Changes up to the position `held` are left out, since the reader has them.
        Nobody knows the region of some tombstones; those are in every feed.
        """
        since = max(self.since, held)
        for entry in self.entries:
            if self.region is not None and entry.region not in (None, self.region):
                continue
            echo = reader is not None and entry.origin == reader != entry.record.id
            if entry.record_position > since and not echo:
                yield entry.record

    def verdicts(self, *, reader: str | None = None) -> Iterable[SignedVerdict]:
        """Yields the new verdicts, except those that the reader itself sent."""
        for entry in self.verdict_entries:
            subject = entry.content.verdict.subject
            if self.region is not None and self.region_of(subject) != self.region:
                continue
            if reader is None or entry.origin != reader:
                yield entry.content

    def statuses(self, *, unchanged: bool = False) -> Iterable[tuple[str, int, NodeStatus]]:
        """Yields (id, stamp, status) of changed statuses; with `unchanged`, of all entries here."""
        for entry in self.entries:
            if entry.node is not None and (unchanged or entry.status_position > self.since):
                yield entry.record.id, entry.record.stamp, entry.node.status
