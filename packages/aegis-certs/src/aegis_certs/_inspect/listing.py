"""The certificates that a CA issued and that a directory holds."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from aegis_certs._inspect.evaluate import CertificateInfo, evaluate_directory
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now


def list_certificates(
    directory: str | Path = "./certs", *, at: datetime | None = None
) -> tuple[CertificateInfo, ...]:
    """Lists each certificate that was issued or is in a directory, without reading keys.

    The CAs are first, then the nodes in the order of their ids. For each node, the certificate in
    the directory is first, then the others from the newest to the oldest. A file that cannot be
    read is listed too.

    Args:
        directory: The directory.
        at: The moment that states are for; by default now.

    Raises:
        NotFoundError: There is no such directory.
        InventoryError: A newer version of this package wrote the inventory.
    """
    return tuple(found.info for found in evaluate_directory(Store(directory), utc_or_now(at)))
