"""Records: what nodes publish about themselves, ordered, leased and signed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

from aegis_discovery._model import NodeInfo, ServiceInfo

CONTEXT = "aegis.mesh.v1 record"

LEASE = 24 * 3600.0
"""Seconds for which a record is valid unless its owner renews it."""

REPUBLISH_EVERY = LEASE / 3
"""Seconds after which an owner renews its lease: two renewals may be lost before it ends."""

TOMBSTONE_LEASE = LEASE + 3600.0
"""Seconds for which a tombstone is kept: longer than any record that it suppresses can live."""

MAX_AHEAD = 300.0
"""Seconds that a stamp may be ahead of the receiver's clock: bad clock synchronisation, no attack.
"""

MAX_RECORD = 4096
"""Bytes of a record's body."""

MAX_PROVIDED = 256
"""Services of one record. Each of them takes more memory than its bytes."""

Clock = Callable[[], float]
"""Returns Unix time in seconds."""

_COMMON_FIELDS = ("type", "services", "vouched_by", "trust_bundle", "region", "zone")
"""Fields of a node that are equal in thousands of records, so that each value is held once."""

_T = TypeVar("_T")


@lru_cache(maxsize=1024)
def _interned(value: _T) -> _T:
    """Returns the first of equal values. Some Python versions never release what `intern` holds."""
    return value


def provided_services_problem(services: Collection[ServiceInfo]) -> str:
    """Returns why a record cannot declare these services; empty if it can."""
    if len(services) > MAX_PROVIDED:
        return f"it declares {len(services)} services, the limit is {MAX_PROVIDED}"
    if not all(service.name for service in services):
        return "it declares a service without a name"
    return ""


@dataclass(frozen=True, slots=True)
class Signed:
    """A record or a verdict as on the wire: bytes that are not parsed yet, and their signature."""

    body: bytes
    signature: bytes
    signer: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """What a node published about itself, or a voucher about a peer that signs nothing.

    Attributes:
        id: The node that it describes.
        stamp: Milliseconds of the publisher's clock, above all its earlier stamps; orders records.
        instance: A random id of the publisher's process; new after each start.
        expires_at: End of the lease, Unix milliseconds.
        info: The node; None in a tombstone, which states that the node left.
        body: The signed bytes.
        voucher: The node that published it for a peer that signs nothing; None if the node itself
            published it.
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

    def shared(self, signer: bytes) -> Record:
        """Returns the record with `signer` and with the values of other records that are equal.

        Call it for verified records only, since these values are cached.
        """
        info = self.info and replace(
            self.info, **{name: _interned(getattr(self.info, name)) for name in _COMMON_FIELDS}
        )
        return replace(self, info=info, voucher=_interned(self.voucher), signer=signer)

    @property
    def digest(self) -> int:
        """SHA-256 of the body, as a number."""
        return int.from_bytes(hashlib.sha256(self.body).digest())

    @property
    def precedence(self) -> tuple[bool, int, int]:
        """Orders the records of one id totally; the greatest is valid.

        A node's own record is above one that is vouched for. Then the stamp decides. The digest
        decides between equal stamps, which an honest signer never makes.
        """
        return (self.voucher is None, self.stamp, self.digest)
