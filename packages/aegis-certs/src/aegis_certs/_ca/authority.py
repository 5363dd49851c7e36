"""The CA of one directory: everything that it does, as its owner sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509

from aegis_certs._ca import revoke, rotate
from aegis_certs._ca.create import CA_DAYS, Plan, default_name, default_root
from aegis_certs._ca.passphrase import passphrase_or_default
from aegis_certs._ca.renew import Renewal, renew_due, renew_in_session
from aegis_certs._ca.request import Request, SignedCertificate
from aegis_certs._ca.rotation_state import RotationState
from aegis_certs._ca.session import CASession, create_session, load_issuer, open_session
from aegis_certs._ca.spec import LEAF_DAYS, CertificateSpec
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.names import DEFAULT_TRUST_DOMAIN, KeyType, validate_node_id
from aegis_certs._x509.revocation_list import Revocation, RevocationList, RevocationReason
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import common_name
from aegis_certs.errors import InvalidRequestError


class CertificateAuthority:
    """A CA that lives in a directory: `ca-cert.pem` and `ca-key.pem`.

    Make one with `create` or get one with `load`. Where `ca-cert.pem` begins with an intermediate
    that `ca-key.pem` belongs to, leaves are issued from the intermediate and carry it.

    Everything that it signs is in the inventory `issued.json`, and has a line in `audit.jsonl`.
    """

    def __init__(self, desk: CASession) -> None:
        self._desk = desk

    def __repr__(self) -> str:
        return f"CertificateAuthority({self.name!r}, directory={str(self.directory)!r})"

    @property
    def directory(self) -> Path:
        """Where it lives."""
        return self._desk.store.directory

    @property
    def name(self) -> str:
        """Its common name."""
        return common_name(self.certificate.subject)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that it issues with."""
        return self._desk.issuer.certificate

    @property
    def bundle(self) -> TrustBundle:
        """The CAs that its nodes believe, itself first."""
        return self._desk.bundle

    @property
    def trust_domain(self) -> str:
        """The trust domain that it issues for; the default where its certificate names none."""
        return self._desk.trust_domain

    @classmethod
    def create(
        cls,
        directory: str | Path = "./certs",
        *,
        key_type: KeyType = KeyType.RSA_4096,
        days: float = CA_DAYS,
        name: str | None = None,
        trust_domain: str = DEFAULT_TRUST_DOMAIN,
        passphrase: str | bytes | None = None,
        intermediate: bool = False,
        root_directory: str | Path | None = None,
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
            passphrase: Encrypts its key; that of `AEGIS_CA_PASSPHRASE` by default. Where there
                is none, the key is only as safe as its directory.
            intermediate: Make it an intermediate CA, whose root has a directory of its own.
                Carry that away once this is done: the root is needed for the next one only.
            root_directory: Where the root is, or is made; by default `-root` is added to the
                directory's name.
            at: The moment of creation; now where none is given.

        Raises:
            AlreadyExistsError: The directory has a CA.
            InvalidRequestError: The name, days or trust domain cannot be used.
            PassphraseError: The root is encrypted with another passphrase.
            DirectoryError: The directory cannot be used.
        """
        store = Store(directory)
        plan = Plan(
            key_type=key_type,
            days=days,
            name=default_name() if name is None else name,
            trust_domain=trust_domain,
            root=_root_store(store.directory, intermediate, root_directory),
            passphrase=passphrase_or_default(passphrase),
        )
        with store.locked():
            return cls(create_session(store, plan, utc_or_now(at)))

    @classmethod
    def load(
        cls, directory: str | Path = "./certs", *, passphrase: str | bytes | None = None
    ) -> Self:
        """The CA of a directory.

        Args:
            directory: Where it lives.
            passphrase: Of its key, where that is encrypted; that of `AEGIS_CA_PASSPHRASE` by
                default.

        Raises:
            NotFoundError: There is no CA, or its key is not here.
            KeyMismatchError: Its key and certificate do not belong together.
            PassphraseError: Its key is encrypted, and the passphrase missing or wrong.
            InvalidPemError: One of its files cannot be read, or is no CA's.
        """
        store, secret = Store(directory), passphrase_or_default(passphrase)
        return cls(CASession(store, utc_or_now(None), secret, *load_issuer(store, secret)))

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
        order = CertificateSpec.of(
            node_id,
            hosts=hosts,
            address=address,
            days=days,
            key_type=key_type,
            client_only=client_only,
            server_only=server_only,
        )
        with self._open(at) as desk:
            return desk.issue(order)

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
        """Issues an identity whose key is written nowhere, such as a client's for one command.

        The arguments and errors are those of `issue`; the key is P-256 by default, since it is
        made for one use.
        """
        order = CertificateSpec.of(
            node_id,
            hosts=hosts,
            address=address,
            days=days,
            key_type=key_type,
            client_only=client_only,
            server_only=server_only,
        )
        with self._open(at) as desk:
            return make_tls(desk.make(order), desk.bundle.certificates)

    def sign(
        self,
        request: bytes,
        *,
        node_id: str | None = None,
        hosts: Iterable[str] = (),
        days: float = LEAF_DAYS,
        client_only: bool = False,
        server_only: bool = False,
        at: datetime | None = None,
    ) -> SignedCertificate:
        """Signs a request, whose key stays where it was made.

        The request says for whom, for which key, and whether to serve or to call. Everything
        else is for the CA to decide: hosts and days are those given here. What the request asks
        for beyond that is dropped, and told.

        Args:
            request: The certificate signing request in PEM.
            node_id: Whom it must be for; None takes any node.
            hosts: The DNS names and IP addresses that are granted, asked for or not.
            days: How long it lives, at most as long as the CA.
            client_only: It can call, whatever was asked for.
            server_only: It can serve, whatever was asked for.
            at: The moment of issue; now where none is given.

        Raises:
            InvalidPemError: The request cannot be read, or does not prove to have its key.
            InvalidNodeIdError: It names something that cannot be a node id.
            InvalidRequestError: It is for another node, or a host is another node's id.
            ExpiredError: The CA has expired.
            DirectoryError: The directory cannot be used.
        """
        parsed = Request.parse(request)
        if node_id not in (None, parsed.node_id):
            reason = f"the request is for {parsed.node_id}"
            raise InvalidRequestError("node id", node_id, reason)
        order = CertificateSpec.of(
            parsed.node_id,
            hosts=hosts,
            days=days,
            client_only=client_only or not parsed.server,
            server_only=server_only or not parsed.client,
        )
        with self._open(at) as desk:
            return desk.sign(parsed, order)

    def renew(self, node_id: str, *, at: datetime | None = None) -> TLSConfig:
        """Issues the successor of a node's certificate: the same names and life, a new key.

        Raises:
            NotFoundError: The node has no certificate and key in this directory. Where its key
                is elsewhere, sign a new request.
            RevokedError: Its certificate was revoked; issue another where it is to go on.
            CertsError: As `issue`.
        """
        validate_node_id(node_id)
        with self._open(at) as desk:
            return renew_in_session(desk, node_id)

    def renew_due(self, *, at: datetime | None = None) -> tuple[Renewal, ...]:
        """Renews all certificates of this directory that are due, and the revocation lists too.

        Due is what has less than a third of its life left, or is still from a CA that was
        replaced, and has its key here. A failure does not keep the others from being renewed.

        Raises:
            CertsError: The directory or the CA cannot be used.
        """
        with self._open(at) as desk:
            return renew_due(desk)

    def revoke(
        self,
        node_id_or_serial: str,
        reason: RevocationReason = RevocationReason.UNSPECIFIED,
        *,
        at: datetime | None = None,
    ) -> tuple[Revocation, ...]:
        """Revokes certificates: a signed `crl.pem` says so from now on.

        A node is revoked with every certificate of it that has not ended, a serial number is one
        certificate. What is revoked already stays so, and its first date and reason with it.

        Args:
            node_id_or_serial: A node id, or a serial number in hexadecimal.
            reason: Why.
            at: The moment that counts as now; now where none is given.

        Returns:
            The revocations of these certificates, those from before too.

        Raises:
            NotFoundError: No such certificate was issued, or it has ended, or the key of its CA
                is not here.
            UntrustedError: Its CA was retired, so there is nothing to revoke.
            InvalidRequestError: The reason is not one for good.
            DirectoryError: The directory cannot be used.
        """
        with self._open(at) as desk:
            return revoke.revoke(desk, node_id_or_serial, RevocationReason(reason))

    def write_revocations(self, *, at: datetime | None = None) -> RevocationList:
        """Signs `crl.pem` anew, also where nothing is revoked.

        It is good for 30 days. Issuing and renewing do this too once half of that is over.

        Raises:
            DirectoryError: The directory cannot be used.
        """
        with self._open(at) as desk:
            return desk.write_revocations()

    def rotation(self, *, at: datetime | None = None) -> RotationState:
        """Where the rotation of this CA stands.

        Raises:
            CertsError: The directory cannot be used.
        """
        with self._open(at) as desk:
            return rotate.state_of(desk)

    def prepare_rotation(
        self,
        *,
        key_type: KeyType | None = None,
        days: float | None = None,
        name: str | None = None,
        root_directory: str | Path | None = None,
        at: datetime | None = None,
    ) -> RotationState:
        """Makes the next CA. Nodes trust both from now on; the one at work goes on issuing.

        Args:
            key_type: The key of the next CA; by default that of the one at work.
            days: How long it lives; by default as long as the one at work was made for.
            name: Its common name; by default that of the one at work with a generation.
            root_directory: Makes it an intermediate of the root there; a root is made where
                there is none. An intermediate CA needs it.
            at: The moment that counts as now; now where none is given.

        Raises:
            RotationError: A rotation is under way.
            InvalidRequestError: The name, days or key type cannot be used.
            NotFoundError: It is an intermediate CA, and the place of its root was not given.
            DirectoryError: The directory cannot be used.
        """
        with self._open(at) as desk:
            root = _root_store(self.directory, False, root_directory)
            plan = rotate.plan_after(desk, key_type=key_type, days=days, name=name, root=root)
            rotate.prepare(desk, plan)
            return rotate.state_of(desk)

    def activate_rotation(
        self,
        *,
        distrusting: Sequence[str] | None = None,
        confirm: bool = False,
        at: datetime | None = None,
    ) -> RotationState:
        """Lets the prepared CA issue from now on; certificates of the old one stay valid.

        Args:
            distrusting: The nodes that are not known to trust the new CA yet, by somebody who
                can see bundles; see `RotationState.trusts`. None says that nobody can see any.
            confirm: Go on in spite of nodes that might not trust it.
            at: The moment that counts as now; now where none is given.

        Raises:
            RotationError: None is prepared.
            StillUsedError: Nodes do not trust it, or might not; confirm, or wait.
            DirectoryError: The directory cannot be used.
        """
        with self._open(at) as desk:
            rotate.activate(desk, distrusting, confirm)
            return rotate.state_of(desk)

    def retire_rotation(
        self, *, in_use: Sequence[str] = (), at: datetime | None = None
    ) -> RotationState:
        """Ends the trust in the old CA and forgets its key.

        Args:
            in_use: Nodes that use a certificate of the old CA, by somebody who can see it; they
                count beside those of the inventory.
            at: The moment that counts as now; now where none is given.

        Raises:
            RotationError: No rotation is activated.
            StillUsedError: Nodes have certificates of the old CA; renew or revoke them.
            DirectoryError: The directory cannot be used.
        """
        with self._open(at) as desk:
            rotate.retire(desk, in_use)
            return rotate.state_of(desk)

    @contextmanager
    def _open(self, at: datetime | None) -> Iterator[CASession]:
        known = self._desk
        with open_session(known.store, utc_or_now(at), known.passphrase, known) as desk:
            yield desk
            self._desk = desk


def _root_store(
    directory: Path, intermediate: bool, root_directory: str | Path | None
) -> Store | None:
    if root_directory is None:
        return Store(default_root(directory)) if intermediate else None
    if Path(root_directory).resolve() == directory.resolve():
        reason = "the CA itself is there; name another, which can be carried away"
        raise InvalidRequestError("root directory", str(root_directory), reason)
    return Store(root_directory)
