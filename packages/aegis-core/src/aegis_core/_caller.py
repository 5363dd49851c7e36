"""Who calls: read from the certificate that the connection was made with, and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from aegis_certs import CertsError, identity_of
from cryptography import x509

from aegis_core.errors import NoCertificateError, NoPeerInfoError, NoTLSInfoError


@dataclass(frozen=True, slots=True)
class Caller:
    """The other end of a call.

    Attributes:
        node_id: The node id that its certificate proves.
        certificate: The certificate, parsed.
        trust_domain: Of its SPIFFE id; None where the certificate has none.
    """

    node_id: str
    certificate: x509.Certificate = field(repr=False)
    trust_domain: str | None = None


class CallContext(Protocol):
    """What sync and async handlers' contexts have in common."""

    def auth_context(self) -> Mapping[str, Any]:  # types-grpcio has bytes for sync, a list for aio
        """Returns what the transport proved."""

    def peer(self) -> str:
        """Returns the peer's network address."""


def caller_from_context(context: CallContext) -> Caller:
    """Tells who calls, in a sync or an async handler.

    The parsed certificate is kept, so that only the first call of a peer costs the parsing.

    Raises:
        NoPeerInfoError: If the context is none of a gRPC handler.
        NoTLSInfoError: If the connection is not TLS.
        NoCertificateError: If the caller showed no certificate that names a node.
    """
    try:
        auth = context.auth_context()
    except AttributeError:
        raise NoPeerInfoError from None
    if not auth:
        raise NoTLSInfoError(_peer(context))
    pem = next(iter(auth.get("x509_pem_cert", ())), None)
    if pem is None:
        raise NoCertificateError(_peer(context))
    try:
        return _caller(pem)
    except (CertsError, ValueError) as error:
        raise NoCertificateError(_peer(context), str(error)) from error


def _peer(context: CallContext) -> str:
    return context.peer() or "an unknown address"


@lru_cache(maxsize=4096)
def _caller(pem: bytes) -> Caller:
    certificate = x509.load_pem_x509_certificate(pem)
    identity = identity_of(certificate)
    return Caller(identity.node_id, certificate, identity.trust_domain)
