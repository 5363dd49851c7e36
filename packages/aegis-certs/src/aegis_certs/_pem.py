"""Reading PEM: whatever the bytes are, the answer is a parsed value or an InvalidPemError."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from ._keys import PrivateKey, check_key
from .errors import InvalidPemError

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
Source = str | Path | None


def parse_certificates(
    data: bytes, what: str = "certificate", source: Source = None
) -> tuple[x509.Certificate, ...]:
    """All certificates of a PEM text, in its order; other blocks are passed over.

    Raises:
        InvalidPemError: There is none, or one of them cannot be read.
    """
    blocks = [m[0] for m in _BLOCK.finditer(data) if m[1] == b"CERTIFICATE"]
    if not blocks:
        raise InvalidPemError(what, "it has no certificate in PEM form", source)
    return tuple(_parse_certificate(block, what, source) for block in blocks)


def _parse_certificate(block: bytes, what: str, source: Source) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(block)
        # Parsing is lazy: touch what we read later, so that nothing fails there.
        certificate.public_key()
        _ = (certificate.subject, certificate.issuer, certificate.not_valid_after_utc)
        for extension in certificate.extensions:
            _ = extension.value
    except Exception as error:  # the parser's errors have no common root
        raise InvalidPemError(what, f"it is no certificate ({error})", source) from error
    return certificate


def parse_private_key(
    data: bytes, what: str = "private key", source: Source = None
) -> tuple[PrivateKey, bytes]:
    """The private key of a PEM text, parsed and as its own PEM block.

    PKCS#8, PKCS#1 (`RSA PRIVATE KEY`) and SEC1 (`EC PRIVATE KEY`), all without a passphrase.

    Raises:
        InvalidPemError: There is none, it is encrypted, or of a kind that gRPC refuses.
    """
    block = next((m for m in _BLOCK.finditer(data) if m[1].endswith(b"PRIVATE KEY")), None)
    if block is None:
        raise InvalidPemError(what, "it has no private key in PEM form", source)
    if b"ENCRYPTED" in block[0][:200]:
        raise InvalidPemError(what, "it is encrypted; decrypt it first", source)
    try:
        key = load_pem_private_key(block[0], password=None)
    except Exception as error:  # the parser's errors have no common root
        raise InvalidPemError(what, f"it is no private key ({error})", source) from error
    return check_key(key, what, source), block[0] + b"\n"


@dataclass(frozen=True, repr=False)
class Pair:
    """A chain and the key of its first certificate, parsed once: checking an RSA key is slow."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey
    key_pem: bytes

    @classmethod
    def parse(cls, chain: bytes, key: bytes, chain_source: Source, key_source: Source) -> Self:
        """Reads both from PEM; the sources are for messages.

        Raises:
            InvalidPemError: One of them cannot be read.
        """
        certificates = parse_certificates(chain, "certificate", chain_source)
        return cls(certificates, *parse_private_key(key, "private key", key_source))

    @property
    def fits(self) -> bool:
        """Tells whether the key is the first certificate's."""
        spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ours = self.key.public_key().public_bytes(*spki)
        return ours == self.chain[0].public_key().public_bytes(*spki)


def encode_certificates(certificates: Iterable[x509.Certificate]) -> bytes:
    """Certificates as one PEM text, in the given order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
