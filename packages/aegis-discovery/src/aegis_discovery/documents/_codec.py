"""Translates documents and their contents between bytes and dataclasses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aegis_certs import CertsError, IssuerAddress, TrustBundle, parse_worker_id
from google.protobuf.message import DecodeError

from aegis_discovery._runtime.addresses import split_address
from aegis_discovery.documents._document import (
    DocumentBody,
    DocumentKind,
    Forgotten,
    SignedDocument,
)
from aegis_discovery.errors import InvalidAddressError, InvalidDocumentError, PolicyError
from aegis_discovery.proto import mesh_pb2

if TYPE_CHECKING:
    from aegis_discovery.policy._rules import Policy

MAX_ENTRIES = 512
"""Entries of a list in a document."""

MAX_BUNDLE = 32
"""Certificates in a published trust bundle."""


def encode_body(body: DocumentBody) -> bytes:
    """Serialises the bytes that are signed."""
    return mesh_pb2.DocumentBody(**body._asdict()).SerializeToString(deterministic=True)


def decode_body(data: bytes) -> DocumentBody:
    """Parses the bytes that were signed.

    Raises:
        InvalidDocumentError: They are not a document.
    """
    try:
        body = mesh_pb2.DocumentBody.FromString(data)
    except DecodeError as error:
        raise InvalidDocumentError("", f"its bytes cannot be read ({error})") from error
    return DocumentBody(
        body.context, body.mesh, body.trust_domain, body.kind, body.sequence, body.content
    )


def document_to_wire(signed: SignedDocument) -> mesh_pb2.SignedDocument:
    """Converts a document to its message, with exactly the bytes that were signed."""
    signer = mesh_pb2.Chain(certificates=[signed.signer]) if signed.signer else None
    return mesh_pb2.SignedDocument(body=signed.body, signature=signed.signature, signer=signer)


def document_from_wire(message: mesh_pb2.SignedDocument) -> SignedDocument:
    """Converts the message of a document; neither parses nor verifies it."""
    chain = message.signer.certificates
    return SignedDocument(message.body, message.signature, chain[0] if chain else b"")


def encode_kept(signed: SignedDocument) -> bytes:
    """Serialises a document for a file."""
    return document_to_wire(signed).SerializeToString(deterministic=True)


def decode_kept(data: bytes) -> SignedDocument:
    """Reads what `encode_kept` returned; verifies nothing.

    Raises:
        InvalidDocumentError: It is damaged.
    """
    try:
        return document_from_wire(mesh_pb2.SignedDocument.FromString(data))
    except DecodeError as error:
        raise InvalidDocumentError("", f"its file is damaged ({error})") from error


def encode_bundle(bundle: TrustBundle) -> bytes:
    """The content of a trust bundle: the issuing CA in PEM, then the others in a fixed order.

    A process whose leaf is of another CA than the first knows that its CA was replaced.
    """
    issuing, *others = (TrustBundle([one]).pem for one in dict.fromkeys(bundle.certificates))
    return b"".join([issuing, *sorted(others)])


def encode_issuers(issuers: Iterable[IssuerAddress]) -> bytes:
    """The content of the list of issuers."""
    return _to_json({"id": one.node_id, "address": one.address} for one in sorted(issuers))


def encode_forgotten(lives: Iterable[Forgotten]) -> bytes:
    """The content of the list of forgotten lives."""
    return _to_json(
        {"id": one.node_id, "instance": one.instance, "until": one.until}
        for one in sorted(lives, key=lambda one: (one.node_id, one.instance))
    )


def decode_content(kind: DocumentKind, content: bytes) -> object:
    """Parses the content of a document that is not a CRL.

    Raises:
        InvalidDocumentError: It is malformed.
    """
    try:
        return _DECODERS[kind](content)
    except (CertsError, PolicyError, InvalidAddressError, ValueError, TypeError) as error:
        raise InvalidDocumentError(kind, f"its content cannot be used: {error}") from error


def _bundle(content: bytes) -> TrustBundle:
    bundle = TrustBundle.from_pem(content)
    if len(bundle.certificates) > MAX_BUNDLE:
        found = len(bundle.certificates)
        raise ValueError(f"it has {found} certificates, the limit is {MAX_BUNDLE}")
    return bundle


def _issuers(content: bytes) -> tuple[IssuerAddress, ...]:
    found = []
    for entry in _from_json(content):
        node_id, address = _text(entry, "id"), _text(entry, "address")
        parse_worker_id(node_id)
        split_address(address)
        found.append(IssuerAddress(node_id, address))
    return tuple(found)


def _policy(content: bytes) -> Policy:
    from aegis_discovery.policy._toml import parse_policy  # few meshes publish a policy

    return parse_policy(content.decode(), "the published policy")


def _forgotten(content: bytes) -> tuple[Forgotten, ...]:
    found = []
    for entry in _from_json(content):
        node_id, until = _text(entry, "id"), entry.get("until")
        parse_worker_id(node_id)
        if type(until) is not int or not 0 <= until < 2**63:
            raise ValueError("until is not a time")
        found.append(Forgotten(node_id, _text(entry, "instance"), until))
    return tuple(found)


_DECODERS = {
    DocumentKind.BUNDLE: _bundle,
    DocumentKind.ISSUERS: _issuers,
    DocumentKind.POLICY: _policy,
    DocumentKind.FORGET: _forgotten,
    DocumentKind.DRAIN: _forgotten,
}


def _to_json(entries: Iterable[dict[str, Any]]) -> bytes:
    import json  # loads slowly

    return json.dumps([*entries], separators=(",", ":")).encode()


def _from_json(content: bytes) -> list[dict[str, Any]]:
    import json  # loads slowly

    try:
        entries = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("it is not a list of objects")
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"it has {len(entries)} entries, the limit is {MAX_ENTRIES}")
    return entries


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise ValueError(f"{name} is not a text of 1 to 256 characters")
    return value
