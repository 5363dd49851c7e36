"""Revoking certificates in a CA session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aegis_certs._ca import audit_log
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.issued import Record
from aegis_certs._ca.session import CASession
from aegis_certs._time import isoformat
from aegis_certs._x509.keys import key_id
from aegis_certs._x509.revocation import Revocation, RevocationReason
from aegis_certs.errors import InvalidRequestError, NotFoundError, UntrustedError

_REFUSED_REASONS = {RevocationReason.CERTIFICATE_HOLD, RevocationReason.AA_COMPROMISE}


def revoke(
    session: CASession, node_id_or_serial: str, reason: RevocationReason
) -> tuple[Revocation, ...]:
    """Revokes the named certificates and signs the CRLs; earlier revocations do not change."""
    if reason in _REFUSED_REASONS:
        raise InvalidRequestError("reason", str(reason), "choose a permanent reason")
    # To revoke is urgent, also on a full disk.
    issued = session.store.with_reserve(lambda: _issued(session, node_id_or_serial))
    return revoke_entries(session, of_our_cas(session, issued), reason)


def revoke_entries(
    session: CASession, found: Sequence[Record], reason: RevocationReason
) -> tuple[Revocation, ...]:
    """Revokes certificates of CAs whose keys are here, and signs the CRLs."""
    on_disk = session.store.with_reserve
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


def _issued(session: CASession, node_id_or_serial: str) -> Sequence[Record]:
    """The certificates of a node, or the one with a serial number, that have not expired.

    Those of its tokens are among them: who has one that is not used could become the node again.
    """
    names = session.store.names()
    session.adopt(session.unrecorded({node_id_or_serial}.intersection(names)))
    found = session.inventory.of_node(node_id_or_serial)
    serial = node_id_or_serial.lower().replace(":", "").lstrip("0")
    if not found and session.inventory.get(serial) is None:
        session.adopt(one for one in session.unrecorded(names) if one.serial == serial)
    inventory = session.inventory
    one = inventory.get(serial) or inventory.token(serial)
    tokens = [token for token in inventory.tokens() if token.id == node_id_or_serial]
    named: Sequence[Record] = [*found, *tokens] or ([one] if one else [])
    live = [entry for entry in named if session.at <= entry.not_after]
    if not live:
        raise NotFoundError(
            f"certificate of {node_id_or_serial} that was issued and has not expired",
            session.store.inventory_path,
            "see `aegis-certs list` for node ids and serial numbers",
        )
    return live


def of_our_cas(session: CASession, entries: Sequence[Record]) -> Sequence[Record]:
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
