"""Translates what a registry holds between bytes and dataclasses; verifies nothing."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from aegis_discovery.documents._codec import encode_kept
from aegis_discovery.documents._document import (
    MAX_BODY_OVERHEAD,
    MAX_CRL,
    MAX_SIGNATURE,
    MAX_SIGNER,
    SignedDocument,
)
from aegis_discovery.errors import InvalidRecordError, InvalidVerdictError
from aegis_discovery.feed._parts import MessagePart
from aegis_discovery.proto import mesh_pb2, registry_pb2
from aegis_discovery.records._codec import (
    decode_record,
    decode_verdict,
    signed_from_wire,
    signed_to_wire,
    verdict_to_wire,
)
from aegis_discovery.records._record import MAX_RECORD, Record, Signed
from aegis_discovery.records._verifier import MAX_CHAIN_BYTES
from aegis_discovery.registry._keys import DOCUMENTS, NODES, Key

MAX_ENTRY = MAX_CHAIN_BYTES + MAX_RECORD + 2048
"""Bytes of the value of a node or a verdict: a chain, what it signed, and the signature."""

MAX_DOCUMENT = MAX_CRL + MAX_BODY_OVERHEAD + MAX_SIGNER + MAX_SIGNATURE + 1024
"""Bytes of the value of a document."""


class InvalidEntryError(Exception):
    """A value of a registry is not what its key says."""


def encode_record_entry(record: Record, chain: Sequence[bytes]) -> bytes:
    """Serialises a node's record for its key."""
    return registry_pb2.RegistryEntry(
        chain=mesh_pb2.Chain(certificates=chain), record=signed_to_wire(record)
    ).SerializeToString(deterministic=True)


def encode_verdict_entry(verdict: Signed, chain: Sequence[bytes]) -> bytes:
    """Serialises a verdict for its key."""
    return registry_pb2.RegistryEntry(
        chain=mesh_pb2.Chain(certificates=chain), verdict=verdict_to_wire(verdict)
    ).SerializeToString(deterministic=True)


def encode_document(signed: SignedDocument) -> bytes:
    """Serialises a document for its key."""
    return encode_kept(signed)


def add_to_message(message: MessagePart, key: Key, value: bytes) -> Record | None:
    """Adds what a key holds to a message of a feed; returns the record of a node, not verified.

    Raises:
        InvalidEntryError: The value is too large, or is not what its key says.
    """
    limit = MAX_DOCUMENT if key.folder == DOCUMENTS else MAX_ENTRY
    if len(value) > limit:
        raise InvalidEntryError(f"it has {len(value)} bytes, the limit is {limit}")
    try:
        if key.folder == DOCUMENTS:
            message.documents.append(mesh_pb2.SignedDocument.FromString(value))
            return None
        entry = registry_pb2.RegistryEntry.FromString(value)
        found: Record | None = None
        if key.folder == NODES:
            found = decode_record(signed_from_wire(entry.record)).record
            if found.voucher is not None:
                raise InvalidEntryError("a node publishes only itself in a registry")
            names: tuple[str, ...] = (found.id,)
        else:
            verdict, _ = decode_verdict(entry.verdict.body)
            names = verdict.subject, verdict.accuser
    except (DecodeError, InvalidRecordError, InvalidVerdictError) as error:
        raise InvalidEntryError(f"its value cannot be read: {error}") from error
    if names != key.names:
        raise InvalidEntryError("its value is of another node")
    message.chains.append(entry.chain)
    if found is None:
        message.verdicts.append(entry.verdict)
    else:
        message.records.append(entry.record)
    return found
