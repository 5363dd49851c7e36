"""Records: what a node says of itself, ordered, leased and signed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

from aegis_discovery._model import NodeInfo, ServiceInfo

CONTEXT = "aegis.mesh.v1 record"

LEASE = 24 * 3600.0
"""Seconds for which a record is believed without word of its owner."""

REPUBLISH_EVERY = LEASE / 3
"""Seconds after which an owner renews its lease: two renewals may get lost before it ends."""

TOMBSTONE_LEASE = LEASE + 3600.0
"""Seconds that a removal is kept: longer than any record that it suppresses can live."""

MAX_AHEAD = 300.0
"""Seconds that a stamp may be ahead of the receiver's clock: NTP's worst day, not an attack."""

MAX_RECORD = 4096
"""Bytes of a record's body."""

MAX_PROVIDED = 256
"""Services of one record, which takes more memory than its bytes for each of them."""

Clock = Callable[[], float]
"""Unix time in seconds."""


T = TypeVar("T")


@lru_cache(maxsize=1024)
def _shared(value: T) -> T:
    """Returns the first of equal values; Python's own `intern` forgets none on some versions."""
    return value


def _share(info: NodeInfo) -> NodeInfo:
    """Lets a node share what thousands have alike."""
    return replace(
        info,
        type=_shared(info.type),
        services=_shared(info.services),
        vouched_by=_shared(info.vouched_by),
        trust_bundle=_shared(info.trust_bundle),
        region=_shared(info.region),
        zone=_shared(info.zone),
    )


def provided_services_problem(services: Collection[ServiceInfo]) -> str:
    """Says in a sentence why a record cannot declare these services; empty where it can."""
    if len(services) > MAX_PROVIDED:
        return f"it declares {len(services)} services, the limit is {MAX_PROVIDED}"
    if not all(service.name for service in services):
        return "it declares a service without a name"
    return ""


@dataclass(frozen=True, slots=True)
class RecordFields:
    """What a record's bytes say."""

    context: str
    mesh: str
    trust_domain: str
    id: str
    stamp: int
    instance: str
    expires_at: int
    info: NodeInfo | None
    voucher: str | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """A record or a verdict as it travels: bytes that nobody has read yet, and who signed them."""

    body: bytes
    signature: bytes
    signer: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One node's entry, as its signer made it.

    Attributes:
        id: The node that it tells of.
        stamp: Milliseconds of the signer's clock, above all its earlier ones; orders records.
        instance: One life of the signer's process; random.
        expires_at: End of the lease, Unix milliseconds.
        info: The node; None in a tombstone, which says that it left.
        body: The bytes that were signed.
        voucher: Who published it for a peer that signs nothing; None where the node did itself.
        signature: Over the body; empty in a topology that never leaves its process.
        signer: SHA-256 of the leaf certificate (DER) that signed it.
    """

    id: str
    stamp: int
    instance: str
    expires_at: int
    info: NodeInfo | None
    body: bytes = field(repr=False)
    voucher: str | None = None
    signature: bytes = field(default=b"", repr=False)
    signer: bytes = field(default=b"", repr=False)

    @classmethod
    def of(
        cls, fields: RecordFields, body: bytes, signature: bytes = b"", signer: bytes = b""
    ) -> Record:
        """Joins what the bytes say with the bytes themselves.

        Only once they are believed: what many records say alike is remembered, to be held once.
        """
        return cls(
            fields.id,
            fields.stamp,
            fields.instance,
            fields.expires_at,
            fields.info and _share(fields.info),
            body,
            _shared(fields.voucher),
            signature,
            signer,
        )

    @property
    def digest(self) -> int:
        """SHA-256 of the body, as a number."""
        return int.from_bytes(hashlib.sha256(self.body).digest())

    @property
    def precedence(self) -> tuple[bool, int, int]:
        """The total order of one id's records; the greatest is the truth.

        What a node says itself beats what others vouch for; then the stamp decides, and between
        equal stamps, which an honest signer never makes, the bytes.
        """
        return (self.voucher is None, self.stamp, self.digest)
