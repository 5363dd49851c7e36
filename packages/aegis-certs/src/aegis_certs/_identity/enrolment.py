"""The machine that enrols or renews: its key, its request, and the installation of the answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.keys import (
    PrivateKey,
    encode_key,
    encode_public_key,
    generate_key,
    signature_hash,
)
from aegis_certs._x509.names import CA_NAME, LEAF_KEY_TYPE, KeyType, validate_node_id
from aegis_certs._x509.pem import (
    KeyPair,
    encode_certificates,
    parse_der_certificates,
    parse_private_key,
)
from aegis_certs._x509.serialization import Encoding
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs._x509.trust import TrustBundle
from aegis_certs.errors import CertsError, IdentityError, KeyMismatchError, UntrustedError

logger = logging.getLogger("aegis_certs")

MAX_CHAIN = 16
"""Certificates in the answer of an issuer at most."""


@dataclass(frozen=True, repr=False)
class EnrolmentRequest:
    """A key, and the request for a certificate for it. Its repr shows no key.

    Attributes:
        key_pem: The private key in PEM, which never leaves this machine.
        csr: The certificate signing request in DER, for an issuer.
    """

    key_pem: bytes
    csr: bytes

    def __repr__(self) -> str:
        return f"EnrolmentRequest(csr={len(self.csr)} bytes)"


def new_enrolment_key_and_csr(
    node_id: str, directory: str | Path | None = None, *, key_type: KeyType = LEAF_KEY_TYPE
) -> EnrolmentRequest:
    """Creates a key and a request, to enrol or to renew.

    An issuer answers one key only, so the key must survive a lost answer and a crash. In a
    directory it is kept in `{id}_csr-key.pem` until `install_identity`, and a later request uses
    it again, whatever its type. The key of the identity that is there now is never used again.

    Args:
        node_id: The node.
        directory: The certificate directory, which is created if it is missing. None keeps the key
            in memory only: then the caller must ask again with the same request.
        key_type: The type of a new key.

    Raises:
        InvalidNodeIdError: The node id is invalid.
        DirectoryError: The directory cannot be written.
    """
    validate_node_id(node_id)
    if directory is None:
        return _request(node_id, generate_key(KeyType(key_type)))
    store = Store(directory)
    with store.locked():
        key = _pending_key(store, node_id)
        if key is None:
            key = generate_key(KeyType(key_type))
            files.remove(store.request_path(node_id))  # a request belongs to the key beside it
            files.write(store.request_key_path(node_id), encode_key(key), files.PRIVATE)
    return _request(node_id, key)


def install_identity(
    directory: str | Path,
    node_id: str,
    key_pem: bytes,
    chain: Sequence[bytes],
    bundle: TrustBundle | None = None,
    *,
    at: datetime | None = None,
) -> TLSConfig:
    """Installs the answer of an issuer; a reader sees the old identity or the new one.

    A directory that is missing is created, for its owner alone. The trust bundle in a directory is
    kept if it verifies the chain. Otherwise it becomes `bundle`, if that has all its CAs that have
    not expired, and the key of a CA is not there. So no root that is trusted now is lost here.

    Args:
        directory: The certificate directory of the node.
        node_id: The node.
        key_pem: The key of the request.
        chain: The leaf, then the intermediates, each in DER.
        bundle: The CAs that the caller has verified: those of its token, or of a document that its
            present bundle verified. Never give what an issuer sent and nobody verified.
        at: The current time; now by default.

    Raises:
        InvalidPemError: The chain or the key cannot be read.
        KeyMismatchError: The leaf is not for this key.
        VerificationError: The chain does not lead to the CAs, or names another node. Nothing has
            changed, and the key of the request is still there.
        DirectoryError: The directory cannot be written.
    """
    if not 0 < len(chain) <= MAX_CHAIN:
        reason = f"the answer has {len(chain)} certificates, and 1 to {MAX_CHAIN} are possible"
        raise UntrustedError(validate_node_id(node_id), reason)
    certificates = parse_der_certificates(chain, "answer of the issuer")
    pair = KeyPair(certificates, *parse_private_key(key_pem))
    if not pair.matches:
        raise KeyMismatchError(node_id, "the answer of the issuer", "the request")
    store, now = Store(directory), utc_or_now(at)
    with store.locked():
        held = store.chain(CA_NAME)
        chosen = _choose(store, held, bundle, certificates, now)
        proved = chosen.verify(_path(chosen, certificates), None, at=now).node_id
        if proved != node_id:
            raise IdentityError(f"the certificate is that of {proved}, not of {node_id}", proved)
        if chosen.certificates != held:
            pem = encode_certificates(chosen.certificates)
            files.write(store.certificate_path(CA_NAME), pem, files.PUBLIC)
        store.commit(node_id, pair)
        if _is_for(store, node_id, pair.key):
            files.remove(store.request_path(node_id))
            files.remove(store.request_key_path(node_id))
    return make_tls(pair, chosen.certificates)


def _request(node_id: str, key: PrivateKey) -> EnrolmentRequest:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, signature_hash(key))
    return EnrolmentRequest(encode_key(key), csr.public_bytes(Encoding.DER))


def _pending_key(store: Store, node_id: str) -> PrivateKey | None:
    """The key of a request whose answer is not installed; None if there is none that is usable."""
    path = store.request_key_path(node_id)
    if (data := files.read(path)) is None:
        return None
    try:
        key, _ = parse_private_key(data, "private key", path)
    except CertsError as error:
        logger.warning("a new key for %s is made: %s", node_id, error)
        return None
    try:
        current = store.pair(node_id)
    except CertsError:
        return key  # the identity is damaged, and the new one will replace it
    if current is not None and _same(current.key, key):
        return None  # a crash came after the installation
    return key


def _is_for(store: Store, node_id: str, key: PrivateKey) -> bool:
    data = files.read(store.request_key_path(node_id))
    if data is None:
        return False
    try:
        return _same(parse_private_key(data)[0], key)
    except CertsError:
        return False


def _same(one: PrivateKey, other: PrivateKey) -> bool:
    return encode_public_key(one.public_key()) == encode_public_key(other.public_key())


def _choose(
    store: Store,
    held: tuple[x509.Certificate, ...] | None,
    given: TrustBundle | None,
    chain: Sequence[x509.Certificate],
    at: datetime,
) -> TrustBundle:
    """The bundle that the directory will have."""
    if held is None:
        if given is None:
            raise UntrustedError("the answer of the issuer", "there is no trust bundle to check it")
        return given
    present = TrustBundle(held)
    if given is None or _verifies(present, chain, at) or store.has_key(CA_NAME):
        return present
    lost = [ca for ca in held if at <= ca.not_valid_after_utc and ca not in given.certificates]
    return present if lost else given


def _verifies(bundle: TrustBundle, chain: Sequence[x509.Certificate], at: datetime) -> bool:
    try:
        bundle.verify(_path(bundle, chain), None, at=at)
    except CertsError:
        return False
    return True


def _path(bundle: TrustBundle, chain: Sequence[x509.Certificate]) -> Sequence[x509.Certificate]:
    """The part of a chain that a verifier needs: it would try every path through the others."""
    return bundle.path_of(chain) or chain[:1]
