"""The certificates that a CA issued and that a directory holds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from aegis_certs._inspect.evaluate import CertificateInfo, evaluate_directory
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.validity import CertificateState, is_short_lived

_OVER = (CertificateState.EXPIRED, CertificateState.REPLACED)

logger = logging.getLogger("aegis_certs")


@dataclass(frozen=True)
class Listing:
    """The certificates of a directory, as far as this user may read it.

    Attributes:
        certificates: The certificates that can be seen.
        not_read: What may be missing, and why, in sentences.
    """

    certificates: tuple[CertificateInfo, ...]
    not_read: tuple[str, ...] = ()

    @property
    def long_lived(self) -> tuple[CertificateInfo, ...]:
        """The certificates without those that live an hour or less and serve a command.

        A node that enrolled may have certificates with such a life too; the newest counts.
        """
        return tuple(
            one
            for one in self.certificates
            if one.path or not _is_short_lived(one) or (one.through and one.state not in _OVER)
        )


def _is_short_lived(one: CertificateInfo) -> bool:
    return bool(one.not_before and one.not_after and is_short_lived(one.not_before, one.not_after))


def list_certificates(
    directory: str | Path = "./certs", *, at: datetime | None = None
) -> tuple[CertificateInfo, ...]:
    """Lists each certificate that was issued or is in a directory, without reading keys.

    The CAs are first, then the nodes in the order of their ids. For each node, the certificate in
    the directory is first, then the others from the newest to the oldest. A file that cannot be
    read is listed too. If this user may not read the inventory, only the certificates in the
    directory are listed, with a warning in the log.

    Args:
        directory: The directory.
        at: The moment that states are for; by default now.

    Raises:
        NotFoundError: There is no such directory.
        InventoryError: A newer version of this package wrote the inventory.
    """
    listing = list_directory(directory, at=at)
    for reason in listing.not_read:
        logger.warning("the list is not complete: %s", reason)
    return listing.certificates


def list_directory(directory: str | Path, *, at: datetime | None = None) -> Listing:
    """`list_certificates`, and what this user may not read."""
    found, error = evaluate_directory(Store(directory), utc_or_now(at))
    missing = f"certificates that are not in {directory} are missing: {error}"
    return Listing(tuple(one.info for one in found), () if error is None else (missing,))
