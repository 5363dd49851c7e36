"""Messages of a feed in parts, each of which costs few checks of signatures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from aegis_discovery.feed._limits import (
    DOCUMENT_CHECKS,
    MAX_CHECKS,
    MAX_DOCUMENTS,
    MAX_ITEMS,
    MAX_JOIN_CHECKS,
    MAX_STATUSES,
    MIN_JOIN_CHECKS,
    PART_SECONDS,
)
from aegis_discovery.proto import mesh_pb2

SLOWLY = 0.8
"""By how much a check may seem cheaper after each part."""


class MessagePart:
    """A part of a message of the feed, with the fields of a message."""

    def __init__(
        self, documents: Iterable[mesh_pb2.SignedDocument] = (), *, complete: bool = False
    ) -> None:
        self.chains: list[mesh_pb2.Chain] = []
        self.records: list[mesh_pb2.SignedRecord] = []
        self.verdicts: list[mesh_pb2.SignedVerdict] = []
        self.documents = [*documents]
        self.statuses: Sequence[mesh_pb2.DerivedStatus] = ()
        self.version = 0
        self.digest = self.cursor = self.home_digest = self.regions_digest = b""
        self.complete = complete


Message = mesh_pb2.WatchResponse | MessagePart


class PartSize:
    """How many checks a part of a message may cost, so that its receiver is done in time. Pure.

    A check takes five times as long with some keys as with others, and nothing tells before how
    long. Until a feed is complete, the parts are as large as those before them allow.
    """

    def __init__(self) -> None:
        self._per_check = self._last = PART_SECONDS / MAX_CHECKS
        self._is_complete = False

    def __call__(self) -> int:
        """Returns the most checks of the next part."""
        if self._is_complete:
            return MAX_CHECKS
        allowed = int(PART_SECONDS / self._per_check)
        return max(MIN_JOIN_CHECKS, min(allowed, MAX_JOIN_CHECKS))

    def received(self, part: Message, seconds: float, *, complete: bool) -> None:
        """Notes what a part took, in CPU seconds, and whether the feed is complete with it."""
        self._is_complete |= complete
        checks = _checks(part)
        if checks >= MIN_JOIN_CHECKS and not part.documents:
            # Two in a row, since Python's garbage collector adds 40 ms to one part now and then.
            last, self._last = self._last, seconds / checks
            # Down at once, and up step by step: cheap parts tell little of the next one.
            self._per_check = max(min(last, self._last), SLOWLY * self._per_check)


def split_message(
    message: mesh_pb2.WatchResponse, checks_each: Callable[[], int] = lambda: MAX_CHECKS
) -> Iterator[Message]:
    """Splits a message into several with the same content, each of few signature checks.

    Each part can be received on its own: a record or a verdict is in one part with the chain that
    it needs. A message that is too large, and will be ignored, is not split.
    """
    if _checks(message) <= checks_each() or is_oversized(message):
        yield message
        return
    for document in message.documents:
        yield MessagePart(documents=[document])
    part, checks = MessagePart(), 0
    for chain, record, verdict in _units(message):
        # The parts have the message's own items: a copy would cost as much as parsing it.
        if chain is not None:
            part.chains.append(chain)
            checks += len(chain.certificates)
        if record is not None:
            part.records.append(record)
            checks += 1
        if verdict is not None:
            part.verdicts.append(verdict)
            checks += 1
        if checks >= checks_each():
            yield part
            part, checks = MessagePart(), 0
    # These fields describe the whole message, so they are true after its last part.
    part.statuses = message.statuses
    part.cursor, part.digest = message.cursor, message.digest
    part.version, part.complete = message.version, message.complete
    part.home_digest, part.regions_digest = message.home_digest, message.regions_digest
    yield part


_Unit = tuple[mesh_pb2.Chain | None, mesh_pb2.SignedRecord | None, mesh_pb2.SignedVerdict | None]


def _units(message: mesh_pb2.WatchResponse) -> Iterator[_Unit]:
    """Yields what must stay together: chains that nothing needs, then each item with its chain."""
    signers = {item.signer for items in (message.records, message.verdicts) for item in items}
    needed: dict[bytes, mesh_pb2.Chain] = {}
    for chain in message.chains:
        certificates = chain.certificates
        fingerprint = hashlib.sha256(certificates[0]).digest() if certificates else b""
        if fingerprint in signers and fingerprint not in needed:
            needed[fingerprint] = chain
        else:
            yield chain, None, None
    for record in message.records:
        yield needed.pop(record.signer, None), record, None
    for verdict in message.verdicts:
        yield needed.pop(verdict.signer, None), None, verdict


def _checks(message: Message) -> int:
    """Counts what may need a signature check."""
    certificates = sum([len(chain.certificates) for chain in message.chains])
    documents = DOCUMENT_CHECKS * len(message.documents)
    return len(message.records) + len(message.verdicts) + certificates + documents


def count_items(message: Message) -> int:
    """Counts what may each cost a check of a signature."""
    return len(message.records) + len(message.verdicts) + len(message.chains)


def is_oversized(message: Message) -> bool:
    """Tells whether a message has more than any honest server sends."""
    return (
        count_items(message) > MAX_ITEMS
        or len(message.statuses) > MAX_STATUSES
        or len(message.documents) > MAX_DOCUMENTS
    )


def is_heartbeat(message: Message) -> bool:
    """Tells whether a message brings nothing."""
    return not (
        message.cursor
        or message.complete
        or message.documents
        or message.statuses
        or count_items(message)
    )
