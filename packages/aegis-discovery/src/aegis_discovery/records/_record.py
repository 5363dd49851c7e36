"""Records: what nodes publish about themselves, ordered, leased and signed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from aegis_discovery._model import NodeInfo, ServiceInfo
from aegis_discovery._runtime.addresses import split_address
from aegis_discovery.errors import STAMP_AHEAD, InvalidAddressError

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

MAX_REGION = 32
"""Bytes of the name of a region with a boundary: the record of a bridge names many regions."""

MAX_PLACE = 64
"""Bytes of the name of any other region, and of a zone."""

Clock = Callable[[], float]
"""Returns Unix time in seconds."""

MAX_SHARED = 1024
"""Values that are held once although many records have them."""

Shareable = tuple[Any, Any]
"""A key, and the value that records with this key have in common."""

_T = TypeVar("_T")
# Some Python versions never release what `sys.intern` holds.
_shared: dict[Any, Any] = {}


def find_shared(key: object) -> Any:
    """Returns what was shared under a key, or None."""
    return _shared.get(key)


def shared(value: _T, unshared: list[Shareable]) -> _T:
    """Returns the equal value that verified records have; else adds the value to `unshared`."""
    found: _T | None = _shared.get(value)
    if found is None:
        unshared.append((value, value))
        return value
    return found


def share(values: Iterable[Shareable]) -> None:
    """Lets records that are decoded from now on have the same objects as these for their keys.

    Call it for values of verified records only, since they are kept.
    """
    for key, value in values:
        if len(_shared) >= MAX_SHARED:
            _shared.clear()
        _shared.setdefault(key, value)


class Leased(Protocol):
    """A record or a verdict, with the moments that it states (Unix milliseconds)."""

    @property
    def stamp(self) -> int: ...
    @property
    def expires_at(self) -> int: ...


class Signed(NamedTuple):
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


def provided_services_problem(services: Collection[ServiceInfo]) -> str:
    """Returns why a record cannot declare these services; empty if it can."""
    if len(services) > MAX_PROVIDED:
        return f"it declares {len(services)} services, the limit is {MAX_PROVIDED}"
    for service in services:
        if not service.name:
            return "it declares a service without a name"
    return ""


def info_problem(info: NodeInfo) -> str:
    """Returns why a record cannot have this content; empty if it can."""
    if reason := provided_services_problem(info.services):
        return reason
    try:
        split_address(info.address)
    except InvalidAddressError as error:
        return str(error)
    return ""


def time_problem(signed: Leased, now: float, lease: float, not_after: float) -> str:
    """Returns why a record or a verdict cannot be accepted now; empty if it can.

    Args:
        signed: What was signed.
        now: Unix time in seconds.
        lease: The longest lease that it may have.
        not_after: The end of the certificate that signed it (Unix seconds).
    """
    stamp = signed.stamp
    if stamp > (now + MAX_AHEAD) * 1000:
        ahead = stamp / 1000 - now
        return f"its stamp is {ahead:.0f} s {STAMP_AHEAD} (limit {MAX_AHEAD:.0f})"
    if now >= not_after:
        return "the certificate that signed it has expired"
    if signed.expires_at > min(now + MAX_AHEAD + lease, not_after) * 1000:
        return "its lease is too long"
    return ""


def place_problem(name: object) -> str:
    """Returns why this is no name of a region or zone; empty if it is one."""
    # What is printable can be encoded, too.
    if not isinstance(name, str) or not name.isprintable():
        return f"{name!a:.80} is not printable text; give a name such as 'eu-west-1'"
    if len(name.encode()) > MAX_PLACE:
        return f"{name:.20}... has {len(name.encode())} bytes, the limit is {MAX_PLACE}"
    return ""
