"""When a certificate starts, ends and is due for renewal. Pure: the time is an argument."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from cryptography import x509

from aegis_certs.errors import ExpiredError, InvalidRequestError, NotYetValidError

_DAY = timedelta(days=1)
BACKDATE = timedelta(minutes=5)  # the clocks of CA and verifier may differ by this
NEW_CA_ADVICE = (
    "replace the CA where its key is (`aegis-certs rotate-ca prepare` is the first step)"
)
SHORT_LIFE = timedelta(hours=1)  # such a certificate serves a command, and is never renewed
_MIN_LIFE = timedelta(seconds=1)  # X.509 counts in whole seconds
MAX_DAYS = 36_500


class Validity(NamedTuple):
    """Start and end, both in UTC and in whole seconds, as X.509 counts."""

    not_before: datetime
    not_after: datetime


class CertificateState(StrEnum):
    """The state of a certificate.

    `expiring` starts when a third of the life is left. A `replaced` certificate has a successor,
    but whoever has its key can still use it.
    """

    VALID = "valid"
    EXPIRING = "expiring"
    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    REVOKED = "revoked"
    REPLACED = "replaced"
    UNTRUSTED = "untrusted"
    UNREADABLE = "unreadable"


def validity(at: datetime, days: float, issuer: x509.Certificate | None = None) -> Validity:
    """The validity of a certificate that is issued now: backdated, and within its issuer's."""
    if not _MIN_LIFE / _DAY <= days <= MAX_DAYS:
        raise InvalidRequestError("days", days, f"give at least a second and at most {MAX_DAYS}")
    at = at.replace(microsecond=0)
    span = Validity(at - BACKDATE, at + timedelta(days=days))
    if issuer is None:
        return span
    check_dates(issuer, at, f"the CA {common_name(issuer.subject)}", NEW_CA_ADVICE)
    return Validity(
        max(span.not_before, issuer.not_valid_before_utc),
        min(span.not_after, issuer.not_valid_after_utc),
    )


def issued_at(start: datetime) -> datetime:
    """The time of issue, which is later than the backdated start.

    The life of a certificate is counted from here. Counted from the start, a certificate that
    lives a few minutes would be due for renewal as soon as it is issued.
    """
    return start + BACKDATE


def is_short_lived(start: datetime, end: datetime) -> bool:
    """Whether a certificate lives for an hour or less."""
    return end - issued_at(start) <= SHORT_LIFE


def check_dates(certificate: x509.Certificate, at: datetime, subject: str, advice: str) -> None:
    """Checks that the certificate is valid at this time.

    Raises:
        ExpiredError: The certificate has expired; the advice goes into the message.
        NotYetValidError: The certificate is not valid yet.
    """
    if at > certificate.not_valid_after_utc:
        raise ExpiredError(subject, certificate.not_valid_after_utc, advice)
    if at < certificate.not_valid_before_utc:
        raise NotYetValidError(subject, certificate.not_valid_before_utc)


def state_by_dates(certificate: x509.Certificate, at: datetime) -> CertificateState:
    """The state of a certificate by its dates alone."""
    return state_between(certificate.not_valid_before_utc, certificate.not_valid_after_utc, at)


def state_between(start: datetime, end: datetime, at: datetime) -> CertificateState:
    """The state of a certificate with these dates."""
    if at > end:
        return CertificateState.EXPIRED
    if at < start:
        return CertificateState.NOT_YET_VALID
    if (end - at) * 3 < end - issued_at(start):
        return CertificateState.EXPIRING
    return CertificateState.VALID


def days_until(end: datetime, at: datetime) -> int:
    """The whole days until the end of a certificate, or since then as a negative number."""
    return int((end - at) / _DAY)


def common_name(name: x509.Name) -> str:
    """The common name of a subject or issuer, or all of the name if it has none; for messages."""
    names = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else name.rfc4514_string() or "(no name)"
