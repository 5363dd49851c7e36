"""Signing revocation lists: earlier and new revocations, without expired certificates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from cryptography import x509

from aegis_certs._ca.builder import Issuer, build_crl
from aegis_certs._ca.inventory import Inventory
from aegis_certs._ca.known_revocations import RevokedEntry, logged_entries
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._x509.keys import key_id
from aegis_certs._x509.pem import encode_crls, parse_crls
from aegis_certs._x509.revocation import REASON_FLAGS, revocations_of
from aegis_certs._x509.revocation_list import RevocationList, crl_number
from aegis_certs._x509.trust import TrustBundle, signs_cas
from aegis_certs.errors import CertsError

# An offline CA signs a new CRL once a month, other CAs at half of that.
_LIFE = timedelta(days=30)


def is_due(revocations: RevocationList, at: datetime) -> bool:
    """Whether the CRLs should be signed again."""
    end = revocations.next_update
    return end is not None and end - at < _LIFE / 2


def write_revocations(
    store: Store,
    issuers: Sequence[Issuer],
    bundle: TrustBundle,
    inventory: Inventory,
    at: datetime,
) -> RevocationList:
    """Signs and writes `crl.pem`, one CRL for each issuer; the caller holds the lock.

    Earlier revocations are read from the CRLs and from the audit log. So neither a lost file nor
    a crash between the two writes makes a certificate valid again. CRLs of other CAs in the file
    (such as that of an offline root) are kept.
    """
    before = _existing_crls(store)
    now = int(at.timestamp() * 1000)
    at = at.replace(microsecond=0)
    ours = {issuer.certificate.subject.public_bytes() for issuer in issuers}
    known = {ca.subject.public_bytes() for ca in bundle.certificates}
    logged = list(logged_entries(store.audit_path))
    crls = []
    for issuer in issuers:
        name, key = issuer.certificate.subject.public_bytes(), key_id(issuer.certificate).hex()
        previous = [crl for crl in before if crl.issuer.public_bytes() == name]
        entries = {entry.serial: entry for crl in previous for entry in _entries(crl)}
        entries |= {entry.serial: entry for entry in logged if entry.issuer == key}
        updates = [crl.last_update_utc for crl in previous if crl.last_update_utc <= at]
        last_update = max(updates, default=None)
        kept = [
            (entry.serial, entry.date, REASON_FLAGS[entry.reason])
            for entry in sorted(entries.values(), key=lambda entry: entry.date)
            if _must_list(entry, inventory, last_update)
        ]
        # The time makes numbers increase even if the earlier CRLs are lost.
        number = max([now, *(crl_number(crl) + 1 for crl in previous)])
        crls.append(build_crl(issuer, kept, number, at, _next_update(issuer, inventory, at)))
    others = [
        crl
        for crl in before
        if crl.issuer.public_bytes() in known and crl.issuer.public_bytes() not in ours
    ]
    data = encode_crls([*crls, *others])
    files.write(store.crl_path, data, files.PUBLIC)
    return RevocationList.from_pem(data, bundle, at=at, source=store.crl_path)


def copy_crls(root: Store, store: Store) -> None:
    """Copies the CRLs of a root, which will be offline; the caller holds both locks.

    A verifier that checks a whole chain needs them besides the issuing CA's own CRL.
    """
    theirs = _existing_crls(root)
    names = {crl.issuer.public_bytes() for crl in theirs}
    kept = [crl for crl in _existing_crls(store) if crl.issuer.public_bytes() not in names]
    files.write(store.crl_path, encode_crls([*kept, *theirs]), files.PUBLIC)


def _next_update(issuer: Issuer, inventory: Inventory, at: datetime) -> datetime:
    """When a CRL ends: a CA that signs CAs may be offline for as long as those CAs live."""
    key = key_id(issuer.certificate).hex()
    below = inventory if signs_cas(issuer.certificate) else ()
    return max([at + _LIFE, *(entry.not_after for entry in below if entry.issuer == key)])


def _existing_crls(store: Store) -> Sequence[x509.CertificateRevocationList]:
    data = files.read(store.crl_path)
    try:
        return () if data is None else parse_crls(data, source=store.crl_path)
    except CertsError:
        return ()  # damaged: the audit log has the same revocations


def _entries(crl: x509.CertificateRevocationList) -> Iterable[RevokedEntry]:
    return [RevokedEntry(serial, one.date, one.reason) for serial, one in revocations_of(crl)]


def _must_list(entry: RevokedEntry, inventory: Inventory, last_update: datetime | None) -> bool:
    """RFC 5280, 3.3: an entry stays until it was in a CRL issued after the certificate's end."""
    issued = inventory.get(f"{entry.serial:x}")
    end = entry.not_after if issued is None else issued.not_after
    return end is None or last_update is None or last_update <= end
