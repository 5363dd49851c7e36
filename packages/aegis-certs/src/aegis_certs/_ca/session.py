"""A CA session: work with a CA under the lock of its directory.

Every certificate is recorded first in the audit log, then in the inventory, and its file is
written last. So a crash at any point leaves no usable certificate that is not recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cryptography import x509

from aegis_certs._ca import audit_log, crl
from aegis_certs._ca.audit_log import Action
from aegis_certs._ca.builder import Issuer, build_leaf
from aegis_certs._ca.create import CASpec, create_ca
from aegis_certs._ca.inventory import Inventory
from aegis_certs._ca.issued import IssuedCertificate, Record
from aegis_certs._ca.known_revocations import known_revocations
from aegis_certs._ca.request import Request, SignedCertificate
from aegis_certs._ca.rotation_state import recover_rotation
from aegis_certs._ca.spec import CertificateSpec
from aegis_certs._ca.view import CAView
from aegis_certs._store import files
from aegis_certs._store.directory import Store
from aegis_certs._time import isoformat
from aegis_certs._x509.identity import (
    Identity,
    alternative_names,
    trust_domain_of_ca,
)
from aegis_certs._x509.keys import PublicKey, encode_key, generate_key, key_id
from aegis_certs._x509.names import CA_NAME, DEFAULT_TRUST_DOMAIN, DOCUMENTS_NAME, OLD_CA_NAME
from aegis_certs._x509.pem import KeyPair
from aegis_certs._x509.revocation_list import RevocationList
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs._x509.trust import TrustBundle, is_ca
from aegis_certs._x509.validity import common_name, validity
from aegis_certs.errors import (
    AlreadyExistsError,
    CertsError,
    DirectoryError,
    InvalidPemError,
    InvalidRequestError,
    NotFoundError,
)

CREATE_ADVICE = "create one with `aegis-certs init`, or name the directory that has one"

logger = logging.getLogger("aegis_certs")


@dataclass(eq=False, repr=False)
class CASession(CAView):
    """The CA of a directory, used while its lock is held; `open_session` creates it.

    Attributes:
        passphrase: The passphrase of the CA's keys; None if they are not encrypted.
        issuer: The issuing CA.
    """

    passphrase: bytes | None
    issuer: Issuer

    @property
    def trust_domain(self) -> str:
        """The trust domain that it issues for; the default if its certificate names none."""
        return trust_domain_of_ca(self.issuer.certificate) or DEFAULT_TRUST_DOMAIN

    @cached_property
    def revocations(self) -> RevocationList:
        """The revocation list; a lost, older or damaged one is signed again from the audit log."""
        known = known_revocations(self.store, self.bundle, self.at)
        ours = [issuer.certificate for issuer in self.issuers()] if known.unlisted else ()
        reason: object = known.error
        if any(ca in ours for ca, _ in known.unlisted):
            reason = reason or "it lacks revocations that the audit log has"
        if reason is None:
            return known.all
        logger.warning("%s is signed again: %s", self.store.crl_path, reason)
        return self.write_revocations()

    def issue(self, spec: CertificateSpec, action: Action = Action.ISSUE) -> TLSConfig:
        """Creates a key and a leaf, and installs both in the directory.

        All that needs space on the disk is written before the leaf is recorded and installed.
        """
        self._check_replaceable(spec.node_id)
        self.adopt(self.unrecorded([spec.node_id]))  # its successor takes its place here
        pair, entry = self._create(spec)
        with self.store.drafted(spec.node_id, pair) as install:
            self.inventory.record(self.store, action, entry, self.at)
            try:
                install()
            except DirectoryError:
                self._withdraw(spec.node_id, pair.chain[0])
                raise
        self._try_to_refresh_revocations()
        return make_tls(pair, self.bundle.certificates)

    def issue_in_memory(self, spec: CertificateSpec) -> KeyPair:
        """Creates a key and a leaf, and records the leaf."""
        pair, entry = self._create(spec)
        self.inventory.record(self.store, Action.ISSUE, entry, self.at)
        return pair

    def sign(self, request: Request, spec: CertificateSpec) -> SignedCertificate:
        """Creates a leaf for the key of a request; only the spec says what it contains."""
        leaf, entry = self._sign(spec, request.key, from_request=True)
        self.inventory.record(self.store, Action.SIGN, entry, self.at)
        self._try_to_refresh_revocations()
        chain = (leaf, *self._intermediates())
        return SignedCertificate(spec.node_id, chain, request.dropped_by(leaf))

    def grant(
        self, spec: CertificateSpec, key: PublicKey
    ) -> tuple[x509.Certificate, IssuedCertificate]:
        """A leaf for a key that is elsewhere, and its entry; `record_answer` must record it.

        The leaf exists only in memory before that, so a crash, or a full disk, loses nothing.

        Raises:
            InvalidRequestError: One of its names is another node's.
        """
        return self._sign(spec, key, from_request=True)

    def record_answer(self, action: Action, entry: IssuedCertificate, asked: Record) -> None:
        """Records a granted leaf, and for what it is the answer, before it is handed out."""
        self.inventory.record(self.store, action, entry, self.at, answered=asked)
        self._try_to_refresh_revocations()

    def adopt(self, entries: Iterable[IssuedCertificate]) -> None:
        """Records leaves that are `unrecorded`."""
        for entry in entries:
            self.inventory.record(self.store, Action.ADOPT, entry, self.at)

    def refresh_revocations(self) -> None:
        """Signs the CRLs again if half of their time is over."""
        if crl.is_due(self.revocations, self.at):
            self.revocations = self.write_revocations()

    def _try_to_refresh_revocations(self) -> None:
        """`refresh_revocations` after an issue, which has succeeded whatever happens here."""
        try:
            self.refresh_revocations()
        except DirectoryError as error:
            logger.warning("the next command tries again to sign the revocation list: %s", error)

    def divide_audit_log(self) -> None:
        """Begins the next part of the audit log if this one is long, or lost; see `audit_log`.

        A lost one is made again from the inventory and `crl.pem`, before these may be lost too. A
        failure costs nothing but space: the next session tries again.
        """
        path = self.store.audit_path
        is_lost = not files.exists(path) and files.exists(self.store.inventory_path)
        if not is_lost and not audit_log.is_part_over(path):
            return
        try:
            revoked = self._revoked_facts() if is_lost else ()
            audit_log.begin_part(path, self.at, self.inventory.facts(), revoked)
            if is_lost:
                logger.warning("%s was lost; it begins anew with what counts", path)
        except CertsError as error:
            logger.warning("%s goes on as it is, although it is long: %s", path, error)

    def _revoked_facts(self) -> Iterator[tuple[datetime, Mapping[str, str]]]:
        """When, and what `revoke` would have logged, of each revocation that is known."""
        cas = {common_name(ca.subject): key_id(ca).hex() for ca in self.bundle.certificates}
        for one in self.revocations:
            entry = self.inventory.get(one.serial) or self.inventory.token(one.serial)
            facts = {"serial": one.serial, "reason": str(one.reason)}
            if entry is not None:
                facts |= {"id": entry.id, "issuer": entry.issuer}
                facts["not_after"] = isoformat(entry.not_after)
            elif one.issuer in cas:
                facts["issuer"] = cas[one.issuer]
            yield one.date, facts

    def write_revocations(self) -> RevocationList:
        """Signs the CRLs of all CAs whose keys are in the directory."""
        return crl.write_revocations(
            self.store, self.issuers(), self.bundle, self.inventory, self.at
        )

    def issuers(self) -> Sequence[Issuer]:
        """The trusted CAs whose keys are in the directory: the issuing CA, and the old one."""
        old = self.store.pair(OLD_CA_NAME, self.passphrase)
        return [self.issuer] if old is None else [self.issuer, Issuer(old.chain[0], old.key)]

    def _create(self, spec: CertificateSpec) -> tuple[KeyPair, IssuedCertificate]:
        key = generate_key(spec.key_type)
        leaf, entry = self._sign(spec, key.public_key())
        return KeyPair((leaf, *self._intermediates()), key, encode_key(key)), entry

    def _sign(
        self, spec: CertificateSpec, key: PublicKey, *, from_request: bool = False
    ) -> tuple[x509.Certificate, IssuedCertificate]:
        """A leaf and its entry, which are not recorded yet."""
        self.check_names(spec)
        leaf = build_leaf(
            Identity(spec.node_id, self.trust_domain),
            key,
            validity(self.at, spec.days, self.issuer.certificate),
            self.issuer,
            hosts=spec.names,
            server=spec.server,
            client=spec.client,
        )
        entry = IssuedCertificate.of(
            spec.node_id,
            leaf,
            hosts=spec.hosts,
            own_ip=spec.own_ip,
            days=spec.days,
            from_request=from_request,
        )
        return leaf, entry

    def _withdraw(self, node_id: str, leaf: x509.Certificate) -> None:
        """Removes a leaf that could not be installed from the inventory: its key is lost."""
        chain = self.store.chain(node_id)
        if chain is None or chain[0] != leaf:
            self.inventory.discard(f"{leaf.serial_number:x}")
            with suppress(DirectoryError):  # the disk may be full; the caller raises that error
                self.inventory.save(self.store, self.at)

    def _intermediates(self) -> tuple[x509.Certificate, ...]:
        """The CAs between a leaf and the root, the issuing CA first; empty if it is the root."""
        return tuple(ca for ca in self.bundle.path() if ca.subject != ca.issuer)

    def check_names(self, spec: CertificateSpec) -> None:
        """Refuses a name with which one node could impersonate another."""
        node_id, hosts, known = spec.node_id, set(spec.hosts), {spec.node_id}
        for entry in self.inventory:
            known.add(entry.id)
            clash = entry.id in hosts or node_id in entry.sans
            if clash and entry.id != node_id and self.is_usable(entry):
                raise _impersonation(entry.id, spec)
        for name in set(self.store.names()) - {node_id}:
            leaf = None if name in known else self.leaf_of(name)
            live = leaf is not None and self.at <= leaf.not_valid_after_utc
            if name in hosts or (leaf and live and node_id in alternative_names(leaf).dns):
                raise _impersonation(name, spec)

    def _check_replaceable(self, node_id: str) -> None:
        path = self.store.certificate_path(node_id)
        if not files.exists(path):
            return
        leaf = self.leaf_of(node_id)
        if leaf is None or self.bundle.issuer_of(leaf, self._intermediates()) is None:
            reason = "this CA did not issue it; move it away if it is not needed"
            raise AlreadyExistsError("a certificate", path, reason)


def _impersonation(other: str, spec: CertificateSpec) -> InvalidRequestError:
    node_id = spec.node_id
    if other in spec.hosts:
        reason = f"it is the id of another node, and {node_id} could impersonate it"
        return InvalidRequestError("host", other, reason)
    reason = f"the certificate of {other} has it as a host, and could impersonate it"
    return InvalidRequestError("node id", node_id, reason)


@contextmanager
def open_session(
    store: Store, at: datetime, passphrase: bytes | None = None, known: CASession | None = None
) -> Iterator[CASession]:
    """Holds the lock of a directory during `read_session`'s session."""
    with store.locked():
        yield read_session(store, at, passphrase, known)


def read_session(
    store: Store, at: datetime, passphrase: bytes | None = None, known: CASession | None = None
) -> CASession:
    """The CA of a directory, after recovery from an interrupted step of a rotation.

    The key of an earlier session, `known`, is used again if it is still the issuing CA's, and its
    inventory if nobody has written that since.
    """
    recover_rotation(store)
    store.reserve()
    chain = store.chain(CA_NAME)
    if known is not None and chain and chain[0] == known.issuer.certificate:
        session = CASession(store, at, TrustBundle(chain), passphrase, known.issuer)
    else:
        session = load_session(store, at, passphrase)
    inventory: Inventory | None = vars(known).get("inventory") if known else None  # if it was read
    if inventory is not None and inventory.is_that_of(store):
        session.inventory = inventory
    session.divide_audit_log()
    return session


def create_session(store: Store, spec: CASpec, at: datetime) -> CASession:
    """Creates the CA of a directory that has none; the caller holds the lock."""
    for path in (store.certificate_path(CA_NAME), store.key_path(CA_NAME)):
        if files.exists(path):
            raise AlreadyExistsError("a CA", path, "use it, or name another directory")
    created = create_ca(spec, at)
    pair = created.pair
    audit_log.record_ca(store.audit_path, Action.CREATE, pair.chain[0], at)
    if created.signer is not None:
        store.commit(DOCUMENTS_NAME, created.signer)
    store.commit(CA_NAME, pair)
    store.reserve()
    if spec.root is not None:
        crl.copy_crls(spec.root, store)
    issuer = Issuer(pair.chain[0], pair.key)
    return CASession(store, at, TrustBundle(pair.chain), spec.passphrase, issuer)


def load_session(store: Store, at: datetime, passphrase: bytes | None) -> CASession:
    """The CA of a directory, read without the lock."""
    chain_path = store.certificate_path(CA_NAME)
    if store.chain(CA_NAME) is None:
        raise NotFoundError("CA", chain_path, CREATE_ADVICE)
    if not store.has_key(CA_NAME):
        advice = "issue where the CA's key is, and copy the two files of the node here"
        raise NotFoundError("CA key", store.key_path(CA_NAME), advice)
    pair = store.pair(CA_NAME, passphrase)
    if pair is None:
        raise NotFoundError("CA", chain_path, "another process removed it; try again")
    if not is_ca(pair.chain[0]):
        reason = "its first certificate is not a CA's"
        raise InvalidPemError("trust bundle", reason, chain_path)
    issuer = Issuer(pair.chain[0], pair.key)
    return CASession(store, at, TrustBundle(pair.chain), passphrase, issuer)
