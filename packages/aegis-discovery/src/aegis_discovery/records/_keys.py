"""Checks signatures with the public keys of leaves."""

from __future__ import annotations

from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from aegis_discovery.records._leaves import Leaf
from aegis_discovery.records._record import Signed

MAX_KEYS = 64
"""Keys that are kept parsed: those of the last certificates, whose records come next."""

_SHA256 = hashes.SHA256()
_schemes: dict[type, tuple[Any, ...] | None] = {}


def scheme_of(key: object) -> tuple[Any, ...] | None:
    """Returns how signatures by such a key are made; None for a key that cannot sign records."""
    kind = type(key)
    if kind not in _schemes:  # the classes of keys are abstract, so it takes long to ask for them
        if isinstance(key, rsa.RSAPublicKey):
            _schemes[kind] = (padding.PKCS1v15(), _SHA256)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            _schemes[kind] = (ec.ECDSA(_SHA256),)
        else:
            _schemes[kind] = None
    return _schemes[kind]


class KeyStore:
    """The parsed keys of the last certificates, by the certificate's fingerprint."""

    def __init__(self) -> None:
        self._keys: dict[bytes, Any] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def keep(self, fingerprint: bytes, key: object) -> None:
        """Keeps a key that `scheme_of` knows."""
        if len(self._keys) >= MAX_KEYS:
            self._keys.pop(next(iter(self._keys)), None)  # the oldest: its record has come
        self._keys[fingerprint] = key

    def has_signed(self, leaf: Leaf, signed: Signed) -> bool:
        """Tells whether the signature is by the key of this leaf."""
        key: Any = self._keys.get(leaf.fingerprint)
        if key is None:
            key = leaf.certificate.public_key()
            self.keep(leaf.fingerprint, key)
        scheme = scheme_of(key)
        if scheme is None:
            raise TypeError(f"{type(key).__name__} cannot verify records; add_chain refuses it")
        try:
            key.verify(signed.signature, signed.body, *scheme)
        except InvalidSignature:
            return False
        return True
