"""An identity that an issuer of the mesh is asked for, and the check of its answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from aegis_certs._identity.enrolment import (
    MAX_CHAIN,
    EnrolmentRequest,
    install_identity,
    new_enrolment_key_and_csr,
)
from aegis_certs._store import files
from aegis_certs._time import utc_or_now
from aegis_certs._x509.names import KeyType
from aegis_certs._x509.pem import KeyPair, parse_der_certificates, parse_private_key
from aegis_certs._x509.serialization import Encoding
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs._x509.trust import USAGES, TrustBundle, allows
from aegis_certs.errors import (
    DirectoryError,
    IdentityError,
    KeyMismatchError,
    UntrustedError,
    UsageError,
)

logger = logging.getLogger("aegis_certs")


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
    """A request to an issuer, whose answer may be a lie.

    Attributes:
        request: The key, and the request for its certificate.
    """

    def __init__(
        self, expected: ExpectedIdentity, request: EnrolmentRequest, directory: Path | None
    ) -> None:
        self._expected = expected
        self._directory = directory
        self.request = request

    def __repr__(self) -> str:
        where = "memory" if self._directory is None else str(self._directory)
        return f"<RequestedIdentity {self._expected.node_id} in {where}>"

    @property
    def csr(self) -> bytes:
        """The request, PKCS#10 in DER."""
        return self.request.csr

    def verify(self, chain: Sequence[bytes], *, at: datetime | None = None) -> KeyPair:
        """Checks an issuer's answer.

        Args:
            chain: The certificates in DER, leaf first.
            at: The time of the check; now by default.

        Raises:
            InvalidPemError: A certificate cannot be read.
            VerificationError: It is for another key or node, has fewer usages than its
                predecessor, is not valid now, or does not chain to a known CA.
        """
        expected = self._expected
        if not 0 < len(chain) <= MAX_CHAIN:
            raise UntrustedError(expected.node_id, f"the answer has {len(chain)} certificates")
        certificates = parse_der_certificates(chain, "answer of the issuer")
        pair = KeyPair(certificates, *parse_private_key(self.request.key_pem))
        path = expected.bundle.path_of(certificates) or certificates[:1]
        identity = expected.bundle.verify(
            path, None, at=utc_or_now(at), trust_domain=expected.trust_domain
        )
        if identity.node_id != expected.node_id:
            reason = f"the certificate is that of {identity.node_id}, not of {expected.node_id}"
            raise IdentityError(reason, identity.node_id)
        if not pair.matches:
            raise KeyMismatchError(expected.node_id, "the answer of the issuer", "the request")
        if expected.predecessor is not None:
            for usage in USAGES:
                if allows(expected.predecessor, usage) and not allows(pair.chain[0], usage):
                    raise UsageError(expected.node_id, usage)
        return pair

    @property
    def is_in_memory(self) -> bool:
        """Whether the key is in memory only."""
        return self._directory is None

    def install(self, pair: KeyPair, *, must_write: bool = False) -> TLSConfig:
        """Installs a verified answer in the directory; if that is impossible, only returns it.

        Raises:
            DirectoryError: With `must_write`, it could not be written. The key is still there, so
                the same request gets the same answer again.
        """
        expected = self._expected
        if self._directory is not None:
            try:
                return install_identity(
                    self._directory,
                    expected.node_id,
                    pair.key_pem,
                    [one.public_bytes(Encoding.DER) for one in pair.chain],
                    expected.bundle,
                )
            except DirectoryError as error:
                if must_write:
                    raise
                logger.warning(
                    "%s has its new certificate in memory only, and will lose it when it ends: %s",
                    expected.node_id,
                    error,
                )
        return make_tls(pair, expected.bundle.certificates)


@contextmanager
def requesting(
    expected: ExpectedIdentity,
    directory: str | Path | None,
    *,
    key_type: KeyType,
    earlier: EnrolmentRequest | None = None,
    timeout: float = 0,
) -> Iterator[RequestedIdentity]:
    """Yields a request, while no other process makes one for this identity and directory.

    Args:
        expected: What the certificate must be.
        directory: Where key and certificate are kept; None keeps them in memory.
        key_type: The type of a new key.
        earlier: A request in memory, whose key is used again.
        timeout: Seconds to wait for another process.

    Raises:
        LockTimeoutError: Another process makes a request.
        DirectoryError: The directory cannot be written.
    """
    node_id = expected.node_id
    if directory is None:
        request = earlier or new_enrolment_key_and_csr(node_id, key_type=key_type)
        yield RequestedIdentity(expected, request, None)
        return
    directory = Path(directory)
    with files.held(directory, f".{node_id}.request", timeout):
        request = new_enrolment_key_and_csr(node_id, directory, key_type=key_type)
        yield RequestedIdentity(expected, request, directory)


def expected_after(current: TLSConfig) -> ExpectedIdentity:
    """What the successor of an identity must be."""
    return ExpectedIdentity(
        current.node_id, current.bundle, current.trust_domain, current.certificate
    )
