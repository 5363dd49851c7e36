"""Loading an identity from a directory, with issue and renewal if they are needed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from aegis_certs._ca.create import CASpec
from aegis_certs._ca.crl import read_revocations
from aegis_certs._ca.passphrase import passphrase_or_default
from aegis_certs._ca.renew import renew_in_session
from aegis_certs._ca.session import CASession, create_session, read_session
from aegis_certs._ca.spec import IdentityRequest
from aegis_certs._identity.load import warn_if_expiring
from aegis_certs._store.directory import Store
from aegis_certs._time import format_utc, utc_or_now
from aegis_certs._x509.names import (
    CA_KEY_TYPE,
    CA_NAME,
    DEFAULT_TRUST_DOMAIN,
    OLD_CA_NAME,
    KeyType,
)
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
    """Loads a node's identity from a directory; creates it, and the CA, if they are missing.

    A new certificate is issued if the CA's key is in the directory, and the current certificate
    has expired, has less than a third of its life left, lacks a requested host, or was issued by a
    CA that was replaced. Any number of processes may do this at once: they end with one CA and
    certificates that chain to it. Files that are good are loaded without a lock, and need no write
    permission. A CA key with a passphrase is used if `AEGIS_CA_PASSPHRASE` is set.

    Args:
        node_id: The node.
        cert_dir: The directory; it is created if it is missing.
        hosts: Further DNS names and IP addresses that the certificate must be valid for.
        address: The node's own address, `host:port`; an IP goes into a certificate that is
            issued here.
        key_type: The type of new keys; by default RSA-4096 for a CA, and RSA-2048, or the type
            of its predecessor, for a leaf.
        trust_domain: The trust domain that the CA must sign for; by default `aegis.internal` for
            a new CA, and any for an existing one.
        at: The current time; now by default.

    Raises:
        InvalidNodeIdError: The node id is invalid.
        InvalidRequestError: A host, the key type or the trust domain is invalid.
        NotFoundError: The node's certificate is missing, and so is the key of the CA.
        ExpiredError: The certificate, or the CA, has expired and could not be renewed.
        RevokedError: The certificate was revoked.
        VerificationError: The files are those of another node or trust domain, do not belong
            together, or do not chain to the CA.
        InvalidPemError: A file cannot be read as a certificate or key.
        DirectoryError: The directory cannot be used.
    """
    request = IdentityRequest.parse(
        node_id, hosts=hosts, address=address, key_type=key_type, trust_domain=trust_domain
    )
    return load_or_generate(Store(cert_dir), request, utc_or_now(at))


def load_or_generate(store: Store, request: IdentityRequest, at: datetime) -> TLSConfig:
    """`load_or_generate_tls` for a parsed request."""
    current = _load(store, request, at)
    if current is not None and _is_good(store, request, current, at):
        return current
    try:
        return _issue(store, request, at)
    except CertsError as error:
        if current is None:
            raise
        return _use_despite(error, current, request, at)


def reload(store: Store, request: IdentityRequest, at: datetime) -> TLSConfig:
    """The identity in the directory now, for a running node; nothing is created."""
    current = _load(store, request, at)
    if current is None:
        path = store.certificate_path(request.node_id)
        advice = "put it back, or issue a new one"
        raise NotFoundError(f"certificate of {request.node_id}", path, advice)
    current.bundle.verify(current.chain, None, at=at)
    return current


def renew(
    store: Store, request: IdentityRequest, current: TLSConfig, at: datetime
) -> TLSConfig | None:
    """The successor of a node's current identity; None if none can be issued here."""
    if not store.has_key(CA_NAME):
        return None
    with store.locked():
        found = _load(store, request, at)
        if (
            found is not None
            and found.certificate != current.certificate
            and _is_good(store, request, found, at)
        ):
            return found  # another process was faster
        try:
            session = read_session(store, at, passphrase_or_default(None))
        except PassphraseError:
            return None  # only another process can use the key
        _check_domain(session, request)
        if found is not None and _ends_with_ca(session, found):
            return None
        return _issue_in_session(session, request, found)


def issuer_replaced(store: Store, tls: TLSConfig) -> bool:
    """Whether a rotation has replaced the issuer of a leaf, and the new CA's key is available.

    Raises:
        CertsError: The files of the old CA cannot be read.
    """
    if not store.has_key(OLD_CA_NAME) or not store.has_key(CA_NAME):
        return False
    old = store.chain(OLD_CA_NAME)
    issuer = tls.bundle.issuer_of(tls.certificate, tls.chain[1:])
    return old is not None and issuer == old[0] != tls.bundle.certificates[0]


def _is_good(store: Store, request: IdentityRequest, tls: TLSConfig, at: datetime) -> bool:
    return request.is_satisfied_by(tls, at) and not issuer_replaced(store, tls)


def _ends_with_ca(session: CASession, tls: TLSConfig) -> bool:
    """Whether a new leaf would not live longer, because its issuer ends at the same time."""
    ends = session.issuer.certificate.not_valid_after_utc
    return tls.not_after >= ends and not issuer_replaced(session.store, tls)


def _load(store: Store, request: IdentityRequest, at: datetime) -> TLSConfig | None:
    """The identity in the directory, which may be expired; None if there is none."""
    node_id = request.node_id
    pair = store.pair(node_id)
    if pair is None:
        return None
    bundle = store.chain(CA_NAME)
    if bundle is None:
        advice = f"copy the CA's certificate to the directory of the certificate of {node_id}"
        raise NotFoundError("CA certificate", store.certificate_path(CA_NAME), advice)
    tls = make_tls(pair, bundle)
    if tls.node_id != node_id:
        raise IdentityError(
            f"{store.certificate_path(node_id)} is the certificate of {tls.node_id}, not of "
            f"{node_id}; put the right one there",
            tls.node_id,
        )
    if request.trust_domain and tls.trust_domain and request.trust_domain != tls.trust_domain:
        raise _other_domain(f"the certificate of {node_id}", tls.trust_domain, request)
    if state_by_dates(tls.certificate, at) is not CertificateState.EXPIRED:
        tls.bundle.verify(tls.chain, None, at=at)
    _check_not_revoked(store, tls, at)
    return tls


def _check_not_revoked(store: Store, tls: TLSConfig, at: datetime) -> None:
    try:
        revocations = read_revocations(store, tls.bundle, at)
    except CertsError as error:
        # `IdentitySource.revocations` raises this error for a node; here a warning is enough.
        logger.warning("it is not known whether %s is revoked: %s", tls.node_id, error)
        return
    revocations.check(tls.certificate, tls.chain[1:], subject=tls.node_id)


def _issue(store: Store, request: IdentityRequest, at: datetime) -> TLSConfig:
    if store.chain(CA_NAME) is not None and not store.has_key(CA_NAME):
        node_id = request.node_id
        raise NotFoundError(
            f"usable certificate of {node_id}, and no CA key to issue one,",
            store.directory,
            f"issue it where the CA's key is (`aegis-certs issue {node_id}`), and copy its two "
            f"files here",
        )
    with store.locked():
        current = _load(store, request, at)
        if current is not None and _is_good(store, request, current, at):
            return current  # another process was faster
        session = _read_or_create_ca(store, request, at)
        if (
            current is not None
            and not request.missing_names(current)
            and _ends_with_ca(session, current)
        ):
            warn_if_expiring(current, state_by_dates(current.certificate, at))
            return current
        action = "issuing a" if current is None else "renewing the"
        logger.info("%s certificate of %s in %s", action, request.node_id, store.directory)
        return _issue_in_session(session, request, current)


def _issue_in_session(
    session: CASession, request: IdentityRequest, current: TLSConfig | None
) -> TLSConfig:
    if current is None:
        return session.issue(request.spec)
    return renew_in_session(session, request)


def _read_or_create_ca(store: Store, request: IdentityRequest, at: datetime) -> CASession:
    passphrase = passphrase_or_default(None)
    if store.chain(CA_NAME) is None and not store.has_key(CA_NAME):
        logger.info("creating a CA in %s", store.directory)
        spec = CASpec(
            key_type=request.key_type or CA_KEY_TYPE,
            trust_domain=request.trust_domain or DEFAULT_TRUST_DOMAIN,
            passphrase=passphrase,
        )
        return create_session(store, spec, at)
    session = read_session(store, at, passphrase)
    _check_domain(session, request)
    return session


def _check_domain(session: CASession, request: IdentityRequest) -> None:
    if request.trust_domain and request.trust_domain != session.trust_domain:
        raise _other_domain(f"the CA in {session.store.directory}", session.trust_domain, request)


def _use_despite(
    error: CertsError, current: TLSConfig, request: IdentityRequest, at: datetime
) -> TLSConfig:
    """Uses the current certificate, if possible, after a failure to issue a new one."""
    state = state_by_dates(current.certificate, at)
    if state is CertificateState.EXPIRED:
        advice = f"it could not be renewed: {error}"
        raise ExpiredError(current.node_id, current.not_after, advice) from error
    for host in request.missing_names(current):
        if host in request.required:
            raise MissingHostError(current.node_id, str(host)) from error
    if state is CertificateState.EXPIRING:
        logger.warning(
            "the certificate of %s ends at %s and could not be renewed: %s",
            current.node_id,
            format_utc(current.not_after),
            error,
        )
    return current


def _other_domain(what: str, domain: str, request: IdentityRequest) -> IdentityError:
    return IdentityError(
        f"the trust domain of {what} is {domain}, not {request.trust_domain}; "
        f"use {domain}, or another directory",
        request.node_id,
    )
