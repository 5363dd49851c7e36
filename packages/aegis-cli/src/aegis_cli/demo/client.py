"""A pure client of the demo: of Aegis, it imports `aegis_discovery` and nothing above it."""

from __future__ import annotations

import sys

from aegis_cli.demo import _child
from aegis_cli.demo._child import ParentPipe


def main(lifeline: ParentPipe) -> None:
    """Runs it until the parent says stop."""
    name, cert_dir, seed = sys.argv[1:]

    from aegis_discovery import connect

    from aegis_cli.demo._worker import Worker

    with connect(seed, tls=_child.load_identity(cert_dir, name)) as mesh:
        lifeline.report("ready")
        Worker(lifeline, name, mesh.topology, mesh.pool).run()


if __name__ == "__main__":
    _child.run(main)
