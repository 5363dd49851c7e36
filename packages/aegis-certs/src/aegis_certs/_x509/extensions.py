"""Looking up the extensions of certificates, requests and CRLs."""

from __future__ import annotations

from typing import TypeVar

from cryptography import x509

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_Holder = (
    x509.Certificate
    | x509.CertificateSigningRequest
    | x509.CertificateRevocationList
    | x509.RevokedCertificate
)


def extension_of(holder: _Holder, kind: type[_Extension]) -> _Extension | None:
    """The extension of this class, or None."""
    try:
        return holder.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
