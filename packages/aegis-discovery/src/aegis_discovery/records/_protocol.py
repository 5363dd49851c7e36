"""What a feed needs of a verifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from aegis_discovery.errors import InvalidRecordError
from aegis_discovery.records._record import Record, Signed
from aegis_discovery.records._verdict import SignedVerdict


class Verifier(Protocol):
    """What a feed needs of a verifier: `RecordVerifier`, or one that a simulation provides."""

    def add_chains(self, chains: Iterable[Sequence[bytes]]) -> list[InvalidRecordError]:
        """As `RecordVerifier.add_chains`."""

    def verify_all(
        self, signed: Iterable[Signed], held: Callable[[str], Record | None]
    ) -> tuple[list[Record], list[InvalidRecordError]]:
        """As `RecordVerifier.verify_all`."""

    def verify_verdict(
        self, signed: Signed, held: Callable[[str, str], SignedVerdict | None]
    ) -> SignedVerdict:
        """As `RecordVerifier.verify_verdict`."""
