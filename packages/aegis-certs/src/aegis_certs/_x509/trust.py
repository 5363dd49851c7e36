"""The trust bundle: which CAs are trusted, and the check of a chain against them."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property, lru_cache, partial
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from aegis_certs._time import utc_or_now
from aegis_certs._x509.extensions import extension_of
from aegis_certs._x509.identity import (
    Identity,
    identity_of,
    names_by_type,
    trust_domain_of_ca,
)
from aegis_certs._x509.keys import UNUSABLE_KEY, is_usable_key
from aegis_certs._x509.pem import encode_certificates, parse_certificates
from aegis_certs._x509.validity import NEW_CA_ADVICE, check_dates, common_name
from aegis_certs.errors import ExpiredError, IdentityError, UntrustedError, UsageError

Usage = Literal["server", "client"]

USAGES: dict[Usage, x509.ObjectIdentifier] = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}

RENEW_ADVICE = "issue a new one (`aegis-certs issue`), or start the node where the CA key is"


_domain_of_ca = lru_cache(maxsize=64)(trust_domain_of_ca)  # many leaves have the same few CAs


class TrustBundle:
    """The CAs that one side of a connection trusts.

    Args:
        certificates: The CAs, the issuing CA first.
    """

    def __init__(self, certificates: Sequence[x509.Certificate]) -> None:
        self.certificates = tuple(certificates)
        store = verification.Store(list(self.certificates))
        self._policies = {usage: _policy(usage).store(store) for usage in (*USAGES, None)}
        self._verifiers: dict[Usage | None, tuple[int, verification.ClientVerifier]] = {}
        self._domains: dict[int, str | None] = {}

    def __repr__(self) -> str:
        return f"TrustBundle({', '.join(common_name(ca.subject) for ca in self.certificates)})"

    @staticmethod
    def from_pem(data: bytes) -> TrustBundle:
        """The bundle of a PEM text; bundles are cached by their text.

        Raises:
            InvalidPemError: There is no certificate, or one cannot be read.
        """
        return _bundle_of(bytes(data))

    @property
    def pem(self) -> bytes:
        """All certificates as one PEM text."""
        return encode_certificates(self.certificates)

    @property
    def trust_domain(self) -> str | None:
        """The trust domain that the issuing CA signs for; None if its certificate names none."""
        return trust_domain_of_ca(self.certificates[0])

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """The self-signed CAs, or all CAs if none is self-signed."""
        roots = tuple(ca for ca in self.certificates if ca.subject == ca.issuer)
        return roots or self.certificates

    def may_sign_for(self, trust_domain: str) -> bool:
        """Whether a root in it may sign for a trust domain: it names this one, or none."""
        roots = (ca for ca in self.certificates if ca.subject == ca.issuer and is_ca(ca))
        return any(trust_domain_of_ca(root) in (None, trust_domain) for root in roots)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the roots, in hexadecimal; it does not depend on their order.

        So it says which roots this bundle trusts, and does not change with an intermediate.
        """
        digests = sorted({ca.fingerprint(hashes.SHA256()) for ca in self.roots})
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def verify(
        self,
        chain: Sequence[x509.Certificate],
        usage: Usage | None,
        *,
        at: datetime | None = None,
        trust_domain: str | None = None,
    ) -> Identity:
        """Checks a chain as TLS does, and returns the identity that it proves.

        `cryptography.x509.verification` checks the path as RFC 5280 says. Extensions that older
        CAs omit (key identifiers, a CA's key usage, alternative names) may be absent; if they are
        present, they are checked. The caller must compare the identity with the *expected* one.

        Args:
            chain: The leaf, then the intermediates.
            usage: What the leaf is used for: `server` or `client`; None accepts either.
            at: The time of the check; now by default.
            trust_domain: The trust domain that the leaf and all CAs above it must be of, as far as
                they name one; None accepts any that the leaf and its CAs agree on.

        Raises:
            ExpiredError: The leaf, or a CA above it, has expired.
            NotYetValidError: The leaf, or a CA above it, is not valid yet.
            UsageError: The leaf must not be used for this.
            IdentityError: The leaf names no node, or is of another trust domain than its CA, or
                one of them is of another trust domain than the required one.
            UntrustedError: No chain leads to a CA of this bundle, or a key is too weak.
        """
        return self.begin_verify(chain, usage, at=at, trust_domain=trust_domain)()

    def begin_verify(
        self,
        chain: Sequence[x509.Certificate],
        usage: Usage | None,
        *,
        at: datetime | None = None,
        trust_domain: str | None = None,
    ) -> Callable[[], Identity]:
        """Does the first half of `verify`, which checks signatures, and returns the second half.

        The chain proves nothing before the second half has returned. Whoever verifies many chains
        does the first halves together: a check of a signature leaves little else in the
        processor's caches. Both halves raise what `verify` raises.
        """
        if not chain:
            raise UntrustedError("the peer", "it sent no certificate")
        leaf, *intermediates = chain
        # X.509 counts in whole seconds, and so does the verifier.
        second = math.floor(time.time() if at is None else utc_or_now(at).timestamp())
        try:
            verified = self._verifier(usage, second).verify(leaf, intermediates)
        except Exception as error:  # an extension that cannot be read raises any error
            identity = identity_of(leaf)
            self._explain(identity.node_id, leaf, intermediates, usage, utc_or_now(at))
            raise UntrustedError(identity.node_id, str(error)) from error
        return partial(self._identity, leaf, verified, trust_domain)

    def _identity(
        self, leaf: x509.Certificate, verified: verification.VerifiedClient, required: str | None
    ) -> Identity:
        # The verifier has parsed the names, which takes longer than all other checks here.
        identity = identity_of(leaf, names_by_type(verified.subjects or (), with_ips=False))
        if not is_usable_key(leaf.public_key()):  # the verifier checks only the keys of CAs
            raise UntrustedError(identity.node_id, UNUSABLE_KEY)
        domains = [self._domain_of(ca) for ca in verified.chain[1:]]
        _check_domains(identity, domains, required)
        return identity

    def _verifier(self, usage: Usage | None, second: int) -> verification.ClientVerifier:
        """A verifier for one second of Unix time."""
        known = self._verifiers.get(usage)
        if known is not None and known[0] == second:
            return known[1]
        at = datetime.fromtimestamp(second, UTC)
        verifier = self._policies[usage].time(at).build_client_verifier()
        self._verifiers[usage] = (second, verifier)
        return verifier

    def _domain_of(self, ca: x509.Certificate) -> str | None:
        # By the object, since a lookup of a certificate in a dict hashes all of its bytes.
        if (key := id(ca)) in self._domains:
            return self._domains[key]
        domain = _domain_of_ca(ca)
        if any(own is ca for own in self.certificates):  # which keeps it, and so its id
            self._domains[key] = domain
        return domain

    def issuer_of(
        self, certificate: x509.Certificate, others: Sequence[x509.Certificate] = ()
    ) -> x509.Certificate | None:
        """The CA among the others or in this bundle whose key signed the certificate."""
        for ca in (*others, *self.certificates):
            if ca.subject == certificate.issuer and signed_by(certificate, ca):
                return ca
        return None

    def path_of(self, chain: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
        """The part of a chain that leads from its leaf to a CA of this bundle, in order.

        This proves nothing: `verify` says whether the chain may be used. A verifier tries every
        path through the certificates that a peer sent, and an attacker can make that take long.
        This method checks each certificate once, from the top down, and checks signatures only
        with keys that are already trusted.

        Args:
            chain: The leaf, then other certificates.

        Returns:
            The leaf and the CAs above it; empty if they lead to no CA of this bundle.
        """
        named, others = [chain[0]], list(chain[1:])
        while above := next((ca for ca in others if ca.subject == named[-1].issuer), None):
            others.remove(above)
            named.append(above)
        path: list[x509.Certificate] = []
        for certificate in reversed(named):
            if not (path and is_ca(path[-1]) and signed_by(certificate, path[-1])):
                path.clear()
                if certificate not in self.certificates and not self.issuer_of(certificate):
                    continue
            path.append(certificate)
        return tuple(reversed(path))

    def chain_of(self, leaf: x509.Certificate) -> tuple[x509.Certificate, ...]:
        """The leaf, then the intermediates of this bundle that lead to its root."""
        chain = [leaf]
        while (above := self.issuer_of(chain[-1])) and above.subject != above.issuer:
            if above in chain:
                break
            chain.append(above)
        return tuple(chain)

    def path(self) -> tuple[x509.Certificate, ...]:
        """The issuing CA and the CAs above it, up to the root or the last one in this bundle."""
        found = [self.certificates[0]]
        while found[-1].subject != found[-1].issuer:
            above = self.issuer_of(found[-1])
            if above is None or above in found:
                break
            found.append(above)
        return tuple(found)

    def _renewal_advice(
        self, leaf: x509.Certificate, intermediates: Sequence[x509.Certificate], at: datetime
    ) -> str:
        """What helps if a leaf has expired: often its CA has expired too, and cannot issue."""
        ca = self.issuer_of(leaf, intermediates)
        return NEW_CA_ADVICE if ca and at > ca.not_valid_after_utc else RENEW_ADVICE

    def _explain(
        self,
        node_id: str,
        leaf: x509.Certificate,
        intermediates: Sequence[x509.Certificate],
        usage: Usage | None,
        at: datetime,
    ) -> None:
        """Raises a more precise error than the verifier's, if there is one."""
        if at > leaf.not_valid_after_utc:
            advice = self._renewal_advice(leaf, intermediates, at)
            raise ExpiredError(node_id, leaf.not_valid_after_utc, advice)
        check_dates(leaf, at, node_id, RENEW_ADVICE)
        if usage is not None and not allows(leaf, usage):
            raise UsageError(node_id, usage)
        below = leaf
        for _ in range(len(intermediates) + 1):
            ca = self.issuer_of(below, intermediates)
            if ca is None:
                issuer = common_name(below.issuer)
                known = [common_name(ca.subject) for ca in self.certificates]
                what = (
                    f"the trust bundle has its issuer {issuer} with another key"
                    if any(ca.subject == below.issuer for ca in self.certificates)
                    else f"its issuer {issuer} is not in the trust bundle ({', '.join(known)})"
                )
                advice = "use the ca-cert.pem of the CA that issued it, or issue a new one"
                raise UntrustedError(node_id, f"{what}; {advice}")
            check_dates(ca, at, f"the CA {common_name(ca.subject)}", NEW_CA_ADVICE)
            if ca in self.certificates:
                return
            below = ca


@lru_cache(maxsize=64)
def _bundle_of(data: bytes) -> TrustBundle:
    return TrustBundle(parse_certificates(data, "trust bundle"))


def signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether a CA has issued a certificate: its name and its key."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, TypeError, ValueError, UnsupportedAlgorithm):
        return False
    return True


def needed_cas(
    chain: Sequence[x509.Certificate], bundle: TrustBundle, successor: TrustBundle
) -> tuple[x509.Certificate, ...]:
    """The CAs of a bundle that a chain needs and that its successor lacks.

    Without them the holder of the chain, and all that trust what it trusts, would refuse it. This
    is empty if the chain leads to a CA of the successor too, or to none of the bundle.
    """
    if successor.path_of(chain):
        return ()
    path = bundle.path_of(chain)
    if not path:
        return ()
    above = bundle.issuer_of(path[-1])
    found = [ca for ca in path[1:] if ca in bundle.certificates]
    while above is not None and above not in found:
        found.append(above)
        above = bundle.issuer_of(above)
    return tuple(found)


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether this is the certificate of a CA."""
    constraints = extension_of(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def signs_cas(certificate: x509.Certificate) -> bool:
    """Whether this is the certificate of a CA that may sign other CAs."""
    constraints = extension_of(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca and bool(constraints.path_length)


def allows(certificate: x509.Certificate, usage: Usage) -> bool:
    """Whether a leaf may be used for this; without extended key usage it may be used for all."""
    extension = extension_of(certificate, x509.ExtendedKeyUsage)
    return extension is None or _covers(extension, USAGES[usage])


def _covers(extension: x509.ExtendedKeyUsage, usage: x509.ObjectIdentifier) -> bool:
    return usage in extension or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in extension


def _check_domains(identity: Identity, domains: Iterable[str | None], required: str | None) -> None:
    """Refuses a leaf of another trust domain than its CA's, or than the required one.

    A CA decides which trust domain its leaves prove, also if a leaf names none.
    """
    node_id, own = identity.node_id, identity.trust_domain
    if required and own and own != required:
        raise IdentityError(
            f"the certificate of {node_id} is of trust domain {own}, not of {required}", node_id
        )
    for domain in domains:
        if domain == own == required:
            continue
        if domain and own and domain != own:
            raise IdentityError(
                f"the certificate of {node_id} is of trust domain {own}, but its CA signs only "
                f"for {domain}; issue it from another CA",
                node_id,
            )
        if domain and required and domain != required:
            raise IdentityError(
                f"the certificate of {node_id} is from a CA of trust domain {domain}, not of "
                f"{required}; issue it from another CA",
                node_id,
            )


def _policy(usage: Usage | None) -> verification.PolicyBuilder:
    """The Web PKI's policy for CAs and leaves, without the extensions that older CAs omit."""

    def check_usage(
        _policy: verification.Policy, _: x509.Certificate, found: x509.ExtendedKeyUsage | None
    ) -> None:
        if found is not None and usage is not None and not _covers(found, USAGES[usage]):
            raise ValueError(f"its extended key usage does not cover a {usage}")

    def check_ca_key_usage(
        _policy: verification.Policy, _: x509.Certificate, found: x509.KeyUsage | None
    ) -> None:
        if found is not None and not found.key_cert_sign:
            raise ValueError("its key usage does not cover signing certificates")

    either = verification.Criticality.AGNOSTIC
    ca_policy = (
        verification.ExtensionPolicy.webpki_defaults_ca()
        .may_be_present(x509.KeyUsage, either, check_ca_key_usage)
        .may_be_present(x509.SubjectKeyIdentifier, either, None)
        .may_be_present(x509.AuthorityKeyIdentifier, either, None)
        .may_be_present(x509.ExtendedKeyUsage, either, check_usage)
    )
    leaf_policy = (
        verification.ExtensionPolicy.webpki_defaults_ee()
        .may_be_present(x509.SubjectAlternativeName, either, None)
        .may_be_present(x509.AuthorityKeyIdentifier, either, None)
        .may_be_present(x509.ExtendedKeyUsage, either, check_usage)
    )
    return verification.PolicyBuilder().extension_policies(
        ca_policy=ca_policy, ee_policy=leaf_policy
    )
