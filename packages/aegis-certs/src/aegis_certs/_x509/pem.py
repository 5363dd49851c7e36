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

from aegis_certs._x509.keys import PrivateKey, check_key
from aegis_certs.errors import InvalidPemError, PassphraseError

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
Source = str | Path | None
_COPY = "get a new copy of it"

_ENCRYPTED = (
    "it is encrypted, and no passphrase was given; a CA's may be in AEGIS_CA_PASSPHRASE, and a "
    "node's key must have none"
)


def parse_certificates(
    data: bytes, what: str = "certificate", source: Source = None
) -> tuple[x509.Certificate, ...]:
    """All certificates of a PEM text, in its order; other blocks are passed over.

    Raises:
        InvalidPemError: There is none, or one of them cannot be read.
    """
    blocks = [m[0] for m in _BLOCK.finditer(data) if m[1] == b"CERTIFICATE"]
    if not blocks:
        raise InvalidPemError(what, f"it has no certificate in PEM form; {_COPY}", source)
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
        raise InvalidPemError(what, f"it is no certificate ({error}); {_COPY}", source) from error
    return certificate


def private_key_block(data: bytes, what: str = "private key", source: Source = None) -> bytes:
    """The first private key of a PEM text as a block of its own, not parsed.

    Raises:
        InvalidPemError: There is none.
    """
    block = next((m[0] for m in _BLOCK.finditer(data) if m[1].endswith(b"PRIVATE KEY")), None)
    if block is None:
        raise InvalidPemError(what, f"it has no private key in PEM form; {_COPY}", source)
    return block + b"\n"


def is_encrypted(key: bytes) -> bool:
    """Tells whether a private key's PEM block needs a passphrase."""
    return b"ENCRYPTED" in key[:200]


def parse_private_key(
    data: bytes,
    what: str = "private key",
    source: Source = None,
    passphrase: bytes | None = None,
) -> tuple[PrivateKey, bytes]:
    """The private key of a PEM text, parsed and as its own PEM block.

    PKCS#8, PKCS#1 (`RSA PRIVATE KEY`) and SEC1 (`EC PRIVATE KEY`).

    Raises:
        InvalidPemError: There is none, or it is of a kind that gRPC refuses.
        PassphraseError: It is encrypted, and there is no passphrase, or a wrong one.
    """
    block = private_key_block(data, what, source)
    encrypted = is_encrypted(block)
    if encrypted and passphrase is None:
        raise PassphraseError(what, _ENCRYPTED, source)
    try:
        key = load_pem_private_key(block, password=passphrase if encrypted else None)
    except Exception as error:  # the parser's errors have no common root
        if encrypted:
            reason = f"the passphrase does not fit, or it is damaged ({error})"
            raise PassphraseError(what, reason, source) from error
        raise InvalidPemError(what, f"it is no private key ({error}); {_COPY}", source) from error
    return check_key(key, what, source), block


def parse_crls(
    data: bytes, what: str = "revocation list", source: Source = None
) -> tuple[x509.CertificateRevocationList, ...]:
    """All CRLs of a PEM text, in its order; other blocks are passed over.

    Raises:
        InvalidPemError: There is none, or one of them cannot be read.
    """
    blocks = [m[0] for m in _BLOCK.finditer(data) if m[1] == b"X509 CRL"]
    if not blocks:
        raise InvalidPemError(what, "it has no CRL in PEM form", source)
    try:
        crls = tuple(x509.load_pem_x509_crl(block) for block in blocks)
        for crl in crls:  # parsing is lazy: touch what is read later, so that nothing fails there
            _ = (crl.issuer, crl.last_update_utc, crl.next_update_utc, crl.tbs_certlist_bytes)
            _ = (crl.signature_hash_algorithm, crl.signature)
            for extension in crl.extensions:
                _ = extension.value
            for revoked in crl:
                _ = (revoked.serial_number, revoked.revocation_date_utc)
                for extension in revoked.extensions:
                    _ = extension.value
    except Exception as error:  # the parser's errors have no common root
        raise InvalidPemError(what, f"it is no CRL ({error}); {_COPY}", source) from error
    return crls


def parse_request(
    data: bytes, what: str = "certificate request", source: Source = None
) -> x509.CertificateSigningRequest:
    """The certificate signing request of a PEM text.

    Raises:
        InvalidPemError: There is none, or more than one, or it cannot be read.
    """
    labels = (b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST")
    blocks = [m[0] for m in _BLOCK.finditer(data) if m[1] in labels]
    if len(blocks) != 1:
        reason = f"it has {len(blocks) or 'no'} requests in PEM form, and one is needed"
        raise InvalidPemError(what, reason, source)
    try:
        request = x509.load_pem_x509_csr(blocks[0])
        _ = (request.subject, request.public_key(), request.is_signature_valid)
        for extension in request.extensions:
            _ = extension.value
    except Exception as error:  # the parser's errors have no common root
        raise InvalidPemError(what, f"it is no request ({error}); {_COPY}", source) from error
    return request


@dataclass(frozen=True, repr=False)
class KeyPair:
    """A chain and the key of its first certificate, parsed once: checking an RSA key is slow."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey
    key_pem: bytes

    @classmethod
    def parse(
        cls,
        chain: bytes,
        key: bytes,
        chain_source: Source,
        key_source: Source,
        passphrase: bytes | None = None,
    ) -> Self:
        """Reads both from PEM; the sources are for messages.

        Raises:
            InvalidPemError: One of them cannot be read.
            PassphraseError: The key is encrypted, and the passphrase missing or wrong.
        """
        certificates = parse_certificates(chain, "certificate", chain_source)
        return cls(certificates, *parse_private_key(key, "private key", key_source, passphrase))

    @property
    def matches(self) -> bool:
        """Tells whether the key is the first certificate's."""
        spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ours = self.key.public_key().public_bytes(*spki)
        return ours == self.chain[0].public_key().public_bytes(*spki)


def encode_certificates(certificates: Iterable[x509.Certificate]) -> bytes:
    """Certificates as one PEM text, in the given order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def encode_crls(crls: Iterable[x509.CertificateRevocationList]) -> bytes:
    """CRLs as one PEM text, in the given order."""
    return b"".join(crl.public_bytes(Encoding.PEM) for crl in crls)
