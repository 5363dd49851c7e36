"""Renewing certificates at the desk of their CA."""

from __future__ import annotations

from dataclasses import dataclass

from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.session import CASession
from aegis_certs._ca.spec import IdentityRequest
from aegis_certs._x509.names import OLD_CA_NAME
from aegis_certs._x509.tls_config import TLSConfig
from aegis_certs._x509.validity import CertificateState, state_by_dates
from aegis_certs.errors import CertsError, NotFoundError


@dataclass(frozen=True)
class Renewal:
    """What became of one certificate that was due.

    Attributes:
        node_id: Whose.
        tls: The new identity; None where it could not be renewed.
        error: Why not.
    """

    node_id: str
    tls: TLSConfig | None
    error: CertsError | None = None


def renew_due(desk: CASession) -> tuple[Renewal, ...]:
    """Renews all that are due, and goes on after a failure."""
    found = []
    for name in due_names(desk):
        try:
            found.append(Renewal(name, renew_in_session(desk, name)))
        except CertsError as error:
            found.append(Renewal(name, None, error))
    desk.refresh_revocations()
    return tuple(found)


def renew_in_session(
    desk: CASession, node_id: str, wish: IdentityRequest | None = None
) -> TLSConfig:
    """Issues the successor of a node's certificate, with what the node wishes beside it.

    Raises:
        NotFoundError: The node has no certificate and key here.
        RevokedError: The certificate was revoked.
        CertsError: As `CASession.issue`.
    """
    pair = desk.store.pair(node_id) if desk.store.has_key(node_id) else None
    if pair is None:
        advice = "issue one, or sign a new request where its key is elsewhere"
        raise NotFoundError(
            f"certificate with a key of {node_id}", desk.store.key_path(node_id), advice
        )
    leaf = pair.chain[0]
    desk.revocations.check(leaf, pair.chain[1:], subject=node_id)
    entry = desk.inventory.get(f"{leaf.serial_number:x}")
    wish = wish or IdentityRequest.of(node_id)
    return desk.issue(wish.order_after(leaf, desk.issuer.certificate, entry), Action.RENEW)


def due_names(desk: CASession) -> tuple[str, ...]:
    """The nodes whose certificates are due, or still from the CA that was replaced."""
    old = desk.store.chain(OLD_CA_NAME)
    found = []
    for name in desk.store.names():
        try:
            chain = desk.store.chain(name) if desk.store.has_key(name) else None
        except CertsError:
            continue  # the listing tells of it
        if not chain or desk.revocations.is_revoked(chain[0], chain[1:]):
            continue
        issuer = desk.bundle.issuer_of(chain[0], chain[1:])
        is_old = old is not None and issuer == old[0]
        state = state_by_dates(chain[0], desk.at)
        ends = desk.issuer.certificate.not_valid_after_utc
        late = state in (CertificateState.EXPIRING, CertificateState.EXPIRED)
        if issuer and (is_old or (late and chain[0].not_valid_after_utc < ends)):
            found.append(name)
    return tuple(found)
