"""What both kinds of local meshes share: options of their nodes, and when they are settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aegis_core.testing._authority import identity

CLIENT = "test-client"
"""The id of clients and callers that a test does not name."""

PATIENCE = 15.0
"""Seconds until nodes that do not find each other are an error: a bound, not a measurement."""


def node_arguments(
    node_id: str, nodes: Sequence[Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a node, with those that make it a member of the mesh."""
    found = {
        "address": "127.0.0.1:0",
        "seed_peers": [f"{node.id}@{node.address}" for node in nodes],
        **options,
    }
    if not {"tls", "tls_options", "cert_dir"} & options.keys():
        found["tls"] = identity(node_id)
    return found


def all_know(nodes: Sequence[Any]) -> bool:
    """Whether each node has all of them in its topology, as alive."""
    ids = {node.id for node in nodes}
    return all(
        ids <= {found.id for found in node.topology.nodes.values() if found.status == "alive"}
        for node in nodes
    )


def slow(nodes: Sequence[Any]) -> TimeoutError:
    ids = ", ".join(node.id for node in nodes)
    return TimeoutError(f"the nodes {ids} do not know each other after {PATIENCE:g} s")


def check_running(node: Any, nodes: Sequence[Any]) -> None:
    """Raises `ValueError` unless a mesh has this node, as an id has none."""
    if node not in nodes:
        raise ValueError(f"{node!r} is no running node of this mesh; give what `start` returned")
