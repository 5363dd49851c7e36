"""The CA of one directory, as a public class."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Self, Unpack

from cryptography import x509

from aegis_certs._ca import revoke
from aegis_certs._ca.create import CA_DAYS, CASpec, default_name, root_store
from aegis_certs._ca.document_signer import document_signer
from aegis_certs._ca.enrolment.enroller import Enroller
from aegis_certs._ca.passphrase import passphrase_or_default
from aegis_certs._ca.renew import Renewal, renew_due, renew_in_session
from aegis_certs._ca.request import Request, SignedCertificate
from aegis_certs._ca.rotation.methods import Rotating
from aegis_certs._ca.session import create_session, load_session
from aegis_certs._ca.spec import LEAF_DAYS, CertificateSpec, IdentityRequest, SpecOptions
from aegis_certs._store.directory import Store
from aegis_certs._time import utc_or_now
from aegis_certs._x509.names import CA_KEY_TYPE, DEFAULT_TRUST_DOMAIN, LEAF_KEY_TYPE, KeyType
from aegis_certs._x509.revocation import Revocation, RevocationReason
from aegis_certs._x509.revocation_list import RevocationList
from aegis_certs._x509.signer import DocumentSigner
from aegis_certs._x509.tls_config import TLSConfig, make_tls
from aegis_certs._x509.trust import TrustBundle
from aegis_certs._x509.validity import common_name
from aegis_certs.errors import InvalidRequestError


class CertificateAuthority(Enroller, Rotating):
    """A CA in a directory: `ca-cert.pem` and `ca-key.pem`.

    Use `create` or `load`. If the first certificate in `ca-cert.pem` is an intermediate, it signs
    the leaves, and their chains contain it.

    Every certificate that it signs is in the inventory `issued.json` and in `audit.jsonl`.
    """

    def __repr__(self) -> str:
        return f"CertificateAuthority({self.name!r}, directory={str(self.directory)!r})"

    @property
    def directory(self) -> Path:
        """The directory of the CA."""
        return self._session.store.directory

    @property
    def name(self) -> str:
        """The common name of the CA."""
        return common_name(self.certificate.subject)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate of the issuing CA."""
        return self._session.issuer.certificate

    @property
    def bundle(self) -> TrustBundle:
        """The CAs that its nodes trust, the issuing CA first."""
        return self._session.bundle

    @property
    def trust_domain(self) -> str:
        """The trust domain that it issues for; the default if its certificate names none."""
        return self._session.trust_domain

    @classmethod
    def create(
        cls,
        directory: str | Path = "./certs",
        *,
        key_type: KeyType = CA_KEY_TYPE,
        days: float = CA_DAYS,
        name: str | None = None,
        trust_domain: str = DEFAULT_TRUST_DOMAIN,
        passphrase: str | bytes | None = None,
        intermediate: bool = False,
        root_directory: str | Path | None = None,
        at: datetime | None = None,
    ) -> Self:
        """Creates a CA in a directory, and the directory if it is missing.

        Args:
            directory: The directory for `ca-cert.pem` and `ca-key.pem`.
            key_type: The type of its key; an RSA-4096 key takes a second or more to create.
            days: How long it lives; none of its certificates lives longer.
            name: Its common name; by default "Aegis CA" and a random number.
            trust_domain: The trust domain in the SPIFFE id of every certificate that it issues.
            passphrase: Encrypts its key; by default that of the environment (see `load`). Without
                one, only the permissions of the directory protect the key.
            intermediate: Creates an intermediate CA, whose root has its own directory. Move that to
                a safe place afterwards: only the next CA needs the root.
            root_directory: That of the root, created if missing; by default with `-root` added.
            at: The time of creation; now by default.

        Raises:
            AlreadyExistsError: The directory has a CA.
            InvalidRequestError: The name, days or trust domain is invalid.
            PassphraseError: The root is encrypted with another passphrase.
            DirectoryError: The directory cannot be used.
        """
        store = Store(directory)
        spec = CASpec(
            key_type,
            days,
            default_name() if name is None else name,
            trust_domain,
            root_store(store.directory, root_directory, intermediate=intermediate),
            passphrase_or_default(passphrase),
        )
        with store.locked():
            return cls(create_session(store, spec, utc_or_now(at)))

    @classmethod
    def load(
        cls, directory: str | Path = "./certs", *, passphrase: str | bytes | None = None
    ) -> Self:
        """Loads the CA of a directory.

        Args:
            directory: Its directory.
            passphrase: Decrypts its key; by default that in the file which
                `AEGIS_CA_PASSPHRASE_FILE` names, that of `AEGIS_CA_PASSPHRASE`, or the systemd
                credential `aegis-ca-passphrase`.

        Raises:
            NotFoundError: There is no CA, or its key is not in the directory.
            KeyMismatchError: Its key does not belong to its certificate.
            PassphraseError: Its key is encrypted, and the passphrase is missing or wrong.
            InvalidPemError: One of its files cannot be read, or is not a CA's.
        """
        secret = passphrase_or_default(passphrase)
        return cls(load_session(Store(directory), utc_or_now(None), secret))

    def issue(
        self,
        node_id: str,
        *,
        hosts: Iterable[str] = (),
        address: str | None = None,
        days: float = LEAF_DAYS,
        key_type: KeyType = LEAF_KEY_TYPE,
        client_only: bool = False,
        server_only: bool = False,
        at: datetime | None = None,
    ) -> TLSConfig:
        """Issues an identity with a new key into the CA's directory.

        It replaces an earlier identity of the node, whose certificate stays valid until its end.

        Args:
            node_id: The node that the certificate names: common name, DNS name and SPIFFE id.
            hosts: Further DNS names and IP addresses. Give only names that belong to this node
                alone: with its key, anybody can impersonate all of them.
            address: The node's own address. Only an IP goes into the certificate.
            days: How long it lives, at most as long as the CA.
            key_type: The type of its key.
            client_only: The identity can call, but not serve.
            server_only: The identity can serve, but not call.
            at: The time of issue; now by default.

        Raises:
            InvalidNodeIdError: The node id is invalid.
            InvalidRequestError: A host is another node's id, or an argument is invalid.
            AlreadyExistsError: The directory has a certificate of this node from another CA.
            ExpiredError: The CA has expired.
            DirectoryError: The directory cannot be used.
        """
        spec = CertificateSpec.parse(
            node_id,
            hosts=hosts,
            address=address,
            days=days,
            key_type=key_type,
            client_only=client_only,
            server_only=server_only,
        )
        with self._open(at) as session:
            return session.issue(spec)

    def issue_in_memory(
        self, node_id: str, *, at: datetime | None = None, **options: Unpack[SpecOptions]
    ) -> TLSConfig:
        """Issues an identity and writes its key nowhere, such as a client's for one command.

        Its errors and arguments are those of `issue`. The key is P-256 by default.
        """
        options.setdefault("key_type", KeyType.P256)
        spec = CertificateSpec.parse(node_id, **options)
        with self._open(at) as session:
            return make_tls(session.issue_in_memory(spec), session.bundle.certificates)

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
        """Signs a certificate request; the CA never sees its private key.

        Only the node id, the key and the usages are taken from the request; hosts and days are
        the arguments. The result lists what the request asked for and did not get.

        Args:
            request: The certificate signing request in PEM.
            node_id: The node that the request must be for; None accepts any node.
            hosts: The DNS names and IP addresses to grant, requested or not.
            days: How long the certificate lives, at most as long as the CA.
            client_only: The identity can only call, whatever was requested.
            server_only: The identity can only serve, whatever was requested.
            at: The time of issue; now by default.

        Raises:
            InvalidPemError: The request cannot be read, or its signature is invalid.
            InvalidNodeIdError: Its node id is invalid.
            InvalidRequestError: It is for another node, or a host is another's id or `localhost`.
            ExpiredError: The CA has expired.
            DirectoryError: The directory cannot be used.
        """
        parsed = Request.parse(request)
        if node_id not in (None, parsed.node_id):
            reason = f"the request is for {parsed.node_id}"
            raise InvalidRequestError("node id", node_id, reason)
        spec = CertificateSpec.parse(
            parsed.node_id,
            hosts=hosts,
            days=days,
            client_only=client_only or not parsed.server,
            server_only=server_only or not parsed.client,
        )
        with self._open(at) as session:
            return session.sign(parsed, spec)

    def renew(self, node_id: str, *, at: datetime | None = None) -> TLSConfig:
        """Issues the successor of a node's certificate: the same names and days, a new key.

        Raises:
            NotFoundError: The directory does not have the node's certificate and key. If the key
                is elsewhere, sign a new request.
            RevokedError: The certificate was revoked; issue a new one if the node may go on.
            CertsError: As `issue`.
        """
        request = IdentityRequest.parse(node_id)
        with self._open(at) as session:
            return renew_in_session(session, request)

    def renew_due(self, *, at: datetime | None = None) -> tuple[Renewal, ...]:
        """Renews all certificates in this directory that are due, and the revocation lists.

        A certificate is due if its key is here, and it has less than a third of its life left or
        a replaced CA issued it. A failure (one is missing or damaged, or ends with its CA:
        `CAEndsError`) does not stop the renewal of the others.

        Raises:
            CertsError: The directory or the CA cannot be used, or the CA has expired.
        """
        with self._open(at) as session:
            return renew_due(session)

    def revoke(
        self,
        node_id_or_serial: str,
        reason: RevocationReason = RevocationReason.UNSPECIFIED,
        *,
        at: datetime | None = None,
    ) -> tuple[Revocation, ...]:
        """Revokes certificates by adding them to the signed `crl.pem`.

        A node id revokes all certificates of the node that have not expired; a serial number
        revokes one. An earlier revocation keeps its date and reason.

        Args:
            node_id_or_serial: A node id, or a serial number in hexadecimal.
            reason: Why they are revoked.
            at: The current time; now by default.

        Returns:
            The revocations of these certificates, earlier ones included.

        Raises:
            NotFoundError: No such certificate was issued, or it has expired, or the key of its CA
                is not in the directory.
            UntrustedError: Its CA was retired, so there is nothing to revoke.
            InvalidRequestError: The reason is not permanent.
            DirectoryError: The directory cannot be used.
        """
        with self._open(at) as session:
            return revoke.revoke(session, node_id_or_serial, RevocationReason(reason))

    def write_revocations(self, *, at: datetime | None = None) -> RevocationList:
        """Signs `crl.pem` again, also if nothing is revoked.

        It is valid for 30 days. `issue` and `renew` also sign it again after half of that time.

        Raises:
            DirectoryError: The directory cannot be used.
        """
        with self._open(at) as session:
            return session.write_revocations()

    def document_signer(self, *, at: datetime | None = None) -> DocumentSigner:
        """The signer of the mesh's documents, below a root; see `_ca.document_signer`."""
        with self._open(at) as session:
            return document_signer(session)
