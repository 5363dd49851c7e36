"""Revoking certificates at the desk of their CA."""

from __future__ import annotations

from collections.abc import Sequence

from aegis_certs._ca import audit_log
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.inventory import IssuedCertificate
from aegis_certs._ca.session import CASession
from aegis_certs._x509.keys import key_id
from aegis_certs._x509.revocation_list import Revocation, RevocationReason
from aegis_certs.errors import InvalidRequestError, NotFoundError, UntrustedError

_NOT_GIVEN = {RevocationReason.CERTIFICATE_HOLD, RevocationReason.AA_COMPROMISE}


def revoke(
    desk: CASession, node_id_or_serial: str, reason: RevocationReason
) -> tuple[Revocation, ...]:
    """Revokes what is meant, and signs the lists that say so; what is revoked stays as it is.

    Raises:
        NotFoundError: No such certificate was issued, it has ended, or its CA's key is not here.
        UntrustedError: Its CA is not trusted any more, so there is nothing to revoke.
        InvalidRequestError: The reason is not one for good.
    """
    if reason in _NOT_GIVEN:
        raise InvalidRequestError("reason", str(reason), "choose one that is for good")
    entries = {entry.serial: entry for entry in _of_our_cas(desk, _meant(desk, node_id_or_serial))}
    fresh = [entry for entry in entries.values() if not desk.revocations.has_serial(entry.serial)]
    for entry in fresh:
        facts = {"id": entry.id, "serial": entry.serial, "issuer": entry.issuer, "reason": reason}
        audit_log.record(desk.store.audit_path, Action.REVOKE, desk.at, facts)
    if fresh:
        desk.revocations = desk.write_revocations()
    return tuple(found for found in desk.revocations if found.serial in entries)


def _meant(desk: CASession, node_id_or_serial: str) -> Sequence[IssuedCertificate]:
    """The certificates of a node, or the one of a serial number, that have not ended."""
    found = desk.inventory.of_node(node_id_or_serial)
    one = desk.inventory.get(node_id_or_serial.lower().replace(":", "").lstrip("0"))
    live = [e for e in found or filter(None, [one]) if desk.at <= e.not_after]
    if not live:
        raise NotFoundError(
            f"certificate of {node_id_or_serial} that was issued and has not ended",
            desk.store.inventory_path,
            "see `aegis-certs list` for node ids and serial numbers",
        )
    return live


def _of_our_cas(
    desk: CASession, entries: Sequence[IssuedCertificate]
) -> Sequence[IssuedCertificate]:
    """Those of the certificates whose CA can say so: it is trusted, and its key is here."""
    ours = {key_id(issuer.certificate).hex() for issuer in desk.issuers()}
    if found := [entry for entry in entries if entry.issuer in ours]:
        return found
    entry = entries[-1]
    if any(key_id(ca).hex() == entry.issuer for ca in desk.bundle.certificates):
        what, place = f"key of the CA of {entry.id}", desk.store.directory
        raise NotFoundError(what, place, "revoke it where that key is")
    reason = "its CA is not in the trust bundle any more, so there is nothing to revoke"
    raise UntrustedError(entry.id, reason)
