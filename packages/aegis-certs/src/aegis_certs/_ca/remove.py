"""Removing a node whose certificates are all over: its files, and its entries in the inventory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from aegis_certs._ca import audit_log
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.inventory import Inventory
from aegis_certs._ca.issued import IssuedCertificate
from aegis_certs._ca.view import CAView
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.keys import key_id
from aegis_certs._x509.names import CA_NAME, validate_node_id
from aegis_certs._x509.trust import TrustBundle
from aegis_certs.errors import CertsError, NotFoundError, StillValidError, UntrustedError


def remove_node(
    directory: str | Path, node_id: str, *, at: datetime | None = None
) -> Sequence[Path]:
    """Removes the files of a node, and its entries in the inventory.

    Revocations stay in `crl.pem` and in the audit log until the revoked certificates expire. The
    key of the CA is not needed.

    Args:
        directory: The certificate directory.
        node_id: The node.
        at: The current time; now by default.

    Returns:
        The removed files.

    Raises:
        NotFoundError: Nothing is known of the node, or there is no trust bundle.
        StillValidError: One of its certificates is neither expired nor revoked.
        UntrustedError: The certificate in the directory is another CA's.
        CertsError: The directory cannot be used.
    """
    validate_node_id(node_id)
    store, now = Store(directory), utc_or_now(at)
    if (bundle := store.chain(CA_NAME)) is None:
        advice = "name the directory of the CA with --dir"
        raise NotFoundError("trust bundle", store.certificate_path(CA_NAME), advice)
    with store.locked():
        inventory = Inventory.load(store)
        entries = inventory.of_node(node_id)
        # Without its entry nobody honours a token, so it needs no other end.
        tokens = [token.serial for token in inventory.tokens() if token.id == node_id]
        paths = [path(node_id) for path in (store.key_path, store.certificate_path)]
        placed = [path for path in paths if files.exists(path)]
        if not (entries or tokens or placed):
            advice = "see `aegis-certs list` for the nodes"
            raise NotFoundError(f"certificate of {node_id}", paths[-1], advice)
        _check_over(CAView(store, now, TrustBundle(bundle)), node_id, entries)
        serials = [*(entry.serial for entry in entries), *tokens]
        if files.exists(store.audit_path):
            facts = {"id": node_id, "serials": serials}
            audit_log.record(store.audit_path, Action.REMOVE, now, facts)
        store.remove(node_id)
        for serial in serials:  # last, so that the command can be run again after a crash
            inventory.discard(serial)
        if serials:
            inventory.save(store, now)
    return placed


def _check_over(view: CAView, node_id: str, entries: Sequence[IssuedCertificate]) -> None:
    """Raises if a certificate of the node can still be used."""
    trusted = {key_id(ca).hex() for ca in view.bundle.certificates}
    for entry in (*entries, *_not_recorded(view, node_id, entries)):
        if entry.issuer in trusted and view.is_usable(entry):
            raise StillValidError(node_id, entry.not_after)


def _not_recorded(
    view: CAView, node_id: str, entries: Sequence[IssuedCertificate]
) -> Iterator[IssuedCertificate]:
    """The certificate in the directory if the inventory does not have it."""
    try:
        chain = view.store.chain(node_id)
    except CertsError:
        if not entries:
            raise  # it may be anything
        return  # it is damaged, and the inventory says what it was
    if not chain or f"{chain[0].serial_number:x}" in {entry.serial for entry in entries}:
        return
    if view.bundle.issuer_of(chain[0], chain[1:]) is None:
        reason = "this CA did not issue it; move its files away if they are not needed"
        raise UntrustedError(node_id, reason)
    yield IssuedCertificate.of(node_id, chain[0])
