"""Certificate requests: a key that never leaves its machine, and what its CA may be asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aegis_certs._ca.spec import CertificateSpec
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.identity import alternative_names, identity_of
from aegis_certs._x509.keys import (
    PrivateKey,
    PublicKey,
    check_public_key,
    encode_key,
    generate_key,
    signature_hash,
)
from aegis_certs._x509.names import CA_NAME, KeyType, validate_node_id
from aegis_certs._x509.pem import (
    KeyPair,
    encode_certificates,
    parse_certificates,
    parse_private_key,
    parse_request,
)
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs.errors import AlreadyExistsError, InvalidPemError, KeyMismatchError, NotFoundError

_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True)
class SignedCertificate:
    """What a CA made of a request.

    Attributes:
        node_id: Whom the certificate names.
        chain: The leaf, then the intermediates.
        dropped: What was asked for and not granted, in words.
    """

    node_id: str
    chain: tuple[x509.Certificate, ...]
    dropped: tuple[str, ...]

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf."""
        return self.chain[0]

    @property
    def pem(self) -> bytes:
        """The chain as one PEM text."""
        return encode_certificates(self.chain)


@dataclass(frozen=True)
class Request:
    """A certificate request that proved to have its key.

    Attributes:
        node_id: Whom its common name names.
        key: The public key.
        server: It is to serve.
        client: It is to call.
    """

    node_id: str
    key: PublicKey
    server: bool
    client: bool
    csr: x509.CertificateSigningRequest

    @classmethod
    def parse(cls, data: bytes, source: str | Path | None = None) -> Self:
        """Reads a request from PEM.

        Raises:
            InvalidPemError: It cannot be read, its key cannot be used, it does not prove to have
                the private key, or it names nobody.
            InvalidNodeIdError: It names something that cannot be a node id.
        """
        csr = parse_request(data, source=source)
        what = "certificate request"
        key = check_public_key(csr.public_key(), what, source)
        if not csr.is_signature_valid:
            reason = "its signature does not prove that the sender has the private key"
            raise InvalidPemError(what, reason, source)
        names = csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if len(names) != 1:
            reason = f"it has {len(names) or 'no'} common names, and needs one: the node id"
            raise InvalidPemError(what, reason, source)
        node_id = validate_node_id(str(names[0].value))
        usages = _extension(csr, x509.ExtendedKeyUsage)
        asked = _USAGES if usages is None else tuple(usages)
        if not set(asked) & set(_USAGES):
            raise InvalidPemError(what, "it asks for neither a server nor a client", source)
        return cls(node_id, key, _USAGES[0] in asked, _USAGES[1] in asked, csr)

    def dropped_by(self, leaf: x509.Certificate) -> tuple[str, ...]:
        """What it asks for and the certificate does not have, in words."""
        granted, asked = alternative_names(leaf), alternative_names(self.csr)
        found = [
            f"{attribute.rfc4514_attribute_name}={attribute.value!s} in the subject"
            for attribute in self.csr.subject
            if attribute.oid != NameOID.COMMON_NAME
        ]
        found += [f"DNS name {name}" for name in asked.dns if name not in granted.dns]
        found += [f"IP address {ip}" for ip in asked.ips if ip not in granted.ips]
        found += [f"URI {uri}" for uri in asked.uris if uri not in granted.uris]
        found += [
            f"{type(name).__name__} {name.value!s}"
            for name in _extension(self.csr, x509.SubjectAlternativeName) or ()
            if not isinstance(name, (x509.DNSName, x509.IPAddress, x509.UniformResourceIdentifier))
        ]
        for extension in self.csr.extensions:
            value = extension.value
            if isinstance(value, x509.SubjectAlternativeName):
                continue
            if isinstance(value, x509.ExtendedKeyUsage):
                has = _extension(leaf, x509.ExtendedKeyUsage) or ()
                found += [f"usage {_name(usage)}" for usage in value if usage not in has]
            elif _extension(leaf, type(value)) != value:
                found.append(f"extension {_name(extension.oid)}")
        return tuple(found)


def _extension(
    holder: x509.Certificate | x509.CertificateSigningRequest, kind: type[x509.ExtensionType]
) -> Any:
    try:
        return holder.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name(oid: x509.ObjectIdentifier) -> str:
    return str(getattr(oid, "_name", None) or oid.dotted_string)


def request_certificate(
    node_id: str,
    directory: str | Path = "./certs",
    *,
    hosts: Iterable[str] = (),
    address: str | None = None,
    key_type: KeyType = KeyType.RSA_2048,
    client_only: bool = False,
    server_only: bool = False,
) -> Path:
    """Makes a key that stays here, and a request for a certificate of it.

    The identity that the node has now stays in place until `install_certificate` gets the answer.
    The arguments are those of `CertificateAuthority.issue`.

    Returns:
        The file of the request, which is to be brought to the CA; there is no secret in it.

    Raises:
        InvalidNodeIdError: The node id cannot be one.
        InvalidRequestError: A host or the key type cannot be used.
        AlreadyExistsError: An earlier request is pending; its key would be lost.
        DirectoryError: The directory cannot be used.
    """
    order = CertificateSpec.of(
        node_id,
        hosts=hosts,
        address=address,
        key_type=key_type,
        client_only=client_only,
        server_only=server_only,
    )
    key = generate_key(order.key_type)
    request = _build(order, key).public_bytes(Encoding.PEM)
    store = Store(directory)
    path = store.request_path(node_id)
    with store.locked():
        if files.exists(key_path := store.request_key_path(node_id)):
            advice = (
                f"bring the answer to {path.name} with `aegis-certs install`, "
                f"or remove {key_path} to give that request up"
            )
            raise AlreadyExistsError(f"the key of a pending request of {node_id}", key_path, advice)
        files.remove(path)  # a request must never lie beside the key of another one
        files.write(key_path, encode_key(key), files.PRIVATE)
        files.write(path, request, files.PUBLIC)
    return path


def install_certificate(
    signed: bytes, directory: str | Path = "./certs", *, at: datetime | None = None
) -> TLSConfig:
    """Puts what a CA signed into place, with the key that was kept for it.

    Args:
        signed: The answer of the CA: the leaf, then the intermediates, in PEM.
        directory: Where the request was made; the trust bundle `ca-cert.pem` is there too.
        at: The moment of the check; now where none is given.

    Raises:
        InvalidPemError: It cannot be read.
        NotFoundError: There is no request of this node, or no trust bundle.
        KeyMismatchError: It is for another key than that of the last request.
        VerificationError: It does not verify against the trust bundle.
        DirectoryError: The directory cannot be used.
    """
    chain = parse_certificates(signed, "signed certificate")
    node_id = identity_of(chain[0]).node_id
    store = Store(directory)
    with store.locked():
        key_path = store.request_key_path(node_id)
        if (key := files.read(key_path)) is None:
            advice = f"make one with `aegis-certs csr {node_id}`, and have it signed"
            raise NotFoundError(f"request of {node_id}", store.request_path(node_id), advice)
        pair = KeyPair(chain, *parse_private_key(key, "private key", key_path))
        if not pair.matches:
            raise KeyMismatchError(node_id, "the signed certificate", key_path)
        if (bundle := store.chain(CA_NAME)) is None:
            advice = "copy it from the CA"
            raise NotFoundError("trust bundle", store.certificate_path(CA_NAME), advice)
        tls = make_tls(pair, bundle)
        tls.bundle.verify(chain, None, at=utc_or_now(at))
        store.commit(node_id, pair)
        files.remove(store.request_path(node_id))
        files.remove(key_path)
    return tls


def _build(order: CertificateSpec, key: PrivateKey) -> x509.CertificateSigningRequest:
    usages = [_USAGES[0]] * order.server + [_USAGES[1]] * order.client
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, order.node_id)])
    names: list[x509.GeneralName] = [x509.DNSName(order.node_id)]
    names += [
        x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name)
        for name in order.names
    ]
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(key, signature_hash(key))
    )
