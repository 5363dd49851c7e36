"""Renewing certificates in a CA session."""

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
    """The result for one certificate that was due for renewal.

    Attributes:
        node_id: The node of the certificate.
        tls: The new identity; None if the renewal failed.
        error: The reason of the failure; None if the renewal succeeded.
    """

    node_id: str
    tls: TLSConfig | None
    error: CertsError | None = None


def renew_due(session: CASession) -> tuple[Renewal, ...]:
    """Renews all certificates that are due; a failure does not stop the others."""
    found = []
    for name in _due_for_renewal(session):
        try:
            found.append(Renewal(name, renew_in_session(session, IdentityRequest.parse(name))))
        except CertsError as error:
            found.append(Renewal(name, None, error))
    session.refresh_revocations()
    return tuple(found)


def renew_in_session(session: CASession, request: IdentityRequest) -> TLSConfig:
    """Issues the successor of a node's certificate, with the requested names added."""
    store, node_id = session.store, request.node_id
    pair = store.pair(node_id) if store.has_key(node_id) else None
    if pair is None:
        advice = "issue one, or sign a new request if its key is elsewhere"
        what = f"certificate with a key of {node_id}"
        raise NotFoundError(what, store.key_path(node_id), advice)
    leaf = pair.chain[0]
    session.revocations.check(leaf, pair.chain[1:], subject=node_id)
    entry = session.inventory.get(f"{leaf.serial_number:x}")
    issuer = session.bundle.issuer_of(leaf, pair.chain[1:]) or session.issuer.certificate
    spec = request.renewal_spec(leaf, issuer, entry)
    return session.issue(spec, Action.RENEW)


def _due_for_renewal(session: CASession) -> tuple[str, ...]:
    """The nodes whose certificates are near their end, or from a CA that was replaced."""
    store = session.store
    old = store.chain(OLD_CA_NAME)
    found = []
    for name in store.names():
        try:
            chain = store.chain(name) if store.has_key(name) else None
        except CertsError:
            continue  # the listing shows it as unreadable
        if not chain or session.revocations.is_revoked(chain[0], chain[1:]):
            continue
        issuer = session.bundle.issuer_of(chain[0], chain[1:])
        is_old = old is not None and issuer == old[0]
        state = state_by_dates(chain[0], session.at)
        ends = session.issuer.certificate.not_valid_after_utc
        late = state in (CertificateState.EXPIRING, CertificateState.EXPIRED)
        if issuer and (is_old or (late and chain[0].not_valid_after_utc < ends)):
            found.append(name)
    return tuple(found)
