"""Replacements for signatures, which have tests of their own and cost too much here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from aegis_discovery import InvalidDocumentError, InvalidRecordError, InvalidVerdictError
from aegis_discovery.documents import (
    MAX_AHEAD as DOCUMENT_AHEAD,
)
from aegis_discovery.documents import (
    Document,
    DocumentKind,
    SignedDocument,
    decode_body,
    decode_content,
)
from aegis_discovery.records import (
    MAX_AHEAD,
    Record,
    Signed,
    SignedVerdict,
    Verifier,
    decode_record,
    decode_verdict,
)

MESH = "simulated"


class FakeSigning:
    """Makes signatures as long as those of the default key, so that traffic is realistic."""

    fingerprint = bytes(32)
    not_after = float("inf")

    def sign(self, body: bytes) -> bytes:
        """Returns 256 bytes, as RSA-2048 does."""
        return _SIGNATURE


_SIGNATURE = bytes(256)


class Decoder:
    """Decodes each record and verdict once, for all nodes: they are values, and can be shared."""

    def __init__(self) -> None:
        self._records: dict[bytes, Record] = {}
        self._verdicts: dict[bytes, SignedVerdict] = {}

    def record(self, signed: Signed) -> Record:
        found = self._records.get(signed.body)
        if found is None:
            found = decode_record(signed).record
            self._records[signed.body] = found
        return found

    def share(self, record: Record) -> Record:
        """Adds a decoded record: all nodes hold this object, so no bytes are compared."""
        return self._records.setdefault(record.body, record)

    def verdict(self, signed: Signed) -> SignedVerdict:
        found = self._verdicts.get(signed.body)
        if found is None:
            found = SignedVerdict(decode_verdict(signed.body)[0], signed)
            self._verdicts[signed.body] = found
        return found


class FakeVerifier(Verifier):
    """Accepts every signature, but no stamp far ahead of its own clock."""

    def __init__(self, decoder: Decoder, clock: Callable[[], float]) -> None:
        self._decoder = decoder
        self._clock = clock

    def add_chains(self, chains: Iterable[Sequence[bytes]]) -> list[InvalidRecordError]:
        return []

    def verify(
        self, signed: Signed, held: Callable[[str], Record | None] = lambda _: None
    ) -> Record:
        record = self._decoder.record(signed)
        if held(record.id) is not record and self._is_ahead(record.stamp):
            raise InvalidRecordError(record.id, "its stamp is ahead of this clock")
        return record

    def verify_all(
        self, signed: Iterable[Signed], held: Callable[[str], Record | None] = lambda _: None
    ) -> tuple[list[Record], list[InvalidRecordError]]:
        records, refused = [], []
        for one in signed:
            try:
                records.append(self.verify(one, held))
            except InvalidRecordError as error:
                refused.append(error)
        return records, refused

    def verify_verdict(
        self,
        signed: Signed,
        held: Callable[[str, str], SignedVerdict | None] = lambda _subject, _accuser: None,
    ) -> SignedVerdict:
        content = self._decoder.verdict(signed)
        if self._is_ahead(content.verdict.stamp):
            raise InvalidVerdictError(content.verdict.accuser, "its stamp is ahead of this clock")
        return content

    def _is_ahead(self, stamp: int) -> bool:
        return stamp > (self._clock() + MAX_AHEAD) * 1000


class FakeDocumentVerifier:
    """Accepts every signer, but no sequence far ahead of its own clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def verify(
        self,
        signed: SignedDocument,
        may_be_newer: Callable[[DocumentKind, int], bool] = lambda _kind, _sequence: True,
        *,
        at_rest: bool = False,
    ) -> Document | None:
        body = decode_body(signed.body)
        kind = DocumentKind(body.kind)
        if not may_be_newer(kind, body.sequence):
            return None
        if not at_rest and body.sequence > (self._clock() + DOCUMENT_AHEAD) * 1000:
            raise InvalidDocumentError(kind, "it is ahead of this clock", is_temporary=True)
        value = decode_content(kind, body.content)
        return Document(kind, kind.value, body.sequence, body.content, value, signed)
