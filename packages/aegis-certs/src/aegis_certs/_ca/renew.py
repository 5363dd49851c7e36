"""Renewing certificates in a CA session."""

from __future__ import annotations

from dataclasses import dataclass

from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.inventory import names_with_keys
from aegis_certs._ca.session import CASession
from aegis_certs._ca.spec import IdentityRequest
from aegis_certs._x509.names import OLD_CA_NAME
from aegis_certs._x509.tls_config import TLSConfig
from aegis_certs._x509.validity import (
    NEW_CA_ADVICE,
    CertificateState,
    check_dates,
    common_name,
    state_by_dates,
)
from aegis_certs.errors import CAEndsError, CertsError, NotFoundError


@dataclass(frozen=True)
class Renewal:
    """The result for one certificate that was due for renewal, or that is missing or damaged.

    Attributes:
        node_id: The node of the certificate.
        tls: The new identity; None if the renewal failed.
        error: The reason of the failure; None if the renewal succeeded.
    """

    node_id: str
    tls: TLSConfig | None
    error: Exception | None = None


def renew_due(session: CASession) -> tuple[Renewal, ...]:
    """Renews all certificates that are due; a failure does not stop the others.

    Raises:
        ExpiredError: The CA, or a CA above it, has expired.
    """
    for ca in session.bundle.path():
        check_dates(ca, session.at, f"the CA {common_name(ca.subject)}", NEW_CA_ADVICE)
    found = []
    for name in names_with_keys(session.store, session.inventory):
        try:
            if _is_due(session, name):
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


def _is_due(session: CASession, name: str) -> bool:
    """Whether a certificate is near its end, or from a CA that was replaced.

    Raises:
        CertsError: It is due and would not live longer, or it or its key is missing or damaged.
    """
    store, bundle = session.store, session.bundle
    chain = store.chain(name)
    issuer = chain and bundle.issuer_of(chain[0], chain[1:])
    if chain and (not issuer or session.revocations.is_revoked(chain[0], chain[1:])):
        return False  # it is not ours, or it is over
    pair = store.pair(name)
    if pair is None:
        return False
    old = store.chain(OLD_CA_NAME)
    if old is not None and issuer == old[0]:
        return True
    state = state_by_dates(pair.chain[0], session.at)
    late = state in (CertificateState.EXPIRING, CertificateState.EXPIRED)
    end = session.issuer.certificate.not_valid_after_utc
    if late and pair.chain[0].not_valid_after_utc >= end:
        raise CAEndsError(name, end)
    return late
