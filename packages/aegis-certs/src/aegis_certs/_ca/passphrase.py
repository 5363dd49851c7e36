"""The passphrase of a CA's key: given, or from the environment, and never on a command line."""

from __future__ import annotations

import os

VARIABLE = "AEGIS_CA_PASSPHRASE"


def passphrase_or_default(given: str | bytes | None) -> bytes | None:
    """The passphrase as bytes; that of the environment where none is given, or None."""
    value = os.environ.get(VARIABLE) if given is None else given
    if not value:
        return None
    return value.encode() if isinstance(value, str) else value
