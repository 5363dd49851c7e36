"""Translates between the wire's messages and this package's values; only here is protobuf."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.message import DecodeError

from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery._record import Record, RecordFields, SignedRecord, Verdict
from aegis_discovery.errors import InvalidRecordError
from aegis_discovery.proto import aegis_pb2, mesh_pb2

_STATUS_TO_WIRE = {
    NodeStatus.ALIVE: mesh_pb2.STATUS_ALIVE,
    NodeStatus.SUSPECTED: mesh_pb2.STATUS_SUSPECTED,
    NodeStatus.FAILED: mesh_pb2.STATUS_FAILED,
}
_STATUS_FROM_WIRE = {wire: status for status, wire in _STATUS_TO_WIRE.items()}


def encode_record(fields: RecordFields) -> bytes:
    """Serialises what an author signs; done once in a record's life."""
    body = mesh_pb2.RecordBody(
        context=fields.context,
        mesh=fields.mesh,
        trust_domain=fields.trust_domain,
        id=fields.id,
        stamp=fields.stamp,
        instance=fields.instance,
        expires_at=fields.expires_at,
        removed=fields.info is None,
        voucher=fields.voucher or "",
    )
    if fields.info is not None:
        info = fields.info
        body.name = info.name
        body.type = info.type
        body.address = info.address
        body.services.extend(
            mesh_pb2.Service(name=service.name, version=service.version)
            for service in info.services
        )
        body.joined_at = _to_ms(info.joined_at)
        body.updated_at = _to_ms(info.updated_at)
        body.health = info.health.value
        body.trust_bundle = info.trust_bundle
    return body.SerializeToString(deterministic=True)


def decode_record(data: bytes) -> RecordFields:
    """Reads a record's bytes.

    Raises:
        InvalidRecordError: If they are no record.
    """
    try:
        body = mesh_pb2.RecordBody.FromString(data)
        info = None
        if not body.removed:
            info = NodeInfo(
                id=body.id,
                name=body.name,
                type=body.type,
                address=body.address,
                services=tuple(ServiceInfo(s.name, s.version) for s in body.services),
                joined_at=_from_ms(body.joined_at),
                updated_at=_from_ms(body.updated_at),
                health=_health(body.health),
                vouched_by=body.voucher or None,
                trust_bundle=body.trust_bundle,
            )
    except (DecodeError, ValueError, OverflowError) as error:
        raise InvalidRecordError("", f"its bytes cannot be read ({error})") from error
    return RecordFields(
        context=body.context,
        mesh=body.mesh,
        trust_domain=body.trust_domain,
        id=body.id,
        stamp=body.stamp,
        instance=body.instance,
        expires_at=body.expires_at,
        info=info,
        voucher=body.voucher or None,
    )


def signed_to_wire(record: Record) -> mesh_pb2.SignedRecord:
    """Puts a record on the wire exactly as it was signed."""
    return mesh_pb2.SignedRecord(body=record.body, signature=record.signature, signer=record.signer)


def signed_from_wire(message: mesh_pb2.SignedRecord) -> SignedRecord:
    """Takes a record off the wire, unread and unverified."""
    return SignedRecord(message.body, message.signature, message.signer)


def verdict_to_wire(verdict: Verdict) -> mesh_pb2.Verdict:
    """Puts a verdict on the wire."""
    return mesh_pb2.Verdict(
        id=verdict.id, stamp=verdict.stamp, status=_STATUS_TO_WIRE[verdict.status]
    )


def verdict_from_wire(message: mesh_pb2.Verdict) -> Verdict | None:
    """Takes a verdict off the wire; None for a status of a later version."""
    status = _STATUS_FROM_WIRE.get(message.status)
    return None if status is None else Verdict(message.id, message.stamp, status)


def node_to_seed(info: NodeInfo) -> aegis_pb2.TopologyNode:
    """Writes a node as the seed protocol's peers read it."""
    return aegis_pb2.TopologyNode(
        id=info.id,
        name=info.name,
        type=info.type,
        address=info.address,
        joined_at=_to_ms(info.joined_at) // 1000,
        updated_at=_to_ms(info.updated_at) // 1000,
        services=[aegis_pb2.Service(name=s.name, version=s.version) for s in info.services],
    )


def nodes_from_seed(nodes: Iterable[aegis_pb2.TopologyNode]) -> tuple[NodeInfo, ...]:
    """Reads the nodes of a seed protocol answer; times out of range count as unknown."""
    return tuple(
        NodeInfo(
            id=node.id,
            name=node.name,
            type=node.type or "generic",
            address=node.address,
            services=tuple(ServiceInfo(s.name, s.version) for s in node.services),
            joined_at=_from_seconds(node.joined_at),
            updated_at=_from_seconds(node.updated_at),
        )
        for node in nodes
    )


def _health(value: str) -> HealthStatus:
    try:
        return HealthStatus(value)
    except ValueError:
        return HealthStatus.UNKNOWN


def _to_ms(moment: datetime | None) -> int:
    return 0 if moment is None else round(moment.timestamp() * 1000)


def _from_ms(value: int) -> datetime | None:
    return None if value == 0 else datetime.fromtimestamp(value / 1000, UTC)


def _from_seconds(value: int) -> datetime | None:
    try:
        return _from_ms(value * 1000)
    except (ValueError, OverflowError, OSError):
        return None
