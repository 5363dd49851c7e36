"""Translates records, verdicts, statuses and unsigned nodes between protobuf and dataclasses.

`aegis_discovery.feed` composes and reads the messages that carry them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery._runtime.frozen import draft_of
from aegis_discovery.errors import InvalidRecordError, InvalidVerdictError
from aegis_discovery.proto import aegis_pb2, mesh_pb2
from aegis_discovery.records._record import Record, Shareable, Signed, find_shared, shared
from aegis_discovery.records._verdict import Opinion, Verdict

_WireTraits: TypeAlias = tuple[
    str, tuple[tuple[str, str, str], ...], str, str, str, str, str, str, tuple[str, ...]
]
_Traits: TypeAlias = tuple[
    str, tuple[ServiceInfo, ...], HealthStatus, str, str, str, str, str, tuple[str, ...]
]

_NodeDraft, _RecordDraft = draft_of(NodeInfo), draft_of(Record)

_STATUS_TO_WIRE = {
    NodeStatus.ALIVE: mesh_pb2.STATUS_ALIVE,
    NodeStatus.SUSPECTED: mesh_pb2.STATUS_SUSPECTED,
    NodeStatus.FAILED: mesh_pb2.STATUS_FAILED,
    NodeStatus.UNREACHABLE: mesh_pb2.STATUS_UNREACHABLE,
}
_STATUS_FROM_WIRE = {wire: status for status, wire in _STATUS_TO_WIRE.items()}

_OPINION_TO_WIRE = {
    Opinion.CLEAR: mesh_pb2.OPINION_CLEAR,
    Opinion.SUSPECT: mesh_pb2.OPINION_SUSPECT,
    Opinion.FAILED: mesh_pb2.OPINION_FAILED,
}
_OPINION_FROM_WIRE = {wire: opinion for opinion, wire in _OPINION_TO_WIRE.items()}


def encode_record(record: Record, *, context: str, mesh: str, trust_domain: str) -> bytes:
    """Serialises the bytes that are signed; done once in a record's life."""
    info = record.info
    body = mesh_pb2.RecordBody(
        context=context,
        mesh=mesh,
        trust_domain=trust_domain,
        id=record.id,
        stamp=record.stamp,
        instance=record.instance,
        expires_at=record.expires_at,
        removed=info is None,
        voucher=record.voucher or "",
    )
    if info is not None:
        body.name = info.name
        body.type = info.type
        body.address = info.address
        body.services.extend(
            mesh_pb2.Service(
                name=service.name,
                version=service.version,
                scope="" if service.scope == "mesh" else service.scope,
            )
            for service in info.services
        )
        body.joined_at = _to_ms(info.joined_at)
        body.updated_at = _to_ms(info.updated_at)
        body.health = info.health.value
        body.trust_bundle = info.trust_bundle
        body.region = info.region
        body.zone = info.zone
        body.boundary = info.boundary
        body.registry = info.registry
        body.silent_regions.extend(info.silent_regions)
    return body.SerializeToString(deterministic=True)


class DecodedRecord(NamedTuple):
    """A record that was parsed.

    Attributes:
        record: The record.
        scope: The context, the mesh and the trust domain that its bytes name.
        unshared: Values that other records may have too, for `share` once it is verified.
    """

    record: Record
    scope: tuple[str, str, str]
    unshared: list[Shareable]


def decode_record(
    signed: Signed, *, signer_id: str = "", signer: bytes | None = None
) -> DecodedRecord:
    """Parses a record's bytes.

    The record has the objects `signer_id` and `signer` in place of equal values of its own: each
    access to a protobuf field makes a new object, and a record is held for a day.

    Raises:
        InvalidRecordError: If the bytes are not a record.
    """
    unshared: list[Shareable] = []
    data, signature, their_signer = signed
    draft = _RecordDraft()
    try:
        body = mesh_pb2.RecordBody.FromString(data)
        node_id = body.id
        if node_id == signer_id:
            node_id = signer_id
        voucher = body.voucher or None
        if voucher is not None:
            voucher = shared(voucher, unshared)
        draft.info = None if body.removed else _info(body, node_id, voucher, unshared)
    except (DecodeError, ValueError, OverflowError) as error:
        raise InvalidRecordError("", f"its bytes cannot be read ({error})") from error
    draft.id = node_id
    draft.stamp = body.stamp
    draft.instance = body.instance
    draft.expires_at = body.expires_at
    draft.body = data
    draft.voucher = voucher
    draft.signature = signature
    draft.signer = their_signer if signer is None else signer
    draft.__class__ = Record
    return DecodedRecord(draft, (body.context, body.mesh, body.trust_domain), unshared)


def _info(
    body: mesh_pb2.RecordBody, node_id: str, voucher: str | None, unshared: list[Shareable]
) -> NodeInfo:
    silent_regions = body.silent_regions
    traits = (
        body.type,
        tuple([(service.name, service.version, service.scope) for service in body.services]),
        body.health,
        body.trust_bundle,
        body.region,
        body.zone,
        body.boundary,
        body.registry,
        tuple(silent_regions) if silent_regions else (),
    )
    # Most nodes have all of these in common with others: one lookup then finds what they mean.
    known: _Traits | None = find_shared(traits)
    if known is None:
        known = _decode_traits(traits, unshared)
        unshared.append((traits, known))
    name, joined_at, updated_at = body.name, body.joined_at, body.updated_at
    draft = _NodeDraft()
    draft.id = node_id
    draft.name = node_id if name == node_id or not name else name
    draft.address = body.address
    draft.joined_at = joined = _from_ms(joined_at)
    draft.updated_at = joined if updated_at == joined_at else _from_ms(updated_at)
    draft.status = NodeStatus.ALIVE
    draft.vouched_by = voucher
    (
        draft.type,
        draft.services,
        draft.health,
        draft.trust_bundle,
        draft.region,
        draft.zone,
        draft.boundary,
        draft.registry,
        draft.silent_regions,
    ) = known
    draft.__class__ = NodeInfo
    return draft  # type: ignore[no-any-return]  # it is one now


def _decode_traits(traits: _WireTraits, unshared: list[Shareable]) -> _Traits:
    kind, services, health, trust_bundle, region, zone, boundary, registry, silent = traits
    return (
        shared(kind, unshared),
        shared(tuple([_service(*service) for service in services]), unshared),
        _health(health),
        shared(trust_bundle, unshared),
        shared(region, unshared),
        shared(zone, unshared),
        shared(boundary, unshared),
        shared(registry, unshared),
        shared(silent, unshared),
    )


def encode_verdict(verdict: Verdict, *, context: str, mesh: str, trust_domain: str) -> bytes:
    """Serialises the bytes that an accuser signs."""
    body = mesh_pb2.VerdictBody(
        context=context,
        mesh=mesh,
        trust_domain=trust_domain,
        accuser=verdict.accuser,
        accuser_instance=verdict.accuser_instance,
        stamp=verdict.stamp,
        expires_at=verdict.expires_at,
        subject=verdict.subject,
        subject_instance=verdict.subject_instance,
        subject_stamp=verdict.subject_stamp,
        opinion=_OPINION_TO_WIRE[verdict.opinion],
        held=verdict.held,
    )
    return body.SerializeToString(deterministic=True)


def decode_verdict(data: bytes) -> tuple[Verdict, tuple[str, str, str]]:
    """Parses a verdict's bytes; also returns their context, mesh and trust domain.

    Raises:
        InvalidVerdictError: If the bytes are not a verdict.
    """
    try:
        body = mesh_pb2.VerdictBody.FromString(data)
    except DecodeError as error:
        raise InvalidVerdictError("", f"its bytes cannot be read ({error})") from error
    opinion = _OPINION_FROM_WIRE.get(body.opinion)
    if opinion is None:
        raise InvalidVerdictError("", f"{body.opinion} is not a known opinion")
    verdict = Verdict(
        accuser=body.accuser,
        accuser_instance=body.accuser_instance,
        stamp=body.stamp,
        expires_at=body.expires_at,
        subject=body.subject,
        subject_instance=body.subject_instance,
        subject_stamp=body.subject_stamp,
        opinion=opinion,
        held=body.held,
    )
    return verdict, (body.context, body.mesh, body.trust_domain)


def signed_to_wire(record: Record) -> mesh_pb2.SignedRecord:
    """Converts a record to its message, with exactly the bytes that were signed."""
    return mesh_pb2.SignedRecord(body=record.body, signature=record.signature, signer=record.signer)


def verdict_to_wire(signed: Signed) -> mesh_pb2.SignedVerdict:
    """Converts a verdict to its message, with exactly the bytes that were signed."""
    return mesh_pb2.SignedVerdict(
        body=signed.body, signature=signed.signature, signer=signed.signer
    )


def signed_from_wire(message: mesh_pb2.SignedRecord | mesh_pb2.SignedVerdict) -> Signed:
    """Converts the message of a record or a verdict; neither parses nor verifies it."""
    return Signed(message.body, message.signature, message.signer)


def status_to_wire(node_id: str, stamp: int, status: NodeStatus) -> mesh_pb2.DerivedStatus:
    """Converts the status that was derived from the verdicts on a node's record."""
    return mesh_pb2.DerivedStatus(id=node_id, stamp=stamp, status=_STATUS_TO_WIRE[status])


def status_from_wire(message: mesh_pb2.DerivedStatus) -> NodeStatus | None:
    """Returns a derived status; None for a status that only later versions know."""
    return _STATUS_FROM_WIRE.get(message.status)


def node_to_unsigned(info: NodeInfo) -> aegis_pb2.TopologyNode:
    """Converts a node for peers of the unsigned protocol."""
    return aegis_pb2.TopologyNode(
        id=info.id,
        name=info.name,
        type=info.type,
        address=info.address,
        joined_at=_to_ms(info.joined_at) // 1000,
        updated_at=_to_ms(info.updated_at) // 1000,
        services=[aegis_pb2.Service(name=s.name, version=s.version) for s in info.services],
    )


def nodes_from_unsigned(nodes: Iterable[aegis_pb2.TopologyNode]) -> tuple[NodeInfo, ...]:
    """Converts the nodes of an unsigned peer's response; times out of range count as unknown."""
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


def _service(name: str, version: str, scope: str) -> ServiceInfo:
    # A scope of a later version is at least as narrow as the one that we know.
    return ServiceInfo(name, version, "region" if scope else "mesh")


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
