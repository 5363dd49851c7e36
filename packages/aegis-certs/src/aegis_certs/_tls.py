"""One coherent snapshot of key, chain and trust bundle: what a TLS endpoint needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ._identity import Identity, identity_of
from ._pem import belongs, encode_certificates, parse_certificates, parse_private_key
from ._trust import TrustBundle
from .errors import CertsError, KeyMismatchError


@dataclass(frozen=True, repr=False)
class TLSConfig:
    """An identity and whom it trusts; all PEM. It never shows its key.

    Build it with `load_or_generate_tls`, `load_tls` or `CertificateAuthority.issue`, which check
    what they load. The parsed values are cached.

    Attributes:
        node_id: The node that the certificate names.
        certificate_chain: The leaf, then the intermediates.
        private_key: The leaf's key without a passphrase: PKCS#8, PKCS#1 or SEC1.
        trust_bundle: The CAs that peers are checked against, the issuing one first.
    """

    node_id: str
    certificate_chain: bytes
    private_key: bytes
    trust_bundle: bytes

    @cached_property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """The parsed chain, leaf first."""
        return parse_certificates(self.certificate_chain, "certificate chain")

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf."""
        return self.chain[0]

    @cached_property
    def bundle(self) -> TrustBundle:
        """The trust bundle, ready to verify peers."""
        return TrustBundle.from_pem(self.trust_bundle)

    @cached_property
    def identity(self) -> Identity:
        """Whom the leaf names."""
        return identity_of(self.certificate)

    @property
    def trust_domain(self) -> str | None:
        """The trust domain of the leaf; None where it carries no SPIFFE id."""
        return self.identity.trust_domain

    @property
    def not_after(self) -> datetime:
        """The end of the leaf (UTC)."""
        return self.certificate.not_valid_after_utc

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of the leaf in DER."""
        return self.certificate.fingerprint(hashes.SHA256())

    def __repr__(self) -> str:
        try:
            end = f"{self.not_after:%Y-%m-%dT%H:%M:%SZ}"
        except CertsError:
            end = "unreadable"
        return f"TLSConfig(node_id={self.node_id!r}, not_after={end})"


def make_tls(
    certificates: bytes,
    private_key: bytes,
    trust_bundle: bytes,
    *,
    sources: Iterable[str | Path] = ("the certificate", "the key", "the trust bundle"),
) -> TLSConfig:
    """Reads PEM texts into a `TLSConfig`, each reduced to the blocks that TLS needs.

    Args:
        certificates: The leaf, then the intermediates.
        private_key: The leaf's key.
        trust_bundle: The CAs to trust.
        sources: Where the three come from, for messages.

    Raises:
        InvalidPemError: One of them cannot be read.
        KeyMismatchError: The key is not the first certificate's.
        IdentityError: The leaf does not name one node.
    """
    of_chain, of_key, of_bundle = sources
    chain = parse_certificates(certificates, "certificate chain", of_chain)
    key, key_pem = parse_private_key(private_key, source=of_key)
    bundle = parse_certificates(trust_bundle, "trust bundle", of_bundle)
    node_id = identity_of(chain[0]).node_id
    if not belongs(key, chain[0]):
        raise KeyMismatchError(node_id, of_chain, of_key)
    return TLSConfig(node_id, encode_certificates(chain), key_pem, encode_certificates(bundle))
