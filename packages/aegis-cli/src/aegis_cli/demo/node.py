"""A node of the demo: it can provide the greeter and join another node, and calls on command."""

from __future__ import annotations

import argparse
from pathlib import Path

from aegis_cli.demo import _child
from aegis_cli.demo._child import ParentPipe


def main(parent: ParentPipe) -> None:
    """Runs it until the parent sends `stop`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("id")
    parser.add_argument("cert_dir", type=Path)
    parser.add_argument("--join", action="append", default=[])
    parser.add_argument("--greet", action="store_true")
    arguments = parser.parse_args()

    from aegis_core import Node

    from aegis_cli._identity import load_identity
    from aegis_cli.demo._worker import Worker
    from aegis_cli.demo.greeter_pb2_grpc import add_GreeterServicer_to_server
    from aegis_cli.demo.provider import SERVICE, Greeter

    greeter = Greeter(arguments.id)
    with Node(
        arguments.id,
        address="127.0.0.1:0",
        tls=load_identity(arguments.cert_dir, arguments.id),
        seed_peers=arguments.join,
        services=[SERVICE] if arguments.greet else [],
        registrars=[lambda server: add_GreeterServicer_to_server(greeter, server)]
        if arguments.greet
        else [],
    ) as node:
        parent.report("ready", address=node.address)
        Worker(parent, node.id, node.topology, node.pool).run()


if __name__ == "__main__":
    _child.run(main)
