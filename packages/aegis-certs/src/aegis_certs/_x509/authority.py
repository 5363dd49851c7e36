"""The authority of a mesh: the certificate that signs its documents. Pure."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from aegis_certs._time import utc_or_now
from aegis_certs._x509.extensions import extension_of
from aegis_certs._x509.identity import alternative_names, trust_domain_of_ca
from aegis_certs._x509.keys import UNUSABLE_KEY, is_usable_key
from aegis_certs._x509.names import validate_trust_domain
from aegis_certs._x509.trust import TrustBundle, is_ca, signed_by
from aegis_certs._x509.validity import check_dates, common_name
from aegis_certs.errors import UntrustedError

DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")  # RFC 9336
_SPIFFE = "spiffe://"
_PATH = "/authority"
_WHAT = "the signer of a document"
_SIGNER_ADVICE = "the issuers of the mesh make a new one in time; check the clock of this machine"


def authority_id(trust_domain: str) -> str:
    """The SPIFFE id of the authority of a trust domain."""
    return f"{_SPIFFE}{trust_domain}{_PATH}"


def authority_domain_of(certificate: x509.Certificate) -> str | None:
    """The trust domain whose authority a certificate names; None if it names no authority.

    Such a certificate has this one name and the one usage document signing (RFC 9336), so it is
    the certificate of no node, and no certificate of a node is one of these.
    """
    try:
        usage = extension_of(certificate, x509.ExtendedKeyUsage)
        names = extension_of(certificate, x509.SubjectAlternativeName)
        uris = alternative_names(certificate).uris
        has_common_name = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        if usage is None or names is None or [*usage] != [DOCUMENT_SIGNING]:
            return None
        if len(uris) != 1 or len([*names]) != 1 or has_common_name or is_ca(certificate):
            return None
        domain = validate_trust_domain(uris[0].removeprefix(_SPIFFE).removesuffix(_PATH))
    except Exception:  # noqa: BLE001 - the parser's errors have no common root
        return None
    return domain if uris[0] == authority_id(domain) else None


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate names the authority of a mesh, which signs documents and nothing else.

    This proves nothing: `verify_authority` says whether it may be used.
    """
    return authority_domain_of(certificate) is not None


def verify_authority(
    certificate: x509.Certificate,
    bundle: TrustBundle,
    trust_domain: str,
    *,
    at: datetime | None = None,
) -> x509.Certificate:
    """Checks the certificate of a document's signer; returns the root that issued it.

    A root of the bundle must have issued it directly: an intermediate CA, which may be on many
    machines, can issue members but cannot speak for the mesh.

    Args:
        certificate: The certificate.
        bundle: The CAs that are trusted now.
        trust_domain: The trust domain of the mesh, for which the root must sign, if it names one.
        at: The time of the check; now by default.

    Raises:
        UntrustedError: It is not the authority of this trust domain, or no such root issued it.
        ExpiredError: The certificate or the root has expired.
        NotYetValidError: The certificate or the root is not valid yet.
    """
    at = utc_or_now(at)
    if authority_domain_of(certificate) != trust_domain:
        raise UntrustedError(_WHAT, f"its certificate is not that of {authority_id(trust_domain)}")
    root = root_of(certificate, bundle, trust_domain)
    if root is None:
        reason = f"no root of {trust_domain} in the trust bundle issued its certificate directly"
        raise UntrustedError(_WHAT, reason)
    if not is_usable_key(certificate.public_key()):
        raise UntrustedError(_WHAT, UNUSABLE_KEY)
    check_dates(certificate, at, _WHAT, _SIGNER_ADVICE)
    check_dates(root, at, f"the CA {common_name(root.subject)}", _SIGNER_ADVICE)
    return root


def root_of(
    certificate: x509.Certificate, bundle: TrustBundle, trust_domain: str
) -> x509.Certificate | None:
    """The root of this trust domain in the bundle that issued a certificate directly."""
    for root in bundle.certificates:
        if root.subject != root.issuer or root.subject != certificate.issuer or not is_ca(root):
            continue
        if trust_domain_of_ca(root) in (None, trust_domain) and signed_by(certificate, root):
            return root
    return None
