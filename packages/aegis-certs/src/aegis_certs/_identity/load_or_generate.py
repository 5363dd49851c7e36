"""Load what is there; make what is missing; renew what is due."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from aegis_certs._ca.create import CA_DAYS, Plan, default_name
from aegis_certs._ca.crl import read_revocations
from aegis_certs._ca.passphrase import passphrase_or_default
from aegis_certs._ca.renew import renew_in_session
from aegis_certs._ca.session import CASession, create_session, read_session
from aegis_certs._ca.spec import IdentityRequest
from aegis_certs._identity.load import warn_of_end
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.names import CA_NAME, DEFAULT_TRUST_DOMAIN, OLD_CA_NAME, KeyType
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs._x509.validity import CertificateState, state_by_dates
from aegis_certs.errors import (
    CertsError,
    ExpiredError,
    IdentityError,
    MissingHostError,
    NotFoundError,
    PassphraseError,
)

logger = logging.getLogger("aegis_certs")


def load_or_generate_tls(
    node_id: str,
    cert_dir: str | Path = "./certs",
    *,
    hosts: Iterable[str] = (),
    address: str | None = None,
    key_type: KeyType | None = None,
    trust_domain: str | None = None,
    at: datetime | None = None,
) -> TLSConfig:
    """Loads a node's identity from a directory; makes it, and the CA, where they are missing.

    A certificate that has expired, or has less than a third of its life left, or lacks a host
    that is asked for, or is from a CA that was replaced, is issued anew where the CA's key is in
    the directory. Any number of processes may do this at once: they end with one CA and
    certificates that chain to it. Files that fit are loaded without a lock, and need no right to
    write. A CA key with a passphrase is used where `AEGIS_CA_PASSPHRASE` has it.

    Args:
        node_id: The node.
        cert_dir: The directory; made where it is missing.
        hosts: Further DNS names and IP addresses that the certificate must be valid for.
        address: The node's own address, `host:port`; an IP goes into the certificate where it
            is issued here.
        key_type: The key of what is made here; by default RSA-4096 for a CA, and RSA-2048, or
            the type of its predecessor, for a leaf.
        trust_domain: The trust domain that the CA must sign for; `aegis.internal` for a new CA
            by default.
        at: The moment that counts as now; now where none is given.

    Raises:
        InvalidNodeIdError: The node id cannot be one.
        InvalidRequestError: A host, the key type or the trust domain cannot be used.
        NotFoundError: The node's certificate is missing, and so is the key of the CA.
        ExpiredError: The certificate, or the CA, has expired and could not be renewed.
        RevokedError: The certificate was revoked.
        VerificationError: The files are of another node or trust domain, do not belong together
            or do not chain to the CA.
        InvalidPemError: A file cannot be read as a certificate or key.
        DirectoryError: The directory cannot be used.
    """
    wish = IdentityRequest.of(
        node_id, hosts=hosts, address=address, key_type=key_type, trust_domain=trust_domain
    )
    return load_or_generate(Store(cert_dir), wish, utc_or_now(at))


def load_or_generate(store: Store, wish: IdentityRequest, at: datetime) -> TLSConfig:
    """`load_or_generate_tls` for a wish that was parsed."""
    current = _load(store, wish, at)
    if current is not None and wish.is_met_by(current, at) and not issuer_replaced(store, current):
        return current
    try:
        return _issue(store, wish, at)
    except CertsError as error:
        if current is None:
            raise
        return _go_on_with(current, wish, at, error)


def load_again(store: Store, wish: IdentityRequest, at: datetime) -> TLSConfig:
    """What is there now, for a node that runs; nothing is made.

    Raises:
        NotFoundError: Nothing is there.
        ExpiredError: The certificate has expired.
        CertsError: As `load_or_generate_tls`.
    """
    current = _load(store, wish, at)
    if current is None:
        path = store.certificate_path(wish.node_id)
        raise NotFoundError(f"certificate of {wish.node_id}", path, "put it back, or a new one")
    current.bundle.verify(current.chain, None, at=at)
    return current


def renew(
    store: Store, wish: IdentityRequest, current: TLSConfig, at: datetime
) -> TLSConfig | None:
    """The successor of the identity that a node has; None where none can be had here.

    Raises:
        CertsError: It could not be issued.
    """
    if not store.has_key(CA_NAME):
        return None
    with store.locked():
        found = _load(store, wish, at)
        if (
            found is not None
            and found.certificate != current.certificate
            and wish.is_met_by(found, at)
            and not issuer_replaced(store, found)
        ):
            return found  # another process was faster
        try:
            desk = read_session(store, at, passphrase_or_default(None))
        except PassphraseError:
            return None  # the key is here, but for somebody else
        _check_domain(desk, wish)
        if found is None:
            return desk.issue(wish.order)
        if _cannot_live_longer(found, desk) and not issuer_replaced(store, found):
            return None
        return renew_in_session(desk, wish.node_id, wish)


def issuer_replaced(store: Store, tls: TLSConfig) -> bool:
    """Tells whether a leaf is from the CA that a rotation has replaced, where its key is here.

    Raises:
        CertsError: The files of the old CA cannot be read.
    """
    if not store.has_key(OLD_CA_NAME) or not store.has_key(CA_NAME):
        return False
    old = store.chain(OLD_CA_NAME)
    issuer = tls.bundle.issuer_of(tls.certificate, tls.chain[1:])
    return old is not None and issuer == old[0] != tls.bundle.certificates[0]


def _load(store: Store, wish: IdentityRequest, at: datetime) -> TLSConfig | None:
    """What is there, checked but for the leaf's own end; None where there is nothing."""
    node_id = wish.node_id
    pair = store.pair(node_id)
    if pair is None:
        return None
    bundle = store.chain(CA_NAME)
    if bundle is None:
        advice = f"copy the CA's certificate to where the certificate of {node_id} is"
        raise NotFoundError("CA certificate", store.certificate_path(CA_NAME), advice)
    tls = make_tls(pair, bundle)
    if tls.node_id != node_id:
        raise IdentityError(
            f"{store.certificate_path(node_id)} is the certificate of {tls.node_id}, not of "
            f"{node_id}; "
            f"put the right one there",
            tls.node_id,
        )
    if wish.trust_domain and tls.trust_domain and wish.trust_domain != tls.trust_domain:
        raise _other_domain(f"the certificate of {node_id}", tls.trust_domain, wish)
    if state_by_dates(tls.certificate, at) is not CertificateState.EXPIRED:
        tls.bundle.verify(tls.chain, None, at=at)
    _check_not_revoked(store, tls, at)
    return tls


def _check_not_revoked(store: Store, tls: TLSConfig, at: datetime) -> None:
    try:
        revocations = read_revocations(store, tls.bundle, at)
    except CertsError as error:
        # Whoever runs the node is told by `IdentitySource.revocations`; this is only a courtesy.
        logger.warning("whether %s is revoked is not known: %s", tls.node_id, error)
        return
    revocations.check(tls.certificate, tls.chain[1:], subject=tls.node_id)


def _issue(store: Store, wish: IdentityRequest, at: datetime) -> TLSConfig:
    if store.chain(CA_NAME) is not None and not store.has_key(CA_NAME):
        node_id = wish.node_id
        raise NotFoundError(
            f"certificate of {node_id} that can be used, nor a CA key to issue one,",
            store.directory,
            f"issue it where the CA's key is (`aegis-certs issue {node_id}`), and copy its two "
            f"files here",
        )
    with store.locked():
        current = _load(store, wish, at)
        if (
            current is not None
            and wish.is_met_by(current, at)
            and not issuer_replaced(store, current)
        ):
            return current  # another process was faster
        desk = _read_or_create(store, wish, at)
        if current is None:
            logger.info("issuing a certificate for %s in %s", wish.node_id, store.directory)
            return desk.issue(wish.order)
        if (
            not wish.lacks(current)
            and _cannot_live_longer(current, desk)
            and not issuer_replaced(store, current)
        ):
            warn_of_end(current, state_by_dates(current.certificate, at))
            return current
        logger.info("renewing the certificate of %s in %s", wish.node_id, store.directory)
        return renew_in_session(desk, wish.node_id, wish)


def _cannot_live_longer(tls: TLSConfig, desk: CASession) -> bool:
    """Tells whether a new leaf would end no later: the CA itself ends then."""
    return tls.not_after >= desk.issuer.certificate.not_valid_after_utc


def _read_or_create(store: Store, wish: IdentityRequest, at: datetime) -> CASession:
    passphrase = passphrase_or_default(None)
    if store.chain(CA_NAME) is None and not store.has_key(CA_NAME):
        logger.info("making a CA in %s", store.directory)
        plan = Plan(
            key_type=wish.key_type or KeyType.RSA_4096,
            days=CA_DAYS,
            name=default_name(),
            trust_domain=wish.trust_domain or DEFAULT_TRUST_DOMAIN,
            root=None,
            passphrase=passphrase,
        )
        return create_session(store, plan, at)
    desk = read_session(store, at, passphrase)
    _check_domain(desk, wish)
    return desk


def _check_domain(desk: CASession, wish: IdentityRequest) -> None:
    if wish.trust_domain and wish.trust_domain != desk.trust_domain:
        raise _other_domain(f"the CA in {desk.store.directory}", desk.trust_domain, wish)


def _go_on_with(
    current: TLSConfig, wish: IdentityRequest, at: datetime, error: CertsError
) -> TLSConfig:
    """Uses what is there, where that is possible, after it could not be issued anew."""
    state = state_by_dates(current.certificate, at)
    if state is CertificateState.EXPIRED:
        advice = f"it could not be renewed: {error}"
        raise ExpiredError(current.node_id, current.not_after, advice) from error
    for host in wish.lacks(current):
        if host in wish.required:
            raise MissingHostError(current.node_id, str(host)) from error
    if state is CertificateState.EXPIRING:
        logger.warning(
            "the certificate of %s ends at %s UTC and could not be renewed: %s",
            current.node_id,
            f"{current.not_after:%Y-%m-%d %H:%M:%S}",
            error,
        )
    return current


def _other_domain(whose: str, domain: str, wish: IdentityRequest) -> IdentityError:
    return IdentityError(
        f"{whose} is of trust domain {domain}, not {wish.trust_domain}; "
        f"ask for its own, or use another directory",
        wish.node_id,
    )
