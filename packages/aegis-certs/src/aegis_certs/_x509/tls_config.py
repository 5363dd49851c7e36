"""One consistent set of key, chain and trust bundle: what a TLS endpoint needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from aegis_certs._time import isoformat
from aegis_certs._x509.identity import Identity, identity_of
from aegis_certs._x509.keys import PrivateKey
from aegis_certs._x509.pem import (
    KeyPair,
    encode_certificates,
    parse_certificates,
    parse_private_key,
)
from aegis_certs._x509.serialization import Encoding
from aegis_certs._x509.trust import USAGES, TrustBundle, Usage, allows
from aegis_certs.errors import CertsError


@dataclass(frozen=True, repr=False)
class TLSConfig:
    """An identity and the CAs that it trusts, all in PEM. Its repr never shows the key.

    Build it with `load_or_generate_tls`, `load_tls` or `CertificateAuthority.issue`, which check
    what they load. The parsed values are cached.

    Attributes:
        node_id: The node that the certificate names.
        certificate_chain: The leaf, then the intermediates.
        private_key: The leaf's key without a passphrase: PKCS#8, PKCS#1 or SEC1.
        trust_bundle: The CAs that peers are checked against, the issuing CA first.
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
    def encoded_chain(self) -> tuple[bytes, ...]:
        """The chain as DER, leaf first."""
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in self.chain)

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf."""
        return self.chain[0]

    @cached_property
    def key(self) -> PrivateKey:
        """The parsed private key."""
        return parse_private_key(self.private_key)[0]

    @cached_property
    def bundle(self) -> TrustBundle:
        """The parsed trust bundle."""
        return TrustBundle.from_pem(self.trust_bundle)

    @cached_property
    def identity(self) -> Identity:
        """The node that the leaf names."""
        return identity_of(self.certificate)

    @property
    def trust_domain(self) -> str | None:
        """The trust domain of the leaf; None if it has no SPIFFE id."""
        return self.identity.trust_domain

    @property
    def not_after(self) -> datetime:
        """The end of the leaf (UTC)."""
        return self.certificate.not_valid_after_utc

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of the leaf in DER."""
        return self.certificate.fingerprint(hashes.SHA256())

    @cached_property
    def usages(self) -> frozenset[Usage]:
        """What the leaf allows: `server` (to serve), `client` (to call), or both."""
        return frozenset(usage for usage in USAGES if allows(self.certificate, usage))

    @cached_property
    def bundle_fingerprint(self) -> str:
        """The fingerprint of the trust bundle; see `TrustBundle.fingerprint`."""
        return self.bundle.fingerprint

    def __repr__(self) -> str:
        try:
            end = isoformat(self.not_after)
        except CertsError:
            end = "unreadable"
        return f"TLSConfig(node_id={self.node_id!r}, not_after={end})"


def make_tls(pair: KeyPair, trust_bundle: Iterable[x509.Certificate]) -> TLSConfig:
    """The `TLSConfig` of a key pair, reduced to the PEM blocks that TLS needs."""
    return TLSConfig(
        identity_of(pair.chain[0]).node_id,
        encode_certificates(pair.chain),
        pair.key_pem,
        encode_certificates(trust_bundle),
    )
