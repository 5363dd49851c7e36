"""The passphrase of a CA's key: an argument or an environment variable, never an option."""

from __future__ import annotations

import os

VARIABLE = "AEGIS_CA_PASSPHRASE"


def passphrase_or_default(given: str | bytes | None) -> bytes | None:
    """The given passphrase as bytes; by default that of the environment, or None."""
    value = os.environ.get(VARIABLE) if given is None else given
    if not value:
        return None
    return value.encode() if isinstance(value, str) else value
