"""Revoking certificates in a CA session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aegis_certs._ca import audit_log
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.inventory import IssuedCertificate
from aegis_certs._ca.session import CASession
from aegis_certs._time import isoformat
from aegis_certs._x509.keys import key_id
from aegis_certs._x509.revocation_list import Revocation, RevocationReason
from aegis_certs.errors import InvalidRequestError, NotFoundError, UntrustedError

_REFUSED_REASONS = {RevocationReason.CERTIFICATE_HOLD, RevocationReason.AA_COMPROMISE}


def revoke(
    session: CASession, node_id_or_serial: str, reason: RevocationReason
) -> tuple[Revocation, ...]:
    """Revokes the named certificates and signs the CRLs; earlier revocations do not change."""
    if reason in _REFUSED_REASONS:
        raise InvalidRequestError("reason", str(reason), "choose a permanent reason")
    on_disk = session.store.with_reserve  # to revoke is urgent, also on a full disk
    issued = on_disk(lambda: _issued(session, node_id_or_serial))
    found = _of_our_cas(session, issued)
    entries = {entry.serial: entry for entry in found}
    on_disk(lambda: session.revocations)  # which may sign a lost list again
    new = [entry for entry in entries.values() if not session.revocations.has_serial(entry.serial)]
    for entry in new:
        facts = {
            "id": entry.id,
            "serial": entry.serial,
            "issuer": entry.issuer,
            "not_after": isoformat(entry.not_after),
            "reason": reason,
        }
        on_disk(partial(_record, session, facts))
    if new:
        session.revocations = on_disk(session.write_revocations)
    return tuple(one for one in session.revocations if one.serial in entries)


def _record(session: CASession, facts: Mapping[str, Any]) -> None:
    audit_log.record(session.store.audit_path, Action.REVOKE, session.at, facts)


def _issued(session: CASession, node_id_or_serial: str) -> Sequence[IssuedCertificate]:
    """The certificates of a node, or the one with a serial number, that have not expired."""
    names = session.store.names()
    session.adopt(session.unrecorded({node_id_or_serial}.intersection(names)))
    found = session.inventory.of_node(node_id_or_serial)
    serial = node_id_or_serial.lower().replace(":", "").lstrip("0")
    if not found and session.inventory.get(serial) is None:
        session.adopt(one for one in session.unrecorded(names) if one.serial == serial)
    one = session.inventory.get(serial)
    live = [e for e in found or filter(None, [one]) if session.at <= e.not_after]
    if not live:
        raise NotFoundError(
            f"certificate of {node_id_or_serial} that was issued and has not expired",
            session.store.inventory_path,
            "see `aegis-certs list` for node ids and serial numbers",
        )
    return live


def _of_our_cas(
    session: CASession, entries: Sequence[IssuedCertificate]
) -> Sequence[IssuedCertificate]:
    """The certificates whose CA can revoke them: it is trusted, and its key is here."""
    ours = {key_id(issuer.certificate).hex() for issuer in session.issuers()}
    if found := [entry for entry in entries if entry.issuer in ours]:
        return found
    entry = entries[-1]
    if any(key_id(ca).hex() == entry.issuer for ca in session.bundle.certificates):
        what, place = f"key of the CA of {entry.id}", session.store.directory
        raise NotFoundError(what, place, "revoke the certificate where that key is")
    reason = "its CA is not in the trust bundle any more, so there is nothing to revoke"
    raise UntrustedError(entry.id, reason)
