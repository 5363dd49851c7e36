"""Loading an identity from a directory, with issue and renewal if they are needed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from aegis_certs._ca.known_revocations import known_revocations
from aegis_certs._ca.spec import IdentityRequest
from aegis_certs._identity.origin import Origin, StatKeys
from aegis_certs._store.directory import Store
from aegis_certs._time import format_utc, utc_or_now
from aegis_certs._x509.keys import key_type_of
from aegis_certs._x509.names import (
    CA_KEY_TYPE,
    CA_NAME,
    DEFAULT_TRUST_DOMAIN,
    LEAF_KEY_TYPE,
    OLD_CA_NAME,
    KeyType,
)
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs._x509.validity import CertificateState, state_by_dates
from aegis_certs.errors import (
    CAEndsError,
    CertsError,
    DirectoryError,
    ExpiredError,
    IdentityError,
    LockTimeoutError,
    MissingHostError,
    NotFoundError,
    PassphraseError,
    RevokedError,
)

if TYPE_CHECKING:
    # Most starts find a good certificate: what issues one is imported where it is needed.
    from aegis_certs._ca.session import CASession
    from aegis_certs._identity.requested import RequestedIdentity

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
    permission. A CA key with a passphrase is used if the environment has the passphrase, as
    `CertificateAuthority.load` reads it.

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
    return DirectoryOrigin(cert_dir, request).load(utc_or_now(at))


def existing_identity(
    node_id: str, directory: str | Path, *, at: datetime | None = None
) -> TLSConfig | None:
    """The identity in a directory; None if there is none that can be used any more.

    Raises:
        CertsError: The files are damaged, or not those of this node.
    """
    origin = DirectoryOrigin(directory, IdentityRequest.parse(node_id), create_ca=False)
    if Store(directory).chain(node_id) is None:
        return None
    try:
        return origin.reload(utc_or_now(at))
    except (ExpiredError, RevokedError):
        return None


class DirectoryOrigin(Origin):
    """The identity of one node in a certificate directory.

    Args:
        directory: The directory.
        request: What the certificate must contain.
        create_ca: Whether to create a CA in a directory that has none.
    """

    def __init__(
        self, directory: str | Path, request: IdentityRequest, *, create_ca: bool = True
    ) -> None:
        self._store = Store(directory)
        self._request = request
        self._create_ca = create_ca
        self.crl_path = self._store.crl_path
        self.directory = self._store.directory

    def __repr__(self) -> str:
        return f"{self._request.node_id!r} in {str(self._store.directory)!r}"

    def stat_keys(self) -> StatKeys:
        return self._store.stat_keys(self._request.node_id, CA_NAME)

    def load(self, at: datetime) -> TLSConfig:
        current = self._read(at)
        if current is not None and self._is_good(current, at):
            return current
        try:
            return self._issue(at)
        except CertsError as error:
            if current is None:
                raise
            return self._use_despite(error, current, at)

    def reload(self, at: datetime) -> TLSConfig:
        current = self._read(at)
        if current is None:
            node_id = self._request.node_id
            path, advice = self._store.certificate_path(node_id), "put it back, or issue a new one"
            raise NotFoundError(f"certificate of {node_id}", path, advice)
        current.bundle.verify(current.chain, None, at=at)
        return current

    def renew(self, current: TLSConfig, at: datetime) -> TLSConfig | None:
        if not self._store.has_key(CA_NAME):
            return None
        from aegis_certs._ca.passphrase import passphrase_or_default
        from aegis_certs._ca.session import read_session

        with self._store.locked():
            found = self._read(at)
            if (
                found is not None
                and found.certificate != current.certificate
                and self._is_good(found, at)
            ):
                return found  # another process was faster
            try:
                session = read_session(self._store, at, passphrase_or_default(None))
            except PassphraseError:
                return None  # only another process can use the key
            self._check_domain(session)
            if found is not None and self._ends_with_ca(session, found):
                raise CAEndsError(found.node_id, found.not_after)
            return self._issue_in_session(session, found)

    @contextmanager
    def requesting(self, current: TLSConfig, at: datetime) -> Iterator[RequestedIdentity]:
        from aegis_certs._identity.requested import expected_after, requesting  # seldom needed

        with ExitStack() as stack:
            key_type = self._request.key_type or key_type_of(current.certificate, LEAF_KEY_TYPE)
            on_disk = requesting(expected_after(current), self._store.directory, key_type=key_type)
            try:
                request = stack.enter_context(on_disk)
            except LockTimeoutError:
                raise
            except DirectoryError:
                # The key stays in memory, and so does its certificate.
                request = stack.enter_context(super().requesting(current, at))
            if self._has_successor(current):
                # Another process has just renewed it, and nobody may renew it again.
                raise LockTimeoutError(self._store.directory, 0)
            yield request

    def _has_successor(self, current: TLSConfig) -> bool:
        chain = self._store.chain(self._request.node_id)
        # Its start says which one is newer: both may end with their CA.
        return (
            chain is not None
            and chain[0] != current.certificate
            and chain[0].not_valid_before_utc >= current.certificate.not_valid_before_utc
        )

    def issuer_replaced(self, current: TLSConfig) -> bool:
        if not self._store.has_key(OLD_CA_NAME) or not self._store.has_key(CA_NAME):
            return False
        old = self._store.chain(OLD_CA_NAME)
        issuer = current.bundle.issuer_of(current.certificate, current.chain[1:])
        return old is not None and issuer == old[0] != current.bundle.certificates[0]

    def _is_good(self, tls: TLSConfig, at: datetime) -> bool:
        return self._request.is_satisfied_by(tls, at) and not self.issuer_replaced(tls)

    def _ends_with_ca(self, session: CASession, tls: TLSConfig) -> bool:
        """Whether a new leaf would not live longer, because its issuer ends at the same time."""
        ends = session.issuer.certificate.not_valid_after_utc
        return tls.not_after >= ends and not self.issuer_replaced(tls)

    def _read(self, at: datetime) -> TLSConfig | None:
        """The identity in the directory, which may be expired; None if there is none."""
        store, node_id, domain = self._store, self._request.node_id, self._request.trust_domain
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
        if domain and tls.trust_domain and domain != tls.trust_domain:
            raise self._other_domain(f"the certificate of {node_id}", tls.trust_domain)
        if state_by_dates(tls.certificate, at) is not CertificateState.EXPIRED:
            tls.bundle.verify(tls.chain, None, at=at)
        known = known_revocations(store, tls.bundle, at)
        known.all.check(tls.certificate, tls.chain[1:], subject=node_id)
        if known.error is not None:
            # `IdentitySource.revocations` raises this error for a node; here a warning is enough.
            logger.warning("it is not known whether %s is revoked: %s", node_id, known.error)
        return tls

    def _issue(self, at: datetime) -> TLSConfig:
        store, node_id = self._store, self._request.node_id
        if store.chain(CA_NAME) is not None and not store.has_key(CA_NAME):
            raise NotFoundError(
                f"usable certificate of {node_id}, and no CA key to issue one,",
                store.directory,
                f"issue it where the CA's key is (`aegis-certs issue {node_id}`), and copy its two "
                f"files here, or give this process a token from there (`aegis-certs token "
                f"{node_id}`)",
            )
        if not store.was_locked and not self._has_ca():
            # A directory with a mistyped name must not be created. In one that was locked, another
            # process may be about to create the CA.
            self._check_may_create_ca()
        with store.locked():
            current = self._read(at)
            if current is not None and self._is_good(current, at):
                return current  # another process was faster
            session = self._read_or_create_ca(at)
            if (
                current is not None
                and not self._request.missing_names(current)
                and self._ends_with_ca(session, current)
            ):
                ends = CAEndsError(current.node_id, current.not_after)
                return self._use_despite(ends, current, at)
            action = "issuing a" if current is None else "renewing the"
            logger.info("%s certificate of %s in %s", action, node_id, store.directory)
            return self._issue_in_session(session, current)

    def _issue_in_session(self, session: CASession, current: TLSConfig | None) -> TLSConfig:
        if current is None:
            return session.issue(self._request.spec)
        from aegis_certs._ca.renew import renew_in_session

        return renew_in_session(session, self._request)

    def _read_or_create_ca(self, at: datetime) -> CASession:
        from aegis_certs._ca.create import CASpec
        from aegis_certs._ca.passphrase import passphrase_or_default
        from aegis_certs._ca.session import create_session, read_session

        store, passphrase = self._store, passphrase_or_default(None)
        if not self._has_ca():
            self._check_may_create_ca()
            logger.info("creating a CA in %s", store.directory)
            spec = CASpec(
                key_type=self._request.key_type or CA_KEY_TYPE,
                trust_domain=self._request.trust_domain or DEFAULT_TRUST_DOMAIN,
                passphrase=passphrase,
            )
            return create_session(store, spec, at)
        session = read_session(store, at, passphrase)
        self._check_domain(session)
        return session

    def _has_ca(self) -> bool:
        return self._store.chain(CA_NAME) is not None or self._store.has_key(CA_NAME)

    def _check_may_create_ca(self) -> None:
        if not self._create_ca:
            node_id = self._request.node_id
            raise NotFoundError(
                f"CA, and no certificate of {node_id},",
                self._store.directory,
                f"a process that joins a mesh creates no CA: check the name of the directory, or "
                f"issue the certificate where the CA's key is (`aegis-certs issue {node_id}`) and "
                f"copy ca-cert.pem and its two files here, or give this process a token from there "
                f"(`aegis-certs token {node_id}`)",
            )

    def _check_domain(self, session: CASession) -> None:
        if self._request.trust_domain not in (None, session.trust_domain):
            raise self._other_domain(f"the CA in {self._store.directory}", session.trust_domain)

    def _use_despite(self, error: CertsError, current: TLSConfig, at: datetime) -> TLSConfig:
        """Uses the current certificate, if possible, after a failure to issue a new one."""
        state = state_by_dates(current.certificate, at)
        if state is CertificateState.EXPIRED:
            advice = f"it could not be renewed: {error}"
            raise ExpiredError(current.node_id, current.not_after, advice) from error
        for host in self._request.missing_names(current):
            if host in self._request.required:
                raise MissingHostError(current.node_id, str(host)) from error
        if state is CertificateState.EXPIRING:
            logger.warning(
                "the certificate of %s is expiring (its end is %s) and could not be renewed: %s",
                current.node_id,
                format_utc(current.not_after),
                error,
            )
        return current

    def _other_domain(self, what: str, domain: str) -> IdentityError:
        return IdentityError(
            f"the trust domain of {what} is {domain}, not {self._request.trust_domain}; "
            f"use {domain}, or another directory",
            self._request.node_id,
        )
