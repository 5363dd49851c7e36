"""The commands of `aegis-certs`, which `aegis certs` mounts; and the edge that they share."""

from __future__ import annotations

import sys

from ._command_group import INTERRUPTED, CommandGroup, certs_exit_codes, fail
from ._commands import certs

__all__ = ["CommandGroup", "certs", "certs_exit_codes", "fail", "main"]


def main() -> None:
    """Runs `aegis-certs`."""
    try:
        certs(prog_name="aegis-certs")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
