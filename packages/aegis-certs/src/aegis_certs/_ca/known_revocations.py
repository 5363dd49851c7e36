"""What is revoked: the union of `crl.pem` and of the audit log, which cannot be put back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509

from aegis_certs._ca import audit_log
from aegis_certs._ca.audit_log import Action
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import parse_isoformat
from aegis_certs._x509.keys import key_id
from aegis_certs._x509.revocation_list import RevocationList
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import common_name
from aegis_certs.errors import CertsError, DirectoryError

if TYPE_CHECKING:
    # Most directories know of no revocation.
    from aegis_certs._x509.revocation import Revocation, RevocationReason


class RevokedEntry(NamedTuple):
    """One revoked certificate of one CA.

    Attributes:
        serial: Its serial number.
        date: When it was revoked.
        reason: Why it was revoked.
        issuer: The key identifier of the CA, in hexadecimal; empty in an entry of a CRL.
        not_after: Its end; None in an entry of a CRL.
    """

    serial: int
    date: datetime
    reason: RevocationReason
    issuer: str = ""
    not_after: datetime | None = None


class KnownRevocations(NamedTuple):
    """What a directory knows about revocations.

    Attributes:
        all: The revocations in `crl.pem` and in the audit log.
        unlisted: Those that only the audit log has, and their CAs: `crl.pem` is lost, or older.
        error: Why `crl.pem` cannot be used; None if it can be used or is missing.
    """

    all: RevocationList
    unlisted: Sequence[tuple[x509.Certificate, Revocation]] = ()
    error: CertsError | None = None


def known_revocations(store: Store, bundle: TrustBundle, at: datetime) -> KnownRevocations:
    """The revocations in the `crl.pem` and in the audit log of a directory."""
    logged = logged_revocations(store.audit_path, bundle, at)  # first: the log is written first
    listed, error = RevocationList.empty(), None
    try:
        if (data := files.read(store.crl_path)) is not None:
            listed = RevocationList.from_pem(data, bundle, at=at, source=store.crl_path)
    except CertsError as found:
        error = found
    unlisted = [(ca, one) for ca, one in logged if not listed.has_serial(one.serial)]
    return KnownRevocations(listed.adding(unlisted, bundle.certificates), unlisted, error)


def logged_revocations(
    audit_path: Path, bundle: TrustBundle, at: datetime
) -> Sequence[tuple[x509.Certificate, Revocation]]:
    """The revocations in an audit log of certificates that have not expired, and their CAs.

    Only the directory of a CA has an audit log, and only its owner can read it. For others this
    is empty.
    """
    entries: list[RevokedEntry] = []
    with suppress(DirectoryError):
        entries = [*logged_entries(audit_path)]
    if entries:
        from aegis_certs._x509.revocation import Revocation

        cas = {key_id(ca).hex(): ca for ca in bundle.certificates}
        return [
            (ca, Revocation(f"{one.serial:x}", one.date, one.reason, common_name(ca.subject)))
            for one in entries
            if (ca := cas.get(one.issuer)) and (one.not_after is None or at <= one.not_after)
        ]
    return ()


def logged_entries(audit_path: Path) -> Iterator[RevokedEntry]:
    """The revocations in an audit log; what cannot be read is skipped."""
    lines = [*audit_log.lines(audit_path, Action.REVOKE)]
    if not lines:
        return
    from aegis_certs._x509.revocation import RevocationReason

    for line in lines:
        try:
            yield RevokedEntry(
                int(line["serial"], 16),
                parse_isoformat(line["time"]),
                RevocationReason(line["reason"]),
                str(line["issuer"]),
                parse_isoformat(line["not_after"]) if "not_after" in line else None,
            )
        except (KeyError, TypeError, ValueError):
            continue
