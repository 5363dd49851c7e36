"""The `aegis` command: run, inspect and try an embedded service mesh."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Runs `aegis`."""
    # gRPC's own log tells people nothing that our sentences do not; set it to hear it all the same.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        # Imported here, so that even Ctrl-C while it loads shows no traceback, and so that the
        # demo's processes, which are of this package too, need not load it.
        from aegis_cli.cli import aegis

        aegis(prog_name="aegis")
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells count
