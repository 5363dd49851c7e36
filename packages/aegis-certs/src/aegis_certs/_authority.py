"""The CA of one directory: making it, loading it, and issuing from it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509

from ._build import Issuer, build_ca, build_leaf
from ._identity import Identity, alternative_names, trust_domain_of_ca
from ._keys import encode_key, generate_key
from ._lifetime import common_name, moment, validity
from ._naming import CA_NAME, DEFAULT_TRUST_DOMAIN, KeyType
from ._order import LEAF_DAYS, Order, parse_key_type
from ._pem import Pair
from ._store import Store
from ._tls import TLSConfig, make_tls
from ._trust import TrustBundle
from .errors import (
    AlreadyExistsError,
    CertsError,
    InvalidPemError,
    InvalidRequestError,
    NotFoundError,
)

CA_DAYS = 365


class CertificateAuthority:
    """A CA that lives in a directory: `ca-cert.pem` and `ca-key.pem`.

    Make one with `create` or get one with `load`. Where `ca-cert.pem` begins with an intermediate
    that `ca-key.pem` belongs to, leaves are issued from the intermediate and carry it.
    """

    def __init__(self, store: Store, issuer: Issuer, bundle: TrustBundle) -> None:
        self._store = store
        self._issuer = issuer
        self.bundle = bundle

    def __repr__(self) -> str:
        return f"CertificateAuthority({self.name!r}, directory={str(self.directory)!r})"

    @property
    def directory(self) -> Path:
        """Where it lives."""
        return self._store.directory

    @property
    def name(self) -> str:
        """Its common name."""
        return common_name(self.certificate.subject)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that it issues with."""
        return self._issuer.certificate

    @property
    def trust_domain(self) -> str:
        """The trust domain that it issues for; the default where its certificate names none."""
        return trust_domain_of_ca(self.certificate) or DEFAULT_TRUST_DOMAIN

    @classmethod
    def create(
        cls,
        directory: str | Path = "./certs",
        *,
        key_type: KeyType = KeyType.RSA_4096,
        days: float = CA_DAYS,
        name: str | None = None,
        trust_domain: str = DEFAULT_TRUST_DOMAIN,
        at: datetime | None = None,
    ) -> Self:
        """Makes a new CA in a directory, which is made too where it is missing.

        Args:
            directory: Where `ca-cert.pem` and `ca-key.pem` go.
            key_type: Its key; RSA-4096 takes a second or more to make.
            days: How long it lives; no certificate of it lives longer.
            name: Its common name; "Aegis CA" and a random number by default, so that two CAs
                are told apart.
            trust_domain: Goes into the SPIFFE id of every certificate that it issues.
            at: The moment of creation; now where none is given.

        Raises:
            AlreadyExistsError: The directory has a CA.
            InvalidRequestError: The name, days or trust domain cannot be used.
            DirectoryError: The directory cannot be used.
        """
        store = Store(directory)
        with store.locked():
            return cls.create_locked(
                store, key_type=key_type, days=days, name=name, trust_domain=trust_domain, at=at
            )

    @classmethod
    def create_locked(
        cls,
        store: Store,
        *,
        key_type: KeyType,
        days: float = CA_DAYS,
        name: str | None = None,
        trust_domain: str = DEFAULT_TRUST_DOMAIN,
        at: datetime | None = None,
    ) -> Self:
        """`create` for somebody who holds the lock of the store already."""
        for path in (store.certificate_path(CA_NAME), store.key_path(CA_NAME)):
            if path.exists():
                raise AlreadyExistsError("a CA", path, "use it, or name another directory")
        span = validity(moment(at), days)
        key = generate_key(parse_key_type(key_type))
        name = f"Aegis CA {secrets.token_hex(4)}" if name is None else name
        certificate = build_ca(name, key, span, trust_domain=trust_domain)
        store.commit(CA_NAME, Pair((certificate,), key, encode_key(key)))
        return cls(store, Issuer(certificate, key), TrustBundle([certificate]))

    @classmethod
    def load(cls, directory: str | Path = "./certs") -> Self:
        """The CA of a directory.

        Raises:
            NotFoundError: There is no CA, or its key is not here.
            KeyMismatchError: Its key and certificate do not belong together.
            InvalidPemError: One of its files cannot be read, or is no CA's.
        """
        return cls.load_from(Store(directory))

    @classmethod
    def load_from(cls, store: Store) -> Self:
        """`load` from a store."""
        chain_path = store.certificate_path(CA_NAME)
        if store.chain(CA_NAME) is None:
            advice = "make one with `aegis-certs init`, or name the directory that has one"
            raise NotFoundError("CA", chain_path, advice)
        if not store.has_key(CA_NAME):
            advice = "issue where the CA's key is, and copy the node's two files here"
            raise NotFoundError("CA key", store.key_path(CA_NAME), advice)
        pair = store.pair(CA_NAME)
        if pair is None:
            raise NotFoundError("CA", chain_path, "it went away while it was read")
        if not _is_ca(pair.chain[0]):
            reason = "its first certificate is no CA's"
            raise InvalidPemError("trust bundle", reason, chain_path)
        return cls(store, Issuer(pair.chain[0], pair.key), TrustBundle(pair.chain))

    def issue(
        self,
        node_id: str,
        *,
        hosts: Iterable[str] = (),
        address: str | None = None,
        days: float = LEAF_DAYS,
        key_type: KeyType = KeyType.RSA_2048,
        client_only: bool = False,
        server_only: bool = False,
        at: datetime | None = None,
    ) -> TLSConfig:
        """Issues an identity, with a new key, into the CA's directory.

        An earlier identity of this node from this CA is replaced; it stays valid until its end.

        Args:
            node_id: Whom it names: common name, DNS name and SPIFFE id.
            hosts: Further DNS names and IP addresses. Give only what nobody else answers to:
                whoever holds the key passes for all of them.
            address: The node's own address, `host:port` or an IP. An IP goes into the
                certificate, a name does not.
            days: How long it lives, at most as long as the CA.
            key_type: Its key.
            client_only: It can call, but not serve.
            server_only: It can serve, but not call.
            at: The moment of issue; now where none is given.

        Raises:
            InvalidNodeIdError: The node id cannot be one.
            InvalidRequestError: A host is another node's id, or something else cannot be issued.
            AlreadyExistsError: The directory has a certificate of this name from elsewhere.
            ExpiredError: The CA has expired.
            DirectoryError: The directory cannot be used.
        """
        order = Order.of(
            node_id,
            hosts=hosts,
            address=address,
            days=days,
            key_type=key_type,
            client_only=client_only,
            server_only=server_only,
        )
        with self._store.locked():
            return self.issue_locked(order, at)

    def issue_locked(self, order: Order, at: datetime | None) -> TLSConfig:
        """`issue` for somebody who holds the lock of the store already."""
        self._check_replaceable(order.node_id)
        pair = self._make(order, at)
        self._store.commit(order.node_id, pair)
        return make_tls(pair, self.bundle.certificates)

    def issue_in_memory(
        self,
        node_id: str,
        *,
        hosts: Iterable[str] = (),
        address: str | None = None,
        days: float = LEAF_DAYS,
        key_type: KeyType = KeyType.P256,
        client_only: bool = False,
        server_only: bool = False,
        at: datetime | None = None,
    ) -> TLSConfig:
        """Issues an identity that is written nowhere, such as a client's for one command.

        The arguments and errors are those of `issue`; the key is P-256 by default, since it is
        made for one use.
        """
        order = Order.of(
            node_id,
            hosts=hosts,
            address=address,
            days=days,
            key_type=key_type,
            client_only=client_only,
            server_only=server_only,
        )
        return make_tls(self._make(order, at), self.bundle.certificates)

    def _make(self, order: Order, at: datetime | None) -> Pair:
        at = moment(at)
        self._check_names(order, at)
        span = validity(at, order.days, self.certificate)
        key = generate_key(order.key_type)
        leaf = build_leaf(
            Identity(order.node_id, self.trust_domain),
            key,
            span,
            self._issuer,
            hosts=order.hosts,
            server=order.server,
            client=order.client,
        )
        return Pair((leaf, *self._intermediates()), key, encode_key(key))

    def _intermediates(self) -> list[x509.Certificate]:
        """The CAs between a leaf and the root, the issuing one first; none where it is the root."""
        found: list[x509.Certificate] = []
        ca: x509.Certificate | None = self.certificate
        while ca is not None and ca.subject != ca.issuer and ca not in found:
            found.append(ca)
            ca = self.bundle.issuer_of(ca)
        return found

    def _check_names(self, order: Order, at: datetime) -> None:
        """Refuses a name that would let one node pass for another."""
        for other in self._store.names():
            if other == order.node_id:
                continue
            if other in order.hosts:
                reason = f"it is a node of its own, and {order.node_id} would pass for it"
                raise InvalidRequestError("host", other, reason)
            leaf = self._leaf_of(other)
            if (
                leaf
                and leaf.not_valid_after_utc >= at
                and order.node_id in alternative_names(leaf).dns
            ):
                reason = f"the certificate of {other} has it as a host, and would pass for it"
                raise InvalidRequestError("node id", order.node_id, reason)

    def _check_replaceable(self, node_id: str) -> None:
        path = self._store.certificate_path(node_id)
        if not path.exists():
            return
        leaf = self._leaf_of(node_id)
        if leaf is None or self.bundle.issuer_of(leaf, self._intermediates()) is None:
            reason = "it is not from this CA, so move it away if it is not needed"
            raise AlreadyExistsError("a certificate", path, reason)

    def _leaf_of(self, node_id: str) -> x509.Certificate | None:
        try:
            chain = self._store.chain(node_id)
        except CertsError:
            return None
        return chain[0] if chain else None


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca
