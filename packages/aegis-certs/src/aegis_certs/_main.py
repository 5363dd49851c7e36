"""The entry point of the command `aegis-certs`."""

from __future__ import annotations

import atexit
import gc
import sys


def main() -> None:
    """Runs `aegis-certs`."""
    # At its end Python searches all objects for cycles to free: a tenth of the CPU time of a short
    # command, whose process ends anyway. Frozen objects are not searched.
    atexit.register(gc.freeze)
    try:
        # Imported here, so that Ctrl-C during the import shows no traceback either.
        from aegis_certs.cli import certs

        certs(prog_name="aegis-certs")
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells count
