"""Certificate requests (CSRs): the key never leaves its machine, and the CA signs the request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aegis_certs._ca.spec import CertificateSpec
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.extensions import extension_of
from aegis_certs._x509.identity import alternative_names, general_names, identity_of
from aegis_certs._x509.keys import (
    PrivateKey,
    PublicKey,
    check_public_key,
    encode_key,
    generate_key,
    signature_hash,
)
from aegis_certs._x509.names import CA_NAME, LEAF_KEY_TYPE, KeyType, validate_node_id
from aegis_certs._x509.pem import (
    KeyPair,
    encode_certificates,
    parse_certificates,
    parse_private_key,
    parse_request,
)
from aegis_certs._x509.serialization import Encoding
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs.errors import AlreadyExistsError, InvalidPemError, KeyMismatchError, NotFoundError

_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True)
class SignedCertificate:
    """The certificate that a CA issued for a request.

    Attributes:
        node_id: The node that the certificate names.
        chain: The leaf, then the intermediates.
        dropped: Descriptions of what the request asked for and the CA did not grant.
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
    """A certificate request whose signature proves that its sender has the private key.

    Attributes:
        node_id: The node id in its common name.
        key: The public key.
        server: Whether it asks for use as a server.
        client: Whether it asks for use as a client.
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
            InvalidPemError: The request cannot be read, its key cannot be used, its signature is
                invalid, or it has no node id.
            InvalidNodeIdError: Its node id is invalid.
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
        usages = extension_of(csr, x509.ExtendedKeyUsage)
        asked = _USAGES if usages is None else tuple(usages)
        if not set(asked) & set(_USAGES):
            raise InvalidPemError(what, "it asks for neither a server nor a client", source)
        return cls(node_id, key, _USAGES[0] in asked, _USAGES[1] in asked, csr)

    def dropped_by(self, leaf: x509.Certificate) -> tuple[str, ...]:
        """Descriptions of what the request asks for and the certificate does not have."""
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
            for name in extension_of(self.csr, x509.SubjectAlternativeName) or ()
            if not isinstance(name, (x509.DNSName, x509.IPAddress, x509.UniformResourceIdentifier))
        ]
        for extension in self.csr.extensions:
            value = extension.value
            if isinstance(value, x509.SubjectAlternativeName):
                continue
            if isinstance(value, x509.ExtendedKeyUsage):
                has = extension_of(leaf, x509.ExtendedKeyUsage) or ()
                found += [f"usage {_name(usage)}" for usage in value if usage not in has]
            elif extension_of(leaf, type(value)) != value:
                found.append(f"extension {_name(extension.oid)}")
        return tuple(found)


def _name(oid: x509.ObjectIdentifier) -> str:
    return str(getattr(oid, "_name", None) or oid.dotted_string)


def request_certificate(
    node_id: str,
    directory: str | Path = "./certs",
    *,
    hosts: Iterable[str] = (),
    address: str | None = None,
    key_type: KeyType = LEAF_KEY_TYPE,
    client_only: bool = False,
    server_only: bool = False,
) -> Path:
    """Creates a key that stays in the directory, and a request for a certificate for it.

    The node keeps its current identity until `install_certificate` installs the new one. The
    arguments are those of `CertificateAuthority.issue`.

    Returns:
        The file of the request. Copy it to the CA; it contains no secret.

    Raises:
        InvalidNodeIdError: The node id is invalid.
        InvalidRequestError: A host or the key type is invalid.
        AlreadyExistsError: An earlier request is pending; its key would be lost.
        DirectoryError: The directory cannot be used.
    """
    spec = CertificateSpec.parse(
        node_id,
        hosts=hosts,
        address=address,
        key_type=key_type,
        client_only=client_only,
        server_only=server_only,
    )
    key = generate_key(spec.key_type)
    request = _build(spec, key).public_bytes(Encoding.PEM)
    store = Store(directory)
    path = store.request_path(node_id)
    with store.locked():
        if files.exists(key_path := store.request_key_path(node_id)):
            advice = (
                f"install the certificate for {path.name} with `aegis-certs install`, "
                f"or remove {key_path} to cancel that request"
            )
            raise AlreadyExistsError(f"the key of a pending request of {node_id}", key_path, advice)
        files.remove(path)  # a request must never be left with the key of another one
        files.write(key_path, encode_key(key), files.PRIVATE)
        files.write(path, request, files.PUBLIC)
    return path


def install_certificate(
    signed: bytes, directory: str | Path = "./certs", *, at: datetime | None = None
) -> TLSConfig:
    """Installs a signed certificate together with the key of its request.

    Args:
        signed: The answer of the CA: the leaf, then the intermediates, in PEM.
        directory: The directory of the request; it also has the trust bundle `ca-cert.pem`.
        at: The time of the check; now by default.

    Raises:
        InvalidPemError: The certificate cannot be read.
        NotFoundError: There is no request of this node, or no trust bundle.
        KeyMismatchError: The certificate is not for the key of the last request.
        VerificationError: The trust bundle does not verify the certificate.
        DirectoryError: The directory cannot be used.
    """
    chain = parse_certificates(signed, "signed certificate")
    node_id = identity_of(chain[0]).node_id
    store = Store(directory)
    with store.locked():
        key_path = store.request_key_path(node_id)
        if (key := files.read(key_path)) is None:
            advice = f"create one with `aegis-certs csr {node_id}`, and let the CA sign it"
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


def _build(spec: CertificateSpec, key: PrivateKey) -> x509.CertificateSigningRequest:
    usages = [_USAGES[0]] * spec.server + [_USAGES[1]] * spec.client
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spec.node_id)])
    names = general_names((spec.node_id, *spec.names))
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(key, signature_hash(key))
    )
