"""Translates messages of the unsigned protocol to and from dataclasses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from aegis_discovery import HealthStatus, NodeInfo, TopologySnapshot
from aegis_discovery.proto import aegis_pb2
from aegis_discovery.records import node_to_unsigned

from aegis_core._health.checks import HealthInfo

MAX_PIECES = 40_000
"""Nodes and services read of one answer: a service for each node of a full mesh."""


def ping_response(node_id: str) -> aegis_pb2.PingResponse:
    return aegis_pb2.PingResponse(receiver_id=node_id, timestamp=int(time.time()), success=True)


def health_to_wire(info: HealthInfo) -> aegis_pb2.HealthResponse:
    return aegis_pb2.HealthResponse(
        node_id=info.node_id,
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
        id=node.id,
        name=node.name,
        type=node.type,
        address=node.address,
        health=health_to_wire(health),
    )


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


def sync_response(snapshot: TopologySnapshot) -> aegis_pb2.TopologySyncResponse:
    return aegis_pb2.TopologySyncResponse(
        version=snapshot.version,
        nodes=map(node_to_unsigned, snapshot.nodes.values()),
        updated_at=int(snapshot.updated_at.timestamp()),
    )


def topology_response(snapshot: TopologySnapshot) -> aegis_pb2.GetTopologyResponse:
    return aegis_pb2.GetTopologyResponse(
        version=snapshot.version, nodes=map(node_to_unsigned, snapshot.nodes.values())
    )


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
