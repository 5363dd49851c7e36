"""The signer of a mesh's documents: made by a root, kept in the directory of an issuer.

A root whose key is in the directory makes a new signer every few days. The key of a root that is
kept offline is there only when an intermediate CA is created below it. So the root makes a signer
then, which lives as long as that CA. Whoever has the directory of an intermediate CA can sign
documents, as whoever has that of a root can; an intermediate CA alone cannot make a signer.
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.create import SIGNER_ID, make_signer
from aegis_certs._ca.issued import IssuedCertificate
from aegis_certs._ca.session import CASession
from aegis_certs._store.directory import Store
from aegis_certs._x509.authority import root_of
from aegis_certs._x509.names import DOCUMENTS_NAME, NEXT_DOCUMENTS_NAME
from aegis_certs._x509.signer import DocumentSigner
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import issued_at
from aegis_certs.errors import NotFoundError

SIGNER_DAYS = 7.0
"""Days that a signer lives if the key of its root is in the directory."""

_LAST_PART = 24
"""A root signs no documents in the last 24th of its life, if its successor can."""


def document_signer(session: CASession) -> DocumentSigner:
    """The signer of documents; the caller holds the lock.

    While a rotation is in progress the old root goes on signing, since everybody trusts it. A new
    signer is made if a third of the old one's life or less is left.

    Raises:
        NotFoundError: The key of the root is elsewhere, and the directory has no valid signer.
        ExpiredError: The CA has expired.
        DirectoryError: The directory cannot be written.
    """
    # The old one first: both may end at the same time.
    roots = [one for one in reversed(session.issuers()) if _is_root(one.certificate)]
    roots.sort(key=lambda one: one.certificate.not_valid_after_utc)
    usable = [one for one in roots if not _ends_soon(one.certificate, session.at, _LAST_PART)]
    chosen = usable[:1] or roots[-1:]
    for name in (DOCUMENTS_NAME, NEXT_DOCUMENTS_NAME):
        pair = session.store.pair(name, session.passphrase)
        if pair is None or not _may_sign(pair.chain[0], session):
            continue
        if not chosen or _is_by(pair.chain[0], chosen[0].certificate, session):
            return DocumentSigner(pair.chain[0], pair.key, session.trust_domain)
    if not chosen:
        path = session.store.certificate_path(DOCUMENTS_NAME)
        advice = (
            "rotate the intermediate CA where the root's directory is "
            "(`aegis-certs rotate-ca prepare --root-dir`), which makes one"
        )
        raise NotFoundError("valid signer of documents", path, advice)
    pair = make_signer(chosen[0], session.trust_domain, SIGNER_DAYS, session.passphrase, session.at)
    entry = IssuedCertificate.of(SIGNER_ID, pair.chain[0], days=SIGNER_DAYS)
    session.inventory.record(session.store, Action.DOCUMENTS, entry, session.at)
    session.store.commit(DOCUMENTS_NAME, pair)
    return DocumentSigner(pair.chain[0], pair.key, session.trust_domain)


def install_next_signer(store: Store, passphrase: bytes | None) -> None:
    """Puts the signer below the root of the new CA in the place of the old one's, if it exists."""
    pair = store.pair(NEXT_DOCUMENTS_NAME, passphrase)
    if pair is not None:
        store.commit(DOCUMENTS_NAME, pair)
        store.remove(NEXT_DOCUMENTS_NAME)


def _may_sign(certificate: x509.Certificate, session: CASession) -> bool:
    """Whether a signer is below a root that is trusted, and has more than a third of its life."""
    root = root_of(certificate, session.bundle, session.trust_domain)
    if root is None or session.revocations.is_revoked(certificate):
        return False
    limit = 3 if _has_key(root, session) else _LAST_PART
    return not _ends_soon(certificate, session.at, limit)


def _has_key(root: x509.Certificate, session: CASession) -> bool:
    return any(one.certificate == root for one in session.issuers())


def _is_by(certificate: x509.Certificate, root: x509.Certificate, session: CASession) -> bool:
    return root_of(certificate, TrustBundle([root]), session.trust_domain) is not None


def _is_root(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _ends_soon(certificate: x509.Certificate, at: datetime, part: int) -> bool:
    end = certificate.not_valid_after_utc
    return end - at <= (end - issued_at(certificate.not_valid_before_utc)) / part
