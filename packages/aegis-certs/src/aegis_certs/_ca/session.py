"""A CA at work, under the lock of its directory: it reads what is there, decides, and signs.

Everything that is signed is written down first, in the audit log and then in the inventory, and
put in place last: nothing that could be used is ever unknown, wherever a crash comes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property

from cryptography import x509

from aegis_certs._ca import crl
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.builder import Issuer, build_leaf
from aegis_certs._ca.create import Plan, make_ca, record_ca, record_issue
from aegis_certs._ca.inventory import Inventory, IssuedCertificate
from aegis_certs._ca.request import Request, SignedCertificate
from aegis_certs._ca.rotation_state import settle
from aegis_certs._ca.spec import CertificateSpec
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._x509.identity import Identity, alternative_names, trust_domain_of_ca
from aegis_certs._x509.keys import PublicKey, encode_key, generate_key
from aegis_certs._x509.names import CA_NAME, DEFAULT_TRUST_DOMAIN, OLD_CA_NAME
from aegis_certs._x509.pem import KeyPair
from aegis_certs._x509.revocation_list import RevocationList
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs._x509.trust import TrustBundle, is_ca
from aegis_certs._x509.validity import validity
from aegis_certs.errors import (
    AlreadyExistsError,
    CertsError,
    DirectoryError,
    InvalidPemError,
    InvalidRequestError,
    NotFoundError,
)

logger = logging.getLogger("aegis_certs")


class CASession:
    """The CA of a directory, for somebody who holds the lock. Make one with `open_session`.

    Args:
        store: The directory.
        at: The moment that counts as now.
        passphrase: Of the CA's keys, where they are encrypted.
        issuer: The issuing CA.
        bundle: The trust bundle.
    """

    def __init__(
        self,
        store: Store,
        at: datetime,
        passphrase: bytes | None,
        issuer: Issuer,
        bundle: TrustBundle,
    ) -> None:
        self.store = store
        self.at = at
        self.passphrase = passphrase
        self.issuer = issuer
        self.bundle = bundle

    @property
    def trust_domain(self) -> str:
        """The trust domain that it issues for; the default where its certificate names none."""
        return trust_domain_of_ca(self.issuer.certificate) or DEFAULT_TRUST_DOMAIN

    @cached_property
    def inventory(self) -> Inventory:
        """What was issued."""
        return Inventory.load(self.store)

    @cached_property
    def revocations(self) -> RevocationList:
        """What is revoked; a damaged list is signed anew from the audit log."""
        try:
            return crl.read_revocations(self.store, self.bundle, self.at)
        except CertsError as error:
            logger.warning("the revocation list is signed anew: %s", error)
            return self.write_revocations()

    def issue(self, order: CertificateSpec, action: Action = Action.ISSUE) -> TLSConfig:
        """Makes a key and a leaf, and puts both in place.

        Raises:
            CertsError: As `CertificateAuthority.issue`.
        """
        self._check_replaceable(order.node_id)
        pair = self.make(order, action)
        try:
            self.store.commit(order.node_id, pair)
        except DirectoryError:
            self._take_back(order.node_id, pair.chain[0])
            raise
        self.refresh_revocations()
        return make_tls(pair, self.bundle.certificates)

    def make(self, order: CertificateSpec, action: Action = Action.ISSUE) -> KeyPair:
        """Makes a key and a leaf, and writes down that it did."""
        key = generate_key(order.key_type)
        leaf = self._sign(order, key.public_key(), action)
        return KeyPair((leaf, *self._intermediates()), key, encode_key(key))

    def sign(self, request: Request, order: CertificateSpec) -> SignedCertificate:
        """Makes a leaf of a request, of which it grants what the order says."""
        leaf = self._sign(order, request.key, Action.SIGN)
        self.refresh_revocations()
        chain = (leaf, *self._intermediates())
        return SignedCertificate(order.node_id, chain, request.dropped_by(leaf))

    def refresh_revocations(self) -> None:
        """Signs the lists anew where they are half-way to their end."""
        if crl.is_due(self.store, self.bundle, self.at):
            self.revocations = self.write_revocations()

    def write_revocations(self) -> RevocationList:
        """Signs the lists of all CAs whose keys are here."""
        return crl.write_revocations(
            self.store, self.issuers(), self.bundle, self.inventory, self.at
        )

    def issuers(self) -> Sequence[Issuer]:
        """The CAs whose keys are here and that are trusted: the issuing one, and the old one."""
        old = self.store.pair(OLD_CA_NAME, self.passphrase)
        return [self.issuer] if old is None else [self.issuer, Issuer(old.chain[0], old.key)]

    def is_live(self, entry: IssuedCertificate) -> bool:
        """Tells whether a certificate could still be used: not ended, and not revoked."""
        return self.at <= entry.not_after and not self.revocations.has_serial(entry.serial)

    def _sign(self, order: CertificateSpec, key: PublicKey, action: Action) -> x509.Certificate:
        self._check_names(order)
        leaf = build_leaf(
            Identity(order.node_id, self.trust_domain),
            key,
            validity(self.at, order.days, self.issuer.certificate),
            self.issuer,
            hosts=order.names,
            server=order.server,
            client=order.client,
        )
        record_issue(
            self.store,
            action,
            order.node_id,
            leaf,
            self.at,
            inventory=self.inventory,
            hosts=order.hosts,
            own=order.own,
        )
        return leaf

    def _take_back(self, node_id: str, leaf: x509.Certificate) -> None:
        """Strikes what could not be put in place off the inventory: nobody has its key."""
        chain = self.store.chain(node_id)
        if chain is None or chain[0] != leaf:
            self.inventory.discard(f"{leaf.serial_number:x}")
            with suppress(DirectoryError):  # the disk is full, perhaps; the error before says so
                self.inventory.save(self.store, self.at)

    def _intermediates(self) -> tuple[x509.Certificate, ...]:
        """The CAs between a leaf and the root, the issuing one first; none where it is the root."""
        return tuple(ca for ca in self.bundle.path() if ca.subject != ca.issuer)

    def _check_names(self, order: CertificateSpec) -> None:
        """Refuses a name that would let one node pass for another."""
        node_id = order.node_id
        for other, sans in self._names_in_use():
            if other == node_id:
                continue
            if other in order.hosts:
                reason = f"it is a node of its own, and {node_id} would pass for it"
                raise InvalidRequestError("host", other, reason)
            if node_id in sans:
                reason = f"the certificate of {other} has it as a host, and would pass for it"
                raise InvalidRequestError("node id", node_id, reason)

    def _names_in_use(self) -> Iterator[tuple[str, Sequence[str]]]:
        """The names of all live certificates: those issued here, and those that lie here."""
        for entry in self.inventory:
            if self.is_live(entry):
                yield entry.id, entry.sans
        known = self.inventory.latest()
        for name in self.store.names():
            leaf = None if name in known else self._leaf_of(name)
            live = leaf is not None and self.at <= leaf.not_valid_after_utc
            yield name, alternative_names(leaf).dns if leaf is not None and live else ()

    def _check_replaceable(self, node_id: str) -> None:
        path = self.store.certificate_path(node_id)
        if not files.exists(path):
            return
        leaf = self._leaf_of(node_id)
        if leaf is None or self.bundle.issuer_of(leaf, self._intermediates()) is None:
            reason = "it is not from this CA, so move it away if it is not needed"
            raise AlreadyExistsError("a certificate", path, reason)

    def _leaf_of(self, node_id: str) -> x509.Certificate | None:
        try:
            chain = self.store.chain(node_id)
        except CertsError:
            return None
        return chain[0] if chain else None


@contextmanager
def open_session(
    store: Store, at: datetime, passphrase: bytes | None = None, known: CASession | None = None
) -> Iterator[CASession]:
    """Takes the lock of a directory, and its CA as it is now.

    Args:
        store: The directory.
        at: The moment that counts as now.
        passphrase: Of the CA's keys.
        known: An earlier desk, whose key need not be read again where it still issues.

    Raises:
        CertsError: There is no CA or key, or they cannot be used.
    """
    with store.locked():
        yield read_session(store, at, passphrase, known)


def read_session(
    store: Store, at: datetime, passphrase: bytes | None = None, known: CASession | None = None
) -> CASession:
    """The CA of a directory as it is now; what a crash left of a rotation is tidied up first.

    Raises:
        CertsError: There is no CA or key, or they cannot be used.
    """
    settle(store)
    chain = store.chain(CA_NAME)
    if known is not None and chain and chain[0] == known.issuer.certificate:
        return CASession(store, at, passphrase, known.issuer, TrustBundle(chain))
    issuer, bundle = load_issuer(store, passphrase)
    return CASession(store, at, passphrase, issuer, bundle)


def create_session(store: Store, plan: Plan, at: datetime) -> CASession:
    """Makes the CA of a directory that has none; under the lock.

    Raises:
        AlreadyExistsError: It has one.
        CertsError: The CA cannot be made so.
    """
    for path in (store.certificate_path(CA_NAME), store.key_path(CA_NAME)):
        if files.exists(path):
            raise AlreadyExistsError("a CA", path, "use it, or name another directory")
    pair = make_ca(plan, at)
    record_ca(store, Action.CREATE, pair.chain[0], at)
    store.commit(CA_NAME, pair)
    if plan.root is not None:
        crl.carry(plan.root, store)
    issuer = Issuer(pair.chain[0], pair.key)
    return CASession(store, at, plan.passphrase, issuer, TrustBundle(pair.chain))


def load_issuer(store: Store, passphrase: bytes | None) -> tuple[Issuer, TrustBundle]:
    """The CA of a directory, without the lock.

    Raises:
        NotFoundError: There is no CA, or its key is not here.
        KeyMismatchError: Its key and certificate do not belong together.
        PassphraseError: Its key is encrypted, and the passphrase missing or wrong.
        InvalidPemError: One of its files cannot be read, or is no CA's.
    """
    chain_path = store.certificate_path(CA_NAME)
    if store.chain(CA_NAME) is None:
        advice = "make one with `aegis-certs init`, or name the directory that has one"
        raise NotFoundError("CA", chain_path, advice)
    if not store.has_key(CA_NAME):
        advice = "issue where the CA's key is, and copy the node's two files here"
        raise NotFoundError("CA key", store.key_path(CA_NAME), advice)
    pair = store.pair(CA_NAME, passphrase)
    if pair is None:
        raise NotFoundError("CA", chain_path, "it went away while it was read")
    if not is_ca(pair.chain[0]):
        reason = "its first certificate is no CA's"
        raise InvalidPemError("trust bundle", reason, chain_path)
    return Issuer(pair.chain[0], pair.key), TrustBundle(pair.chain)
