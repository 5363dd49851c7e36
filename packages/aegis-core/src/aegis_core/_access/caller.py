"""Reads the caller of a call from the certificate of its connection, and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from aegis_certs import CertsError, identity_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from aegis_core.errors import NoCertificateError, NoPeerInfoError, NoTLSInfoError


@dataclass(frozen=True, slots=True)
class Caller:
    """The other end of a call.

    Attributes:
        node_id: The node id that its certificate proves.
        certificate: The parsed certificate.
        trust_domain: The trust domain of its SPIFFE id; None if the certificate has no SPIFFE id.
        tls_version: The TLS version of the connection, such as `TLSv1.3`; empty with gRPC before
            1.85, which does not expose it.
        not_after: When the certificate expires (Unix seconds).
        fingerprint: SHA-256 of the certificate.
    """

    node_id: str
    certificate: x509.Certificate = field(repr=False)
    trust_domain: str | None = None
    tls_version: str = ""
    not_after: float = field(default=0.0, repr=False)
    fingerprint: bytes = field(default=b"", repr=False)


class CallContext(Protocol):
    """The part that the contexts of sync and async handlers have in common."""

    # Any: the values are lists of bytes; types-grpcio has that for aio, and bytes for sync.
    def auth_context(self) -> Mapping[str, Any]: ...

    def peer(self) -> str: ...


def caller_from_context(context: CallContext) -> Caller:
    """Returns the caller of a sync or an async handler.

    Parsed certificates are cached, so that only the first call of a peer costs the parsing.

    Raises:
        NoPeerInfoError: If it is not the context of a gRPC handler.
        NoTLSInfoError: If the connection is not TLS.
        NoCertificateError: If the caller showed no certificate that names a node.
    """
    try:
        auth = context.auth_context()
    except AttributeError:
        raise NoPeerInfoError from None
    try:
        return _caller(auth["x509_pem_cert"][0], auth.get("ssl_tls_version", _NO_VERSION)[0])
    except (KeyError, IndexError):
        raise (NoCertificateError if auth else NoTLSInfoError)(_peer(context)) from None
    except (CertsError, ValueError) as error:
        raise NoCertificateError(_peer(context), str(error)) from error


def _peer(context: CallContext) -> str:
    return context.peer() or "an unknown address"


_NO_VERSION = (b"",)


@lru_cache(maxsize=4096)
def _caller(pem: bytes, tls_version: bytes) -> Caller:
    certificate = x509.load_pem_x509_certificate(pem)
    identity = identity_of(certificate)
    return Caller(
        identity.node_id,
        certificate,
        identity.trust_domain,
        tls_version.decode(),
        certificate.not_valid_after_utc.timestamp(),
        certificate.fingerprint(hashes.SHA256()),
    )
