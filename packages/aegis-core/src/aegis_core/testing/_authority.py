"""The CA of tests: one in a process, with keys that take a millisecond to make."""

from __future__ import annotations

import tempfile
from functools import cache, lru_cache

from aegis_certs import CertificateAuthority, KeyType, TLSConfig, owner_of

_DAYS = 1.0


@lru_cache(maxsize=1024)
def identity(node_id: str) -> TLSConfig:
    """An identity of the CA of this process's tests; a repeated call returns the same one.

    The CA is made on first use, in a temporary directory, and is gone with the process. Its keys
    are P-256 and its certificates are valid for a day.

    Args:
        node_id: A node id; that of a worker, such as `orders-1#2`, has the identity of `orders-1`.

    Raises:
        aegis_certs.InvalidNodeIdError: If it is none.
    """
    return _authority()[0].issue_in_memory(owner_of(node_id), days=_DAYS)


@cache
def _authority() -> tuple[CertificateAuthority, tempfile.TemporaryDirectory[str]]:
    """The CA, and the directory, which is deleted with its last reference."""
    directory = tempfile.TemporaryDirectory(prefix="aegis-testing-")
    return CertificateAuthority.create(directory.name, key_type=KeyType.P256), directory
