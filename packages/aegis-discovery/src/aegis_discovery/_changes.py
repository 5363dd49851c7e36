"""What changed in a topology since a position of its log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aegis_discovery._record import Record, Verdict
from aegis_discovery._store import Entry


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reader at an older position lacks, and the position that it reaches with it."""

    entries: tuple[Entry, ...]
    since: int
    position: int
    version: int
    digest: bytes

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

    def verdicts(self, *, unchanged: bool = False) -> Iterable[Verdict]:
        """Goes through the statuses that changed, or through those of all entries here."""
        for entry in self.entries:
            if entry.node is not None and (unchanged or entry.status_position > self.since):
                yield Verdict(entry.record.id, entry.record.stamp, entry.node.status)
