"""The key with which the authority of a mesh signs its documents. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from aegis_certs._x509.keys import PrivateKey
from aegis_certs._x509.serialization import Encoding


@dataclass(frozen=True, repr=False)
class DocumentSigner:
    """The authority of a mesh, with its key. Its repr never shows the key.

    Attributes:
        certificate: Its certificate, which a root issued directly.
        key: Its private key.
        trust_domain: The trust domain of the mesh.
    """

    certificate: x509.Certificate
    key: PrivateKey
    trust_domain: str

    def __repr__(self) -> str:
        end = self.certificate.not_valid_after_utc
        return f"DocumentSigner({self.trust_domain!r}, not_after={end.isoformat()})"

    @property
    def not_after(self) -> datetime:
        """The end of its certificate (UTC)."""
        return self.certificate.not_valid_after_utc

    @property
    def der(self) -> bytes:
        """Its certificate in DER."""
        return self.certificate.public_bytes(Encoding.DER)

    def sign(self, data: bytes) -> bytes:
        """A signature with SHA-256: ECDSA, or RSA PKCS#1 v1.5."""
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return self.key.sign(data, ec.ECDSA(hashes.SHA256()))
        return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
