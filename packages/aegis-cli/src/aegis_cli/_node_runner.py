"""Runs a node until a signal, and prints its address and the changes of the mesh."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from aegis_certs.cli import printable, show_json
from aegis_core.aio import Node
from aegis_core.workers import Worker, load_registrars
from aegis_discovery import EventKind, NodeInfo, TopologyEvent
from aegis_discovery.background import new_event_loop

from aegis_cli._logs import log_to_stderr
from aegis_cli._run import run

_log = logging.getLogger("aegis.cli")


def run_alone(
    registrars: Sequence[str], options: Mapping[str, Any], *, config: str | None, json: bool
) -> None:
    """Runs the only node of this command until SIGTERM or SIGINT.

    Raises:
        aegis_core.MeshError: The node cannot run.
        aegis_discovery.NodeIdInUseError: Another process has taken its node id.
    """
    node = Node.from_env(config=config, registrars=load_registrars(registrars), **options)
    run(_run_node(node, json=json), loop_factory=new_event_loop)


def run_worker(worker: Worker, *, json: bool, log_level: str, log_format: str) -> None:
    """Runs the node of one worker, in its own process, as `run_alone`."""
    log_to_stderr(log_level, log_format, worker.job.node_id)
    node = worker.job.make(Node)
    run(_run_node(node, json=json, on_ready=worker.serves), loop_factory=new_event_loop)


async def _run_node(
    node: Node, *, json: bool, on_ready: Callable[[Node], object] = lambda _: None
) -> None:
    def announce() -> None:
        node.topology.subscribe(_log_event)
        for peer in node.topology.nodes.values():
            if peer.id != node.id:
                _log.info("%s is here%s", peer.id, _location(peer))
        _announce(node, json=json)
        on_ready(node)

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
    if event.kind is EventKind.FAILED:
        return  # what judges the nodes has logged it, as a warning
    what = {
        EventKind.UPDATED: f"is {event.node.status}, {event.node.health}",
        EventKind.SUSPECTED: "is suspected",
        EventKind.UNREACHABLE: f"is unreachable: its region {event.node.region!r} is silent",
        EventKind.EXPIRED: "expired: it has not renewed its record for too long",
        EventKind.REVOKED: "was removed: its certificate is revoked",
        EventKind.FORGOTTEN: "is forgotten, as the CA published",
    }.get(event.kind, str(event.kind))
    where = _location(event.node) if event.kind is EventKind.JOINED else ""
    _log.info("%s %s%s", event.node.id, what, where)


def _location(node: NodeInfo) -> str:
    services = f", provides {', '.join(map(str, node.services))}" if node.services else ""
    return printable(f" at {node.address}{services}")
