"""When a certificate begins, ends and wants renewal. Pure: the clock is an argument."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from cryptography import x509

from aegis_certs.errors import ExpiredError, InvalidRequestError, NotYetValidError

BACKDATE = timedelta(minutes=5)  # tolerated between the clocks of CA and verifier
_MAX_DAYS = 36_500


class Validity(NamedTuple):
    """From when to when, both in UTC and whole seconds, as X.509 counts."""

    not_before: datetime
    not_after: datetime


class CertificateState(StrEnum):
    """Where a certificate stands.

    `expiring` begins when a third of the life is left. `replaced` has a successor, and could
    still be used by whoever has its key.
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
    """The validity of what is issued now: backdated, and never past its issuer's end.

    Raises:
        InvalidRequestError: The days are not above 0, or too many.
        ExpiredError: The issuer has expired.
        NotYetValidError: The issuer is not valid yet.
    """
    if not 0 < days <= _MAX_DAYS:
        raise InvalidRequestError("days", days, f"give more than 0 and at most {_MAX_DAYS}")
    at = at.replace(microsecond=0)
    span = Validity(at - BACKDATE, at + timedelta(days=days))
    if issuer is None:
        return span
    check_dates(issuer, at, f"the CA {common_name(issuer.subject)}", NEW_CA_ADVICE)
    return Validity(
        max(span.not_before, issuer.not_valid_before_utc),
        min(span.not_after, issuer.not_valid_after_utc),
    )


NEW_CA_ADVICE = "make a new CA, and issue the certificates of the nodes from it"


def check_dates(certificate: x509.Certificate, at: datetime, subject: str, advice: str) -> None:
    """Raises where the certificate is not valid at this moment.

    Raises:
        ExpiredError: It has ended; the advice goes into the message.
        NotYetValidError: It has not begun.
    """
    if at > certificate.not_valid_after_utc:
        raise ExpiredError(subject, certificate.not_valid_after_utc, advice)
    if at < certificate.not_valid_before_utc:
        raise NotYetValidError(subject, certificate.not_valid_before_utc)


def state_by_dates(certificate: x509.Certificate, at: datetime) -> CertificateState:
    """Where the certificate stands by its dates alone."""
    return state_between(certificate.not_valid_before_utc, certificate.not_valid_after_utc, at)


def state_between(start: datetime, end: datetime, at: datetime) -> CertificateState:
    """Where a certificate of these dates stands.

    Its life is counted from the moment of issue, not from the backdated start: otherwise a
    certificate of a few minutes would be due when it is new.
    """
    if at > end:
        return CertificateState.EXPIRED
    if at < start:
        return CertificateState.NOT_YET_VALID
    if (end - at) * 3 < end - (start + BACKDATE):
        return CertificateState.EXPIRING
    return CertificateState.VALID


def common_name(name: x509.Name) -> str:
    """The common name of a subject or issuer, or all of it where it has none; for messages."""
    names = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else name.rfc4514_string() or "(no name)"
