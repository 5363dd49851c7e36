"""A certificate authority and certificate lifecycle for small teams and service meshes.

`load_or_generate_tls` gives a node its identity from a directory, making what is missing.
`load_tls` brings one of your own. `CertificateAuthority` issues. `TrustBundle` checks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._authority import CertificateAuthority
    from ._identity import Identity, identity_of
    from ._inventory import CertificateInfo, list_certificates
    from ._lifecycle import load_or_generate_tls
    from ._lifetime import CertificateState
    from ._naming import DEFAULT_TRUST_DOMAIN, KeyType, validate_node_id
    from ._options import CertificateSource, TLSOptions, load_tls
    from ._tls import TLSConfig
    from ._trust import TrustBundle
    from .errors import (
        AlreadyExistsError,
        CertsError,
        DirectoryError,
        ExpiredError,
        IdentityError,
        InvalidNodeIdError,
        InvalidPemError,
        InvalidRequestError,
        KeyMismatchError,
        LockTimeoutError,
        MissingHostError,
        NotFoundError,
        NotYetValidError,
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
    "InvalidNodeIdError",
    "InvalidPemError",
    "InvalidRequestError",
    "KeyMismatchError",
    "KeyType",
    "LockTimeoutError",
    "MissingHostError",
    "NotFoundError",
    "NotYetValidError",
    "TLSConfig",
    "TLSOptions",
    "TrustBundle",
    "UntrustedError",
    "UsageError",
    "VerificationError",
    "identity_of",
    "list_certificates",
    "load_or_generate_tls",
    "load_tls",
    "validate_node_id",
]

_HOMES = {
    "DEFAULT_TRUST_DOMAIN": "_naming",
    "CertificateAuthority": "_authority",
    "CertificateInfo": "_inventory",
    "CertificateSource": "_options",
    "CertificateState": "_lifetime",
    "Identity": "_identity",
    "KeyType": "_naming",
    "TLSConfig": "_tls",
    "TLSOptions": "_options",
    "TrustBundle": "_trust",
    "identity_of": "_identity",
    "list_certificates": "_inventory",
    "load_or_generate_tls": "_lifecycle",
    "load_tls": "_options",
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
