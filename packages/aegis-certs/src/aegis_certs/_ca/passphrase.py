"""The passphrase of a CA's key: an argument or an environment variable, never an option."""

from __future__ import annotations

import os

from aegis_certs.errors import PassphraseError

VARIABLE = "AEGIS_CA_PASSPHRASE"
_MAX_BYTES = 1023


def passphrase_or_default(given: str | bytes | None) -> bytes | None:
    """The given passphrase as bytes; by default that of the environment, or None.

    Raises:
        PassphraseError: It is too long.
    """
    value = os.environ.get(VARIABLE) if given is None else given
    if not value:
        return None
    found = value.encode(errors="surrogateescape") if isinstance(value, str) else value
    if len(found) > _MAX_BYTES:
        reason = f"it has {len(found)} bytes, and OpenSSL accepts at most {_MAX_BYTES}"
        raise PassphraseError("passphrase", f"{reason}; choose a shorter one")
    return found
