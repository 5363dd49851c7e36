"""Translates messages of the unsigned protocol to and from dataclasses."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from aegis_certs import owner_of
from aegis_discovery import HealthStatus, NodeInfo, NodeStatus, TopologySnapshot
from aegis_discovery.proto import aegis_pb2
from aegis_discovery.records import node_to_unsigned

from aegis_core._health.checks import HealthInfo
from aegis_core._unsigned_peers.folding import fold_workers

MAX_PIECES = 40_000
"""Nodes and services read of one answer: a service for each node of a full mesh."""


def ping_response(node_id: str, *, instance: str, address: str) -> aegis_pb2.PingResponse:
    return aegis_pb2.PingResponse(
        receiver_id=owner_of(node_id),
        timestamp=int(time.time()),
        success=True,
        instance=instance,
        node_id=node_id,
        address=address,
    )


def health_to_wire(info: HealthInfo) -> aegis_pb2.HealthResponse:
    return aegis_pb2.HealthResponse(
        node_id=owner_of(info.node_id),
        status=info.status.value,
        last_checked=int(info.last_checked.timestamp()),
        message=info.message,
        error=info.error,
    )


def health_from_wire(message: aegis_pb2.HealthResponse) -> HealthInfo:
    try:
        status = HealthStatus(message.status)
    except ValueError:
        status = HealthStatus.UNKNOWN
    return HealthInfo(
        node_id=message.node_id,
        status=status,
        last_checked=_moment(message.last_checked),
        message=message.message,
        error=message.error,
    )


def node_info_to_wire(node: NodeInfo, health: HealthInfo) -> aegis_pb2.NodeInfoResponse:
    return aegis_pb2.NodeInfoResponse(
        id=owner_of(node.id),
        name=node.name,
        type=node.type,
        address=node.address,
        health=health_to_wire(health),
    )


def own_node(listed: NodeInfo, answer: aegis_pb2.NodeInfoResponse, *, dialled: str) -> NodeInfo:
    """Returns the node that answered at an address; its services are those of its list.

    The rest of its list may be wrong: it may have adopted it, with the address of an earlier run.
    """
    info = node_info_from_wire(answer)
    name = info.name or listed.name
    return replace(listed, name=name, type=info.type, address=dialled, health=info.health)


def node_info_from_wire(message: aegis_pb2.NodeInfoResponse) -> NodeInfo:
    """Decodes a node's own description; the unsigned protocol sends no services here."""
    return NodeInfo(
        id=message.id,
        name=message.name,
        type=message.type or "generic",
        address=message.address,
        health=health_from_wire(message.health).status,
    )


def first_of(nodes: Sequence[aegis_pb2.TopologyNode]) -> list[aegis_pb2.TopologyNode]:
    """Returns the first nodes of an answer, `MAX_PIECES` in all; two bytes encode one more."""
    first: list[aegis_pb2.TopologyNode] = []
    pieces = 0
    for node in nodes:
        pieces += 1 + len(node.services)
        if pieces > MAX_PIECES:
            break
        first.append(node)
    return first


def sync_response(snapshot: TopologySnapshot, caller: str) -> aegis_pb2.TopologySyncResponse:
    return aegis_pb2.TopologySyncResponse(
        version=snapshot.version,
        nodes=_listed(snapshot, caller),
        updated_at=int(snapshot.updated_at.timestamp()),
    )


def topology_response(snapshot: TopologySnapshot, caller: str) -> aegis_pb2.GetTopologyResponse:
    return aegis_pb2.GetTopologyResponse(version=snapshot.version, nodes=_listed(snapshot, caller))


def is_listed(node: NodeInfo, caller: str) -> bool:
    """Tells whether an answer has this node: a caller would go on choosing a failed one.

    Without itself, the caller would forget itself.
    """
    return node.status is not NodeStatus.FAILED or node.id == caller


def digest_of(answer: aegis_pb2.TopologySyncResponse) -> bytes:
    """Returns the SHA-256 of the nodes of an answer."""
    nodes = aegis_pb2.TopologySyncResponse(nodes=answer.nodes)
    return hashlib.sha256(nodes.SerializeToString(deterministic=True)).digest()


def _listed(snapshot: TopologySnapshot, caller: str) -> list[aegis_pb2.TopologyNode]:
    nodes = fold_workers(snapshot.nodes).values()
    return [node_to_unsigned(node) for node in nodes if is_listed(node, caller)]


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
