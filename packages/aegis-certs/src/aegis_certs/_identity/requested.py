"""An identity that an issuer of the mesh is asked for: its key, its request, and its installation.

The key is created where it will be used, and written before it is first sent. So after a lost
answer, or a crash, the same key asks again: an issuer answers one key, and refuses a second one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.keys import PrivateKey, encode_key, generate_key, signature_hash
from aegis_certs._x509.names import CA_NAME, KeyType
from aegis_certs._x509.pem import KeyPair, parse_private_key
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs._x509.trust import TrustBundle, allows
from aegis_certs.errors import (
    CertsError,
    DirectoryError,
    IdentityError,
    InvalidPemError,
    KeyMismatchError,
    UsageError,
    VerificationError,
)

logger = logging.getLogger("aegis_certs")

_MAX_CHAIN = 8
_MAX_CERTIFICATE = 16 << 10  # bytes


@dataclass(frozen=True)
class ExpectedIdentity:
    """What an issued certificate must be.

    Attributes:
        node_id: Whose it is.
        bundle: The CAs that it must chain to.
        trust_domain: Its trust domain; None accepts that of its CA.
        predecessor: The certificate that it replaces, whose usages it must have.
    """

    node_id: str
    bundle: TrustBundle
    trust_domain: str | None = None
    predecessor: x509.Certificate | None = None


class RequestedIdentity:
    """A key and the request for its certificate.

    Attributes:
        key: The new key.
        csr: The request, PKCS#10 in DER.
    """

    def __init__(self, expected: ExpectedIdentity, key: PrivateKey, store: Store | None) -> None:
        self._expected = expected
        self.key = key
        self._store = store
        self.csr = _build(expected.node_id, key)

    def __repr__(self) -> str:
        where = "memory" if self._store is None else str(self._store.directory)
        return f"<RequestedIdentity {self._expected.node_id} in {where}>"

    def verify(self, chain: Sequence[bytes], *, at: datetime | None = None) -> KeyPair:
        """Checks an issuer's answer, which may be a lie.

        Args:
            chain: The certificates in DER, leaf first.
            at: The time of the check; now by default.

        Raises:
            InvalidPemError: A certificate cannot be read.
            VerificationError: It is for another key or node, has fewer usages than its
                predecessor, is not valid now, or does not chain to a known CA.
        """
        expected = self._expected
        pair = KeyPair(_parse_chain(chain), self.key, encode_key(self.key))
        identity = expected.bundle.verify(
            pair.chain, None, at=utc_or_now(at), trust_domain=expected.trust_domain
        )
        if identity.node_id != expected.node_id:
            reason = f"the certificate is that of {identity.node_id}, not of {expected.node_id}"
            raise IdentityError(reason, identity.node_id)
        if not pair.matches:
            raise KeyMismatchError(expected.node_id, "the issued certificate", "the new key")
        if expected.predecessor is not None:
            for usage in ("server", "client"):
                if allows(expected.predecessor, usage) and not allows(pair.chain[0], usage):
                    raise UsageError(expected.node_id, usage)
        return pair

    def install(self, pair: KeyPair) -> TLSConfig:
        """Installs a verified answer in the directory; if that is impossible, only returns it."""
        store, expected = self._store, self._expected
        tls = make_tls(pair, expected.bundle.certificates)
        if store is None:
            return tls
        try:
            with store.locked():
                known = store.chain(CA_NAME)
                if known is None or not _trusts(TrustBundle(known), pair):
                    pem = expected.bundle.pem
                    files.write(store.certificate_path(CA_NAME), pem, files.PUBLIC)
                else:
                    tls = make_tls(pair, known)
                store.commit(expected.node_id, pair)
                files.remove(store.new_key_path(expected.node_id))
        except DirectoryError as error:
            logger.warning(
                "%s keeps its new certificate in memory only; a restart needs a new token unless "
                "it is written: %s",
                expected.node_id,
                error,
            )
        return tls


@contextmanager
def requesting(
    expected: ExpectedIdentity,
    directory: str | Path | None,
    *,
    key_type: KeyType,
    key: PrivateKey | None = None,
    timeout: float = 0,
) -> Iterator[RequestedIdentity]:
    """Yields a request, while no other process makes one for this directory.

    A directory that cannot be written is a warning, and the key stays in memory.

    Args:
        expected: What the certificate must be.
        directory: Where key and certificate are kept; None keeps them in memory.
        key_type: The type of a new key.
        key: A key in memory that has asked before.
        timeout: Seconds to wait for another process.

    Raises:
        LockTimeoutError: Another process makes a request.
        CertsError: The pending key cannot be read.
    """
    if directory is None:
        yield RequestedIdentity(expected, key or generate_key(key_type), None)
        return
    store = Store(directory)
    with files.held(store.directory, f".{expected.node_id}.request", timeout):
        yield RequestedIdentity(expected, _key_in(store, expected, key_type), store)


def expected_after(current: TLSConfig) -> ExpectedIdentity:
    """What the successor of an identity must be."""
    return ExpectedIdentity(
        current.node_id, current.bundle, current.trust_domain, current.certificate
    )


def _key_in(store: Store, expected: ExpectedIdentity, key_type: KeyType) -> PrivateKey:
    path = store.new_key_path(expected.node_id)
    with store.locked():
        found = files.read(path)
        if found is not None:
            try:
                key = parse_private_key(found, "private key", path)[0]
            except CertsError:
                logger.warning("%s cannot be read; another key is created", path)
            else:
                old = expected.predecessor
                if old is None or old.public_key() != key.public_key():
                    return key
        key = generate_key(key_type)
        files.write(path, encode_key(key), files.PRIVATE)
    return key


def _trusts(bundle: TrustBundle, pair: KeyPair) -> bool:
    try:
        bundle.verify(pair.chain, None)
    except VerificationError:
        return False
    return True


def _build(node_id: str, key: PrivateKey) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, signature_hash(key)).public_bytes(Encoding.DER)


def _parse_chain(chain: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    what = "issued certificate"
    if not 0 < len(chain) <= _MAX_CHAIN or any(len(der) > _MAX_CERTIFICATE for der in chain):
        raise InvalidPemError(what, f"{len(chain)} certificates, or their sizes, cannot be right")
    try:
        found = [x509.load_der_x509_certificate(der) for der in chain]
        # Parsing is lazy: what is read later must not fail there.
        for certificate in found:
            certificate.public_key()
            _ = [extension.value for extension in certificate.extensions]
    except Exception as error:  # the parser's errors have no common root
        raise InvalidPemError(what, f"it cannot be read ({error})") from error
    return tuple(found)
