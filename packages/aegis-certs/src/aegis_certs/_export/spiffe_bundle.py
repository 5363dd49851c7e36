"""The trust bundle as a SPIFFE bundle: a JWK set (SPIFFE Trust Domain and Bundle, section 4)."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from aegis_certs._ca import audit_log
from aegis_certs._export.pem import trust_bundle
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import parse_isoformat
from aegis_certs._x509.keys import describe_key
from aegis_certs._x509.names import CA_NAME
from aegis_certs._x509.serialization import Encoding
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import common_name
from aegis_certs.errors import InvalidPemError, InvalidRequestError

REFRESH_HINT = 300  # seconds, as SPIRE's servers say: a step of a rotation takes longer
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def spiffe_bundle(directory: str | Path, *, refresh_hint: int = REFRESH_HINT) -> dict[str, Any]:
    """The roots of a directory as a SPIFFE bundle, for SPIRE and other trust domains.

    Each root is a key with `use` `x509-svid`. Intermediates are not in it: certificates carry them.
    `spiffe_sequence` grows with every change of the trust bundle. It is a time in milliseconds:
    that of the last step of a rotation in the audit log, or of the last change of `ca-cert.pem`.
    So it also grows after one of the two was lost, or restored from a backup. Directories of
    other machines have other sequences, so publish the bundle of one trust domain from one place.

    Args:
        directory: A certificate directory; its CA's key is not needed.
        refresh_hint: How often a reader should ask for the bundle again, in seconds.

    Raises:
        InvalidRequestError: The hint is not positive.
        NotFoundError: The directory has no trust bundle.
        CertsError: A file cannot be used.
    """
    if refresh_hint < 1:
        raise InvalidRequestError("refresh hint", refresh_hint, "give at least one second")
    store = Store(directory)
    roots = TrustBundle(trust_bundle(store)).roots
    return {
        "keys": [_jwk(root) for root in roots],
        "spiffe_sequence": _sequence(store),
        "spiffe_refresh_hint": refresh_hint,
    }


def _jwk(ca: x509.Certificate) -> dict[str, Any]:
    """A CA as a JSON web key (RFC 7517); `x5c` has exactly one certificate."""
    encoded = base64.b64encode(ca.public_bytes(Encoding.DER)).decode()
    return {"use": "x509-svid", **_public_key(ca), "x5c": [encoded]}


def _public_key(ca: x509.Certificate) -> dict[str, str]:
    """The members of a key that RFC 7518, section 6, requires."""
    key = ca.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "n": _base64url(numbers.n), "e": _base64url(numbers.e)}
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise InvalidPemError(
            "trust bundle",
            f"the key of {common_name(ca.subject)} is {describe_key(key)}, which no SPIFFE bundle "
            f"has; use RSA, P-256, P-384 or P-521",
        )
    point, size = key.public_numbers(), (key.curve.key_size + 7) // 8
    x, y = _base64url(point.x, size), _base64url(point.y, size)
    return {"kty": "EC", "crv": _CURVES[key.curve.name], "x": x, "y": y}


def _base64url(number: int, size: int | None = None) -> str:
    """A number as RFC 7518 says: big-endian, without padding."""
    data = number.to_bytes(size or (number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _sequence(store: Store) -> int:
    """A number that grows with each change of the bundle, whatever happened to clock or files."""
    paths = (store.certificate_path(CA_NAME), store.pending_path(CA_NAME))
    # Not the time of modification, which a restored or a copied file may keep.
    times = [found.st_ctime_ns // 1_000_000 for path in paths if (found := files.status(path))]
    return max([_logged_sequence(store), *times])


def _logged_sequence(store: Store) -> int:
    """The number after the changes in the log; it grows within a second, and if clocks go back."""
    sequence = 0
    for line in audit_log.ca_changes(store.audit_path):  # reading the bundle needs no right to it
        sequence = max(sequence + 1, _milliseconds(line.get("time")))
    return sequence


def _milliseconds(time: object) -> int:
    try:
        return int(parse_isoformat(str(time)).timestamp()) * 1000
    except ValueError:
        return 0
