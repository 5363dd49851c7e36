"""The entries of revocation lists: most processes know of none, and do not load this module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography import x509

from aegis_certs._x509.extensions import extension_of
from aegis_certs._x509.validity import common_name


class RevocationReason(StrEnum):
    """Why a certificate is revoked: the reasons of RFC 5280, section 5.3.1.

    This package puts no certificate on hold, because it cannot end the hold; other CAs may.
    """

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    CA_COMPROMISE = "ca-compromise"
    AFFILIATION_CHANGED = "affiliation-changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    CERTIFICATE_HOLD = "certificate-hold"
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"
    AA_COMPROMISE = "aa-compromise"


REASON_FLAGS = {reason: x509.ReasonFlags[reason.name.lower()] for reason in RevocationReason}
_REASONS: Mapping[x509.ReasonFlags | None, RevocationReason] = {
    flag: reason for reason, flag in REASON_FLAGS.items()
}


@dataclass(frozen=True, slots=True)
class Revocation:
    """The revocation of one certificate.

    Attributes:
        serial: Its serial number in hexadecimal.
        date: When it was revoked (UTC).
        reason: Why it was revoked.
        issuer: The common name of the CA that revoked it.
    """

    serial: str
    date: datetime
    reason: RevocationReason
    issuer: str


def revocations_of(crl: x509.CertificateRevocationList) -> Iterator[tuple[int, Revocation]]:
    """The serial number and the revocation of each entry of a CRL."""
    for revoked in crl:
        yield revoked.serial_number, _revocation(crl, revoked)


def _revocation(
    crl: x509.CertificateRevocationList, revoked: x509.RevokedCertificate
) -> Revocation:
    extension = extension_of(revoked, x509.CRLReason)
    flag = None if extension is None else extension.reason
    reason = _REASONS.get(flag, RevocationReason.UNSPECIFIED)
    issuer = common_name(crl.issuer)
    return Revocation(f"{revoked.serial_number:x}", revoked.revocation_date_utc, reason, issuer)
