"""Reading and writing PEM: any bytes give either a parsed value or an InvalidPemError.

If a key is encrypted and its passphrase is missing or wrong, the error is a PassphraseError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self, TypeVar

from cryptography import x509

from aegis_certs._x509.keys import PrivateKey, check_key, encode_public_key, is_usable_key
from aegis_certs._x509.serialization import Encoding, load_pem_private_key
from aegis_certs.errors import InvalidPemError, PassphraseError

Source = str | Path | None
_Parsed = TypeVar("_Parsed")

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_COPY = "get a new copy of it"
_ENCRYPTED = (
    "it is encrypted, and no passphrase was given; set AEGIS_CA_PASSPHRASE_FILE or "
    "AEGIS_CA_PASSPHRASE for a CA's key, and use a node's key without a passphrase"
)


def parse_certificates(
    data: bytes, what: str = "certificate", source: Source = None
) -> tuple[x509.Certificate, ...]:
    """All certificates of a PEM text, in its order; other blocks are ignored."""
    blocks = _blocks(data, "CERTIFICATE")
    if not blocks:
        raise InvalidPemError(what, f"it has no certificate in PEM form; {_COPY}", source)
    return tuple(_parse(_load_certificate, block, what, "certificate", source) for block in blocks)


def parse_der_certificates(
    encoded: Iterable[bytes], what: str = "certificate", source: Source = None
) -> tuple[x509.Certificate, ...]:
    """Certificates in DER."""
    return tuple(_parse(_load_der, der, what, "certificate", source) for der in encoded)


def private_key_block(data: bytes, what: str = "private key", source: Source = None) -> bytes:
    """The first private key of a PEM text as a PEM block of its own, not parsed."""
    block = next((m[0] for m in _BLOCK.finditer(data) if m[1].endswith(b"PRIVATE KEY")), None)
    if block is None:
        raise InvalidPemError(what, f"it has no private key in PEM form; {_COPY}", source)
    return block + b"\n"


def is_encrypted(key: bytes) -> bool:
    """Whether a private key's PEM block needs a passphrase."""
    return b"ENCRYPTED" in key[:200]


def parse_private_key(
    data: bytes,
    what: str = "private key",
    source: Source = None,
    passphrase: bytes | None = None,
) -> tuple[PrivateKey, bytes]:
    """The private key of a PEM text, parsed and as its own PEM block.

    The formats are PKCS#8, PKCS#1 (`RSA PRIVATE KEY`) and SEC1 (`EC PRIVATE KEY`).
    """
    block = private_key_block(data, what, source)
    encrypted = is_encrypted(block)
    if encrypted and passphrase is None:
        raise PassphraseError(what, _ENCRYPTED, source)
    try:
        key = load_pem_private_key(
            block,
            password=passphrase if encrypted else None,
            # It would test for primes, which takes tens of milliseconds; see `check_key`.
            unsafe_skip_rsa_key_validation=True,
        )
    except Exception as error:  # the parser's errors have no common root
        if encrypted:
            reason = f"the passphrase is wrong, or the key is damaged ({error})"
            raise PassphraseError(what, reason, source) from error
        raise _not_a(what, "private key", source, error) from error
    return check_key(key, what, source), block


def parse_crls(
    data: bytes, what: str = "revocation list", source: Source = None
) -> tuple[x509.CertificateRevocationList, ...]:
    """All CRLs of a PEM text, in its order; other blocks are ignored."""
    blocks = _blocks(data, "X509 CRL")
    if not blocks:
        raise InvalidPemError(what, "it has no CRL in PEM form", source)
    return tuple(_parse(_load_crl, block, what, "CRL", source) for block in blocks)


def parse_request(
    data: bytes, what: str = "certificate request", source: Source = None
) -> x509.CertificateSigningRequest:
    """The certificate signing request of a PEM text."""
    blocks = _blocks(data, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
    if len(blocks) != 1:
        reason = f"it has {len(blocks) or 'no'} requests in PEM form, and one is needed"
        raise InvalidPemError(what, reason, source)
    return _parse(_load_request, blocks[0], what, "request", source)


# Parsing is lazy. The loaders read every field that is used later, so that no field fails there.


def _load_certificate(block: bytes) -> x509.Certificate:
    return _read_all(x509.load_pem_x509_certificate(block))


def _load_der(der: bytes) -> x509.Certificate:
    return _read_all(x509.load_der_x509_certificate(der))


def _read_all(certificate: x509.Certificate) -> x509.Certificate:
    certificate.public_key()
    _ = (certificate.subject, certificate.issuer, certificate.not_valid_after_utc)
    _ = [extension.value for extension in certificate.extensions]
    return certificate


def _load_crl(block: bytes) -> x509.CertificateRevocationList:
    crl = x509.load_pem_x509_crl(block)
    _ = (crl.issuer, crl.last_update_utc, crl.next_update_utc, crl.tbs_certlist_bytes)
    _ = (crl.signature_hash_algorithm, crl.signature)
    _ = [extension.value for extension in crl.extensions]
    for revoked in crl:
        _ = (revoked.serial_number, revoked.revocation_date_utc)
        _ = [extension.value for extension in revoked.extensions]
    return crl


def _load_request(block: bytes) -> x509.CertificateSigningRequest:
    request = x509.load_pem_x509_csr(block)
    _ = (request.subject, request.public_key(), request.is_signature_valid)
    _ = [extension.value for extension in request.extensions]
    return request


def _blocks(data: bytes, *labels: str) -> list[bytes]:
    return [m[0] for m in _BLOCK.finditer(data) if m[1].decode() in labels]


def _parse(
    load: Callable[[bytes], _Parsed], block: bytes, what: str, kind: str, source: Source
) -> _Parsed:
    try:
        return load(block)
    except Exception as error:  # the parser's errors have no common root
        raise _not_a(what, kind, source, error) from error


def _not_a(what: str, kind: str, source: Source, error: Exception) -> InvalidPemError:
    return InvalidPemError(what, f"it is not a {kind} ({error}); {_COPY}", source)


class KeyPair:
    """A chain and the private key of its leaf, parsed once."""

    def __init__(
        self, chain: tuple[x509.Certificate, ...], key: PrivateKey, key_pem: bytes
    ) -> None:
        self.chain = chain
        self.key = key
        self.key_pem = key_pem

    @classmethod
    def parse(
        cls,
        chain: bytes,
        key: bytes,
        chain_source: Source,
        key_source: Source,
        passphrase: bytes | None = None,
    ) -> Self:
        """Reads both from PEM; the sources are for error messages."""
        certificates = parse_certificates(chain, "certificate", chain_source)
        private = parse_private_key(key, "private key", key_source, passphrase)
        return cls(certificates, *private)

    @property
    def matches(self) -> bool:
        """Whether the key belongs to the leaf."""
        leaf = self.chain[0].public_key()
        ours = encode_public_key(self.key.public_key())
        return is_usable_key(leaf) and ours == encode_public_key(leaf)


def encode_certificates(certificates: Iterable[x509.Certificate]) -> bytes:
    """The certificates as one PEM text, in the given order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def encode_crls(crls: Iterable[x509.CertificateRevocationList]) -> bytes:
    """The CRLs as one PEM text, in the given order."""
    return b"".join(crl.public_bytes(Encoding.PEM) for crl in crls)
