"""An identity as one encrypted PKCS#12 file."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from aegis_certs._x509.tls_config import TLSConfig
from aegis_certs.errors import PassphraseError

_MAX_BYTES = 1023  # OpenSSL's limit


def pkcs12(tls: TLSConfig, passphrase: str | bytes) -> bytes:
    """An identity as PKCS#12 (RFC 7292): key, chain and trust bundle, encrypted with AES-256.

    OpenSSL 3, Java from 8u301 or 11.0.12 on, NSS (Firefox, Chromium), Windows and macOS read it.
    The name of the entry is the node id.

    Raises:
        PassphraseError: The passphrase is empty, too long, or no text in UTF-8.
    """
    secret = passphrase.encode() if isinstance(passphrase, str) else passphrase
    if not secret:
        raise PassphraseError("passphrase", "it is empty, and some programs accept no such file")
    if len(secret) > _MAX_BYTES:
        reason = f"it has {len(secret)} bytes, and OpenSSL accepts at most {_MAX_BYTES}"
        raise PassphraseError("passphrase", f"{reason}; choose a shorter one")
    try:
        secret.decode()
    except UnicodeDecodeError as error:
        raise PassphraseError("passphrase", "it is no text in UTF-8; choose another") from error
    leaf, *intermediates = tls.chain
    others = dict.fromkeys((*intermediates, *tls.bundle.certificates))
    return serialize_key_and_certificates(
        tls.node_id.encode(), tls.key, leaf, list(others), BestAvailableEncryption(secret)
    )
