"""Runs one node until a signal, and prints its address and the changes of the mesh."""

from __future__ import annotations

import logging
from typing import Any

import click
from aegis_certs.cli import printable, show_json
from aegis_core.aio import Node
from aegis_discovery import EventKind, NodeInfo, TopologyEvent

_log = logging.getLogger("aegis.cli")


class CommandNode(Node):
    """A node that declares no service that nothing would serve, wherever it was declared."""

    def __init__(self, **options: Any) -> None:
        if options.get("services") and not options.get("registrars"):
            services = " and ".join(map(str, options["services"]))
            raise click.UsageError(
                f"nothing would serve {services}: add the function that adds its gRPC service to "
                f"the server, as MODULE:NAME, such as orders:register"
            )
        super().__init__(**options)


async def run_node(node: Node, *, json: bool) -> None:
    """Runs a node until SIGTERM or SIGINT.

    Raises:
        aegis_discovery.NodeIdInUseError: Another process has taken its node id.
    """
    _log_to_stderr()

    def announce() -> None:
        node.topology.subscribe(_log_event)
        for peer in node.topology.nodes.values():
            if peer.id != node.id:
                _log.info("%s is here%s", peer.id, _location(peer))
        _announce(node, json=json)

    await node.run(on_ready=announce)


def _announce(node: Node, *, json: bool) -> None:
    own = node.topology.nodes[node.id]
    if json:
        services = [str(service) for service in own.services]
        facts = {"id": own.id, "address": node.address, "advertise": own.address}
        show_json({"event": "serving", **facts, "services": services}, indent=None)
        return
    known_as = f", known as {own.address}" if own.address != node.address else ""
    click.echo(f"{own.id} serves at {node.address}{known_as}")


def _log_event(event: TopologyEvent) -> None:
    what = {
        EventKind.UPDATED: f"is {event.node.status}, {event.node.health}",
        EventKind.SUSPECTED: "is suspected",
        EventKind.EXPIRED: "expired: it has not renewed its record for too long",
        EventKind.REVOKED: "was removed: its certificate is revoked",
    }.get(event.kind, str(event.kind))
    where = _location(event.node) if event.kind is EventKind.JOINED else ""
    _log.info("%s %s%s", event.node.id, what, where)


def _location(node: NodeInfo) -> str:
    services = f", provides {', '.join(map(str, node.services))}" if node.services else ""
    return printable(f" at {node.address}{services}")


def _log_to_stderr() -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    # Other loggers keep their level: details are for debugging, and warnings are shown.
    for name in ("aegis.cli", "aegis.node", "aegis_certs"):
        logging.getLogger(name).setLevel(logging.INFO)
