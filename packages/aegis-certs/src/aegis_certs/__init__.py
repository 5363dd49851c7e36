"""A certificate authority and certificate lifecycle for small teams and service meshes.

`load_or_generate_tls` gives a node its identity from a directory, making what is missing.
`load_tls` brings one of your own. `CertificateAuthority` issues. `TrustBundle` checks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis_certs._authority import CertificateAuthority
    from aegis_certs._csr import SignedCertificate, install_certificate, request_certificate
    from aegis_certs._identity import Identity, identity_of
    from aegis_certs._inventory import IssuedCertificate
    from aegis_certs._lifecycle import load_or_generate_tls
    from aegis_certs._lifetime import CertificateState
    from aegis_certs._listing import CertificateInfo, list_certificates
    from aegis_certs._naming import DEFAULT_TRUST_DOMAIN, KeyType, validate_node_id
    from aegis_certs._options import CertificateSource, TLSOptions, load_tls
    from aegis_certs._renewal import Renewal
    from aegis_certs._revocation import Revocation, RevocationList, RevocationReason
    from aegis_certs._rotation import RotationPhase, RotationState
    from aegis_certs._schedule import RenewalSchedule
    from aegis_certs._source import IdentitySource
    from aegis_certs._tls import TLSConfig
    from aegis_certs._trust import TrustBundle
    from aegis_certs.errors import (
        AlreadyExistsError,
        CertsError,
        DirectoryError,
        ExpiredError,
        IdentityError,
        InvalidNodeIdError,
        InvalidPemError,
        InvalidRequestError,
        InventoryError,
        KeyMismatchError,
        LockTimeoutError,
        MissingHostError,
        NotFoundError,
        NotYetValidError,
        PassphraseError,
        RevocationListError,
        RevokedError,
        RotationError,
        StillUsedError,
        UntrustedError,
        UsageError,
        VerificationError,
    )

__all__ = [
    "DEFAULT_TRUST_DOMAIN",
    "AlreadyExistsError",
    "CertificateAuthority",
    "CertificateInfo",
    "CertificateSource",
    "CertificateState",
    "CertsError",
    "DirectoryError",
    "ExpiredError",
    "Identity",
    "IdentityError",
    "IdentitySource",
    "InvalidNodeIdError",
    "InvalidPemError",
    "InvalidRequestError",
    "InventoryError",
    "IssuedCertificate",
    "KeyMismatchError",
    "KeyType",
    "LockTimeoutError",
    "MissingHostError",
    "NotFoundError",
    "NotYetValidError",
    "PassphraseError",
    "Renewal",
    "RenewalSchedule",
    "Revocation",
    "RevocationList",
    "RevocationListError",
    "RevocationReason",
    "RevokedError",
    "RotationError",
    "RotationPhase",
    "RotationState",
    "SignedCertificate",
    "StillUsedError",
    "TLSConfig",
    "TLSOptions",
    "TrustBundle",
    "UntrustedError",
    "UsageError",
    "VerificationError",
    "identity_of",
    "install_certificate",
    "list_certificates",
    "load_or_generate_tls",
    "load_tls",
    "request_certificate",
    "validate_node_id",
]

_HOMES = {
    "DEFAULT_TRUST_DOMAIN": "_naming",
    "CertificateAuthority": "_authority",
    "CertificateInfo": "_listing",
    "CertificateSource": "_options",
    "CertificateState": "_lifetime",
    "Identity": "_identity",
    "IdentitySource": "_source",
    "IssuedCertificate": "_inventory",
    "KeyType": "_naming",
    "Renewal": "_renewal",
    "RenewalSchedule": "_schedule",
    "Revocation": "_revocation",
    "RevocationList": "_revocation",
    "RevocationReason": "_revocation",
    "RotationPhase": "_rotation",
    "RotationState": "_rotation",
    "SignedCertificate": "_csr",
    "TLSConfig": "_tls",
    "TLSOptions": "_options",
    "TrustBundle": "_trust",
    "identity_of": "_identity",
    "install_certificate": "_csr",
    "list_certificates": "_listing",
    "load_or_generate_tls": "_lifecycle",
    "load_tls": "_options",
    "request_certificate": "_csr",
    "validate_node_id": "_naming",
}


def __getattr__(name: str) -> Any:
    # Loading `cryptography` takes longer than all of `aegis-certs --help`, which needs none of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
