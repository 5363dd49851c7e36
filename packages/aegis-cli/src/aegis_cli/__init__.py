"""The `aegis` command: run, inspect and try an embedded service mesh."""

from __future__ import annotations

import atexit
import gc
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Runs `aegis`."""
    # gRPC's log adds nothing to our messages; a user can still set this variable to read it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # At its end Python searches all objects for cycles to free: a tenth of the CPU time of a short
    # command, whose process ends anyway. Frozen objects are not searched.
    atexit.register(gc.freeze)
    try:
        # Imported here, so that Ctrl-C while it loads shows no traceback, and so that the
        # processes of the demo, whose modules are in this package, do not load it.
        from aegis_cli.cli import aegis

        aegis(prog_name="aegis")
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells count
