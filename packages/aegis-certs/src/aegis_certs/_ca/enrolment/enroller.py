"""What `CertificateAuthority` does for machines that enrol, as its base class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from cryptography import x509

from aegis_certs._ca.enrolment import grants, tokens
from aegis_certs._ca.enrolment.grants import EnrolledIdentity
from aegis_certs._ca.enrolment.tokens import TOKEN_LIFE, TokenInfo
from aegis_certs._ca.opening import Opening
from aegis_certs._ca.spec import LEAF_DAYS, CertificateSpec
from aegis_certs._x509.issuer_address import IssuerAddress
from aegis_certs._x509.token import Token


class Enroller(Opening):
    """The methods of `CertificateAuthority` for tokens, enrolment and renewal by an issuer.

    All of them hold the lock of the directory, so any number of issuers may share it.
    """

    def create_token(
        self,
        node_id: str,
        *,
        ttl: timedelta = TOKEN_LIFE,
        days: float = LEAF_DAYS,
        hosts: Iterable[str] = (),
        client_only: bool = False,
        issuers: Iterable[IssuerAddress] = (),
        at: datetime | None = None,
    ) -> Token:
        """Makes a token with which a machine gets its first certificate from an issuer.

        Only this directory honours it, once, until its end. What it grants is in the inventory
        and the audit log, not in the token.

        Args:
            node_id: The node that the machine becomes.
            ttl: How long the token can be used; at most 30 days.
            days: How long the certificate that it grants lives, and each successor.
            hosts: Further DNS names and IP addresses of the certificate; see `issue`.
            client_only: The identity can call, but not serve.
            issuers: The issuers to name first; then the token names those that wrote their
                addresses with `write_issuer_address`.
            at: The time of issue; now by default.

        Raises:
            InvalidNodeIdError: The node id, or that of an issuer, is invalid.
            InvalidRequestError: A host is another node's id, or an argument is invalid.
            ExpiredError: The CA has expired.
            DirectoryError: The directory cannot be used.
        """
        # An identity that can only serve could not ask for its successor: that is a call.
        spec = CertificateSpec.parse(node_id, hosts=hosts, days=days, client_only=client_only)
        with self._open(at) as session:
            return tokens.create_token(session, spec, ttl, issuers)

    def tokens(self, *, at: datetime | None = None) -> tuple[TokenInfo, ...]:
        """The tokens that can be used or ended in the last week, the newest last.

        Raises:
            CertsError: The directory cannot be used.
        """
        with self._open(at) as session:
            return tokens.list_tokens(session)

    def cancel_token(
        self, node_id_or_serial: str, *, at: datetime | None = None
    ) -> tuple[TokenInfo, ...]:
        """Cancels the unused tokens of a node, or the unused token with a serial number.

        Their certificates are revoked, so `crl.pem` changes.

        Raises:
            NotFoundError: There is no such token, or it was used or has ended.
            UntrustedError: Its CA was retired, so nobody accepts it.
            DirectoryError: The directory cannot be used.
        """
        with self._open(at) as session:
            return tokens.cancel_tokens(session, node_id_or_serial)

    def enroll(
        self,
        csr_der: bytes,
        bootstrap: x509.Certificate,
        *,
        issuer_id: str,
        at: datetime | None = None,
    ) -> EnrolledIdentity:
        """Gives a machine its first certificate for a token.

        The certificate is recorded before this returns, together with the use of the token. Until
        the token ends, the same public key gets the same certificate again, so a lost answer costs
        nothing; another key is refused. A crash, or a full disk, leaves either both records or
        none, and then the token can still be used.

        Args:
            csr_der: A certificate signing request in DER. Only its public key is used.
            bootstrap: The certificate of the token, whose key the caller has proved in TLS.
            issuer_id: The node id of the issuer, for the record.
            at: The current time; now by default.

        Raises:
            EnrolmentRefusedError: The request or the token cannot be used, or was used by another
                key. The message is for the log, never for the caller.
            CertsError: The CA has expired, or the directory cannot be used; try again later.
        """
        key = grants.public_key_of(csr_der)
        with self._open(at) as session:
            return grants.enroll(session, key, bootstrap, issuer_id)

    def renew_for(
        self,
        csr_der: bytes,
        leaf: x509.Certificate,
        *,
        issuer_id: str,
        intermediates: Sequence[x509.Certificate] = (),
        at: datetime | None = None,
    ) -> EnrolledIdentity:
        """Gives a node the successor of its certificate.

        The successor is for the same node, with the hosts and days that the inventory has. A
        certificate is renewed once: the same new key gets the same successor again, another key is
        refused. Its own key is refused too.

        If another CA below the same root issued the certificate, its directory is not known here.
        Its successor has the names, usages and life that the certificate has, so that a node does
        not depend on the machine that enrolled it. Each directory keeps for itself what it renewed.

        Args:
            csr_der: A certificate signing request in DER. Only its public key is used.
            leaf: The certificate that the caller has proved in TLS.
            issuer_id: The node id of the issuer, for the record.
            intermediates: The other certificates that the caller sent.
            at: The current time; now by default.

        Raises:
            EnrolmentRefusedError: The certificate is not trusted, expired, revoked, not on record,
                or was renewed by another key, or the request cannot be used. The message is for
                the log, never for the caller.
            CAEndsError: The successor would not live longer, since the CA ends.
            CertsError: The CA has expired, or the directory cannot be used; try again later.
        """
        key = grants.public_key_of(csr_der)
        with self._open(at) as session:
            return grants.renew_for(session, key, leaf, intermediates, issuer_id)
