"""A client of the demo that is not a node: it imports `aegis_discovery`, and not `aegis_core`."""

from __future__ import annotations

import sys
from pathlib import Path

from aegis_cli.demo import _child
from aegis_cli.demo._child import ParentPipe


def main(parent: ParentPipe) -> None:
    """Runs it until the parent sends `stop`."""
    name, cert_dir, seed = sys.argv[1:]

    from aegis_discovery import connect

    from aegis_cli._identity import load_identity
    from aegis_cli.demo._worker import Worker

    with connect(seed, tls=load_identity(Path(cert_dir), name)) as mesh:
        parent.report("ready")
        Worker(parent, name, mesh.topology, mesh.pool).run()


if __name__ == "__main__":
    _child.run(main)
