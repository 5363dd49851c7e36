"""Keys and key identifiers: creating, encoding, checking and describing them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeGuard

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from aegis_certs._x509.extensions import extension_of
from aegis_certs._x509.names import KeyType
from aegis_certs._x509.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from aegis_certs.errors import InvalidPemError

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_MAX_RSA_BITS = 8192  # OpenSSL and BoringSSL accept no larger keys by default
_RSA_BITS = {KeyType.RSA_2048: 2048, KeyType.RSA_4096: 4096}
_CURVES: dict[KeyType, ec.EllipticCurve] = {
    KeyType.P256: ec.SECP256R1(),
    KeyType.P384: ec.SECP384R1(),
}
_CURVE_NAMES = {curve.name: key_type for key_type, curve in _CURVES.items()}


def key_id(ca: x509.Certificate) -> bytes:
    """The key identifier of a CA; computed from its key if the certificate has none."""
    found = extension_of(ca, x509.SubjectKeyIdentifier)
    return (found or x509.SubjectKeyIdentifier.from_public_key(ca.public_key())).digest


def issuer_key_id(certificate: x509.Certificate) -> bytes | None:
    """The key identifier of the CA that signed a certificate, if the certificate names it."""
    found = extension_of(certificate, x509.AuthorityKeyIdentifier)
    return None if found is None else found.key_identifier


def may_have_signed(ca: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether names and key identifiers match; this checks no signature."""
    issuer = issuer_key_id(certificate)
    return ca.subject == certificate.issuer and issuer in (None, key_id(ca))


def generate_key(key_type: KeyType) -> PrivateKey:
    """A new private key; an RSA key of 4096 bits takes a second or more."""
    if key_type in _RSA_BITS:
        return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS[key_type])
    return ec.generate_private_key(_CURVES[key_type])


def encode_key(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """The key as PKCS#8 PEM, encrypted if there is a passphrase."""
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def encode_ca_key(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """The key of a CA as PEM: RSA without a passphrase as PKCS#1, as Go nodes read it.

    All others are PKCS#8. The encryption of PKCS#1 is weak, so it is never used.
    """
    if passphrase or not isinstance(key, rsa.RSAPrivateKey):
        return encode_key(key, passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def check_key(key: object, what: str, source: str | Path | None) -> PrivateKey:
    """Returns the key; raises InvalidPemError if gRPC cannot use it for TLS."""
    if not isinstance(key, PrivateKey):
        raise _unusable(what, source)
    check_public_key(key.public_key(), what, source)
    if isinstance(key, rsa.RSAPrivateKey) and not _belong_together(key.private_numbers()):
        reason = "it is damaged: its numbers do not belong together; get a new copy of it"
        raise InvalidPemError(what, reason, source)
    return key


def _belong_together(key: rsa.RSAPrivateNumbers) -> bool:
    """Whether the numbers of an RSA key fit (RFC 8017, section 3.2), as BoringSSL checks it.

    Whether the factors are prime is not tested: damage does not leave them consistent.
    """
    p, q, d = key.p, key.q, key.d
    n, e = key.public_numbers.n, key.public_numbers.e
    return (
        min(p, q) > 1
        and p * q == n
        and 0 < d < n
        and d * e % (p - 1) == d * e % (q - 1) == 1
        and (key.dmp1, key.dmq1) == (d % (p - 1), d % (q - 1))
        and key.iqmp * q % p == 1
    )


def check_public_key(key: object, what: str, source: str | Path | None) -> PublicKey:
    """`check_key` for the public key."""
    if is_usable_key(key):
        return key
    raise _unusable(what, source)


def is_usable_key(key: object) -> TypeGuard[PublicKey]:
    """Whether gRPC peers can use a public key for TLS, and it is not too weak."""
    if isinstance(key, rsa.RSAPublicKey):
        return 2048 <= key.key_size <= _MAX_RSA_BITS
    return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVE_NAMES


UNUSABLE_KEY = (
    f"its key type is not supported; use RSA from 2048 to {_MAX_RSA_BITS} bits, P-256 or P-384"
)


def _unusable(what: str, source: str | Path | None) -> InvalidPemError:
    return InvalidPemError(what, UNUSABLE_KEY, source)


def describe_key(key: object) -> str:
    """The type of a public or private key in the words of `KeyType`, such as `rsa-3072`."""
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return f"rsa-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return str(_CURVE_NAMES.get(key.curve.name, key.curve.name))
    return type(key).__name__


def encode_public_key(key: PublicKey) -> bytes:
    """The public key as SubjectPublicKeyInfo in DER: equal keys have equal bytes."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_fingerprint(key: PublicKey) -> str:
    """SHA-256 of a public key, in hexadecimal."""
    return hashlib.sha256(encode_public_key(key)).hexdigest()


def key_type_of(certificate: x509.Certificate, default: KeyType) -> KeyType:
    """The key type of a certificate; the default if this package creates no such keys."""
    kind = describe_key(certificate.public_key())
    return KeyType(kind) if kind in set(KeyType) else default


def signature_hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    """The hash that the Web PKI requires for this signing key: SHA-384 for P-384."""
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp384r1":
        return hashes.SHA384()
    return hashes.SHA256()
