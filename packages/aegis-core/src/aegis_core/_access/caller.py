"""Reads the caller of a call from the certificate of its connection, and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        intermediates: The other certificates that it showed, not verified: the CAs between its
            certificate and the trust bundle, if it is well-behaved.
        hosts: The DNS names of its certificate besides the node id.
    """

    node_id: str
    certificate: x509.Certificate = field(repr=False)
    trust_domain: str | None = None
    tls_version: str = ""
    not_after: float = field(default=0.0, repr=False)
    fingerprint: bytes = field(default=b"", repr=False)
    intermediates: tuple[x509.Certificate, ...] = field(default=(), repr=False)
    hosts: tuple[str, ...] = field(default=(), repr=False)


CERTIFICATE, INTERMEDIATES = "x509_pem_cert", "x509_pem_cert_chain"
"""What gRPC calls a caller's own certificate (PEM), and those that it showed above it."""

TLS_VERSION = "ssl_tls_version"
"""What gRPC calls the TLS version of a connection."""

NOTHING = (b"",)
"""In place of what a connection does not have."""


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
    return caller_from_auth(auth, context)


def caller_from_auth(auth: Mapping[str, Any], context: CallContext) -> Caller:
    """Returns the caller, as `caller_from_context` does, from the context's `auth_context()`."""
    try:
        pem = auth[CERTIFICATE][0]
        intermediates = auth.get(INTERMEDIATES, NOTHING)[0]
        tls_version = auth.get(TLS_VERSION, NOTHING)[0]
        known = _callers.get((pem, tls_version))
        if known is not None and known[0] == intermediates:
            return known[1]
        return _read(pem, intermediates, tls_version)
    except (KeyError, IndexError):
        raise (NoCertificateError if auth else NoTLSInfoError)(_peer(context)) from None
    except (CertsError, ValueError) as error:
        raise NoCertificateError(_peer(context), str(error)) from error


def _peer(context: CallContext) -> str:
    return context.peer() or "an unknown address"


MAX_CALLERS = 4096
"""Callers that are remembered: certificates are renewed for ever."""

MAX_INTERMEDIATES = 16 * 1024
"""Bytes (PEM) of the certificates above a caller's own."""

# One entry for each certificate: nobody can fill the memory with junk beside one of them.
_callers: dict[tuple[bytes, bytes], tuple[bytes, Caller]] = {}


def _read(pem: bytes, intermediates: bytes, tls_version: bytes) -> Caller:
    if len(intermediates) > MAX_INTERMEDIATES:
        raise ValueError(
            f"the certificates above it have {len(intermediates)} bytes, "
            f"the limit is {MAX_INTERMEDIATES}"
        )
    certificate = x509.load_pem_x509_certificate(pem)
    identity = identity_of(certificate)
    caller = Caller(
        identity.node_id,
        certificate,
        identity.trust_domain,
        tls_version.decode(),
        certificate.not_valid_after_utc.timestamp(),
        certificate.fingerprint(hashes.SHA256()),
        tuple(x509.load_pem_x509_certificates(intermediates)) if intermediates else (),
        identity.hosts,
    )
    if len(_callers) >= MAX_CALLERS:
        _callers.clear()
    _callers[pem, tls_version] = intermediates, caller
    return caller
