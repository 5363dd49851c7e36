"""Signing revocation lists: what was revoked before, what is revoked now, less what has ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509

from aegis_certs._ca import audit_log
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.builder import Issuer, build_crl
from aegis_certs._ca.inventory import Inventory
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import parse_isoformat
from aegis_certs._x509.keys import key_id
from aegis_certs._x509.pem import encode_crls, parse_crls
from aegis_certs._x509.revocation_list import (
    REASON_FLAGS,
    RevocationList,
    RevocationReason,
    crl_number,
    revocations_of,
)
from aegis_certs._x509.trust import TrustBundle, signs_cas
from aegis_certs.errors import CertsError

LIFE = timedelta(days=30)  # an offline CA signs anew once a month; others do it at half of that


class Entry(NamedTuple):
    """One revoked certificate of one CA."""

    serial: int
    date: datetime
    reason: RevocationReason


def read_revocations(store: Store, bundle: TrustBundle, at: datetime) -> RevocationList:
    """What is revoked by the `crl.pem` of a directory; empty where there is none.

    Raises:
        CertsError: It cannot be read or believed.
    """
    data = files.read(store.crl_path)
    if data is None:
        return RevocationList.empty()
    return RevocationList.from_pem(data, bundle, at=at, source=store.crl_path)


def is_due(store: Store, bundle: TrustBundle, at: datetime) -> bool:
    """Tells whether the lists of a directory should be signed anew."""
    try:
        revocations = read_revocations(store, bundle, at)
    except CertsError:
        return True
    end = revocations.next_update
    return end is not None and end - at < LIFE / 2


def write_revocations(
    store: Store,
    issuers: Sequence[Issuer],
    bundle: TrustBundle,
    inventory: Inventory,
    at: datetime,
) -> RevocationList:
    """Signs and writes `crl.pem`, one CRL for each of our CAs; only under the lock.

    What was revoked comes from the lists before and from the audit log, so that neither a lost
    file nor a crash between the two brings a certificate back. Lists of other CAs in the file
    (such as that of an offline root) are kept.

    Raises:
        DirectoryError: It cannot be written.
    """
    before = _before(store)
    now = int(at.timestamp() * 1000)
    at = at.replace(microsecond=0)
    ours = {issuer.certificate.subject.public_bytes() for issuer in issuers}
    known = {ca.subject.public_bytes() for ca in bundle.certificates}
    logged = list(_logged(store))
    crls = []
    for issuer in issuers:
        name, key = issuer.certificate.subject.public_bytes(), key_id(issuer.certificate).hex()
        previous = [crl for crl in before if crl.issuer.public_bytes() == name]
        entries = {entry.serial: entry for key_of, entry in logged if key_of == key}
        entries |= {entry.serial: entry for crl in previous for entry in _entries(crl)}
        shown = max((one for crl in previous if (one := crl.last_update_utc) <= at), default=None)
        kept = [
            (entry.serial, entry.date, REASON_FLAGS[entry.reason])
            for entry in sorted(entries.values(), key=lambda entry: entry.date)
            if _still_counts(entry, inventory, shown)
        ]
        # The time makes numbers rise even where the lists before are lost.
        past = max(map(crl_number, previous), default=0)
        number = max(past + 1, now)
        crls.append(build_crl(issuer, kept, number, at, _next_update(issuer, inventory, at)))
    others = [
        crl
        for crl in before
        if crl.issuer.public_bytes() in known and crl.issuer.public_bytes() not in ours
    ]
    data = encode_crls([*crls, *others])
    files.write(store.crl_path, data, files.PUBLIC)
    return RevocationList.from_pem(data, bundle, at=at, source=store.crl_path)


def carry(root: Store, store: Store) -> None:
    """Brings the lists of a root, which will be away, to an issuing CA; only under both locks.

    Whoever checks a whole chain needs them beside the issuing CA's own.

    Raises:
        DirectoryError: They cannot be read or written.
    """
    theirs = _before(root)
    names = {crl.issuer.public_bytes() for crl in theirs}
    kept = [crl for crl in _before(store) if crl.issuer.public_bytes() not in names]
    files.write(store.crl_path, encode_crls([*kept, *theirs]), files.PUBLIC)


def _next_update(issuer: Issuer, inventory: Inventory, at: datetime) -> datetime:
    """When a list ends: a CA that signs CAs may be offline for as long as these live."""
    key = key_id(issuer.certificate).hex()
    below = inventory if signs_cas(issuer.certificate) else ()
    return max([at + LIFE, *(entry.not_after for entry in below if entry.issuer == key)])


def _before(store: Store) -> Sequence[x509.CertificateRevocationList]:
    data = files.read(store.crl_path)
    try:
        return () if data is None else parse_crls(data, source=store.crl_path)
    except CertsError:
        return ()  # damaged: the audit log knows what was in it


def _entries(crl: x509.CertificateRevocationList) -> Iterable[Entry]:
    return [Entry(serial, one.date, one.reason) for serial, one in revocations_of(crl)]


def _logged(store: Store) -> Iterable[tuple[str, Entry]]:
    for line in audit_log.lines(store.audit_path):
        if line.get("action") != Action.REVOKE:
            continue
        try:
            reason = RevocationReason(line["reason"])
            entry = Entry(int(line["serial"], 16), parse_isoformat(line["time"]), reason)
            yield str(line["issuer"]), entry
        except (KeyError, TypeError, ValueError):
            continue


def _still_counts(entry: Entry, inventory: Inventory, shown: datetime | None) -> bool:
    """RFC 5280, 3.3: an entry stays until a list issued past the certificate's end has had it."""
    issued = inventory.get(f"{entry.serial:x}")
    return issued is None or shown is None or shown <= issued.not_after
