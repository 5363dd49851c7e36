"""Where `aegis-certs` begins."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs `aegis-certs`."""
    try:
        # Imported here, so that even Ctrl-C while it loads shows no traceback.
        from aegis_certs.cli import certs

        certs(prog_name="aegis-certs")
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells count
