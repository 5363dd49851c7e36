"""The holder of a token: a caller with a bootstrap identity, which is no member of the mesh."""

from __future__ import annotations

from dataclasses import dataclass

from aegis_certs import CertsError, enrolment_id_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from aegis_core._access.caller import CallContext, Caller
from aegis_core.errors import CallerError, NoCertificateError, NoPeerInfoError, NoTLSInfoError


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BootstrapCaller(Caller):
    """A caller that may enrol, and nothing else.

    Its `node_id` is `enroll/ID`, which is no node id: it never counts as a node in a log line, a
    limit or a policy.

    Attributes:
        enrolment_id: The node id for which its token was made.
    """

    enrolment_id: str = ""


def bootstrap_from_context(context: CallContext) -> BootstrapCaller:
    """Returns the bootstrap identity of a caller.

    Raises:
        NoPeerInfoError: If it is not the context of a gRPC handler.
        NoTLSInfoError: If the connection is not TLS.
        NoCertificateError: If the caller showed no bootstrap certificate.
    """
    try:
        auth = context.auth_context()
    except AttributeError:
        raise NoPeerInfoError from None
    peer = context.peer() or "an unknown address"
    if not auth:
        raise NoTLSInfoError(peer)
    try:
        certificate = x509.load_pem_x509_certificate(auth["x509_pem_cert"][0])
        enrolment_id = enrolment_id_of(certificate)
    except (KeyError, IndexError):
        raise NoCertificateError(peer) from None
    except (CertsError, ValueError) as error:
        raise NoCertificateError(peer, str(error)) from error
    if enrolment_id is None:
        raise NoCertificateError(peer, "its certificate is not that of a token")
    return BootstrapCaller(
        f"enroll/{enrolment_id}",
        certificate,
        _trust_domain(certificate),
        auth.get("ssl_tls_version", (b"",))[0].decode(),
        certificate.not_valid_after_utc.timestamp(),
        certificate.fingerprint(hashes.SHA256()),
        enrolment_id=enrolment_id,
    )


def unnamed_source(context: CallContext) -> str:
    """Returns whom to hold responsible for a call whose certificate names no node.

    That is the token (`enroll/ID`), or else the caller's address without its port. Neither is a
    node id.
    """
    try:
        return bootstrap_from_context(context).node_id
    except CallerError:
        return context.peer().rpartition(":")[0] or "an unknown address"


def _trust_domain(certificate: x509.Certificate) -> str:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uri.removeprefix("spiffe://").partition("/")[0]
