"""The entry point of the command `aegis-certs`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs `aegis-certs`."""
    try:
        # Imported here, so that Ctrl-C during the import shows no traceback either.
        from aegis_certs.cli import certs

        certs(prog_name="aegis-certs")
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells count
