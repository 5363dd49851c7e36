"""Which node a certificate names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from aegis_certs._x509.extensions import extension_of
from aegis_certs._x509.names import IPAddress, validate_node_id, validate_trust_domain
from aegis_certs._x509.validity import common_name
from aegis_certs.errors import IdentityError, InvalidNodeIdError, InvalidRequestError

_SPIFFE = "spiffe://"
_ENROLMENT = "enroll/"

_DNS_NAME, _URI, _IP_ADDRESS = x509.DNSName, x509.UniformResourceIdentifier, x509.IPAddress
_COMMON_NAME = x509.NameOID.COMMON_NAME


@dataclass(frozen=True, slots=True)
class Identity:
    """The node that a certificate names.

    Attributes:
        node_id: Its node id.
        trust_domain: Its trust domain; None if the certificate has no SPIFFE id.
        hosts: Its further DNS names, in lower case; equal identities may differ in them. TLS also
            accepts the certificate for a node that has one of these names as its id.
    """

    node_id: str
    trust_domain: str | None = None
    hosts: tuple[str, ...] = field(default=(), compare=False)

    @property
    def spiffe_id(self) -> str | None:
        """The URI in the certificate, or None."""
        return self.trust_domain and spiffe_id(self.trust_domain, self.node_id)


class AlternativeNames(NamedTuple):
    """The subject alternative names of a certificate, by type."""

    dns: tuple[str, ...] = ()
    ips: tuple[IPAddress, ...] = ()
    uris: tuple[str, ...] = ()

    def cover(self, host: str | IPAddress) -> bool:
        """Whether the host is exactly one of the names."""
        return host in self.dns or host in self.ips


def spiffe_id(trust_domain: str, node_id: str) -> str:
    """The SPIFFE id of a node: `spiffe://{trust_domain}/node/{node_id}`."""
    return f"{_SPIFFE}{trust_domain}/node/{node_id}"


def enrolment_spiffe_id(trust_domain: str, node_id: str) -> str:
    """The SPIFFE id of the bootstrap certificate for a node; it names no node."""
    return f"{_SPIFFE}{trust_domain}/{_ENROLMENT}{node_id}"


def general_names(hosts: Sequence[str | IPAddress]) -> list[x509.GeneralName]:
    """Hosts as subject alternative names."""
    return [x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host) for host in hosts]


def alternative_names(
    holder: x509.Certificate | x509.CertificateSigningRequest,
) -> AlternativeNames:
    """The subject alternative names; DNS names in lower case.

    Raises:
        IdentityError: The names cannot be read.
    """
    try:
        extension = extension_of(holder, x509.SubjectAlternativeName) or ()
    except Exception as error:  # the parser's errors have no common root
        raise IdentityError(f"the alternative names cannot be read ({error})") from error
    return names_by_type(extension)


def names_by_type(names: Iterable[x509.GeneralName], *, with_ips: bool = True) -> AlternativeNames:
    """The names of an extension that was parsed already; DNS names in lower case.

    Args:
        names: The names.
        with_ips: Whether to read IPs, which are expensive and say nothing about who a node is.
    """
    dns: list[str] = []
    ips: list[IPAddress] = []
    uris: list[str] = []
    for name in names:
        # Not `isinstance`, which takes ten times as long: the base of these classes is abstract.
        kind = type(name)
        if kind is _DNS_NAME:
            dns.append(name.value.lower())
        elif kind is _URI:
            uris.append(name.value)
        elif with_ips and kind is _IP_ADDRESS and isinstance(name.value, IPAddress):
            ips.append(name.value)
    return AlternativeNames(tuple(dns), tuple(ips), tuple(uris))


def inherited_hosts(certificate: x509.Certificate) -> list[str | IPAddress]:
    """The hosts that a successor inherits when only the certificate is known.

    Only certificates with our SPIFFE id pass their hosts on. Others may have `localhost`, and
    with that name a node could impersonate any other node.
    """
    identity = identity_of(certificate)
    if identity.trust_domain is None:
        return []
    names = alternative_names(certificate)
    return [name for name in (*names.dns, *names.ips) if name != identity.node_id]


def identity_of(
    certificate: x509.Certificate, alternatives: AlternativeNames | None = None
) -> Identity:
    """The one node that a leaf certificate names.

    The common name, the SPIFFE id `spiffe://{trust_domain}/node/{node_id}` and the DNS names
    must agree if more than one of them is present. A certificate may have further DNS names
    (hosts), but if it has any DNS name, the node id must be one of them: TLS checks DNS names
    and then ignores the common name.

    Args:
        certificate: The leaf.
        alternatives: Its alternative names, if they were read already.

    Raises:
        IdentityError: The certificate names no node, more than one node, or something that is
            not a node id, or its names cannot be read.
    """
    try:
        whole = certificate.subject  # parsed on each access
        names = [name for rdn in whole.rdns for name in rdn if name.oid == _COMMON_NAME]
        subject = str(names[0].value) if names else common_name(whole)
    except Exception as error:  # the parser's errors have no common root
        raise IdentityError(f"the subject cannot be read ({error})") from error
    if alternatives is None:
        alternatives = alternative_names(certificate)
    trust_domain, claimed = _spiffe_claims(subject, alternatives.uris)
    if len(names) == 1 and claimed in (None, subject):
        node_id = subject
    else:
        node_id = _one_claim(subject, [str(name.value) for name in names], claimed, alternatives)
    try:
        validate_node_id(node_id)
    except InvalidNodeIdError as error:
        raise IdentityError(f"the certificate names no node: {error}", node_id) from error
    if alternatives.dns and node_id not in alternatives.dns:
        raise IdentityError(
            f"the certificate of {node_id} has DNS names ({', '.join(alternatives.dns)}), but not "
            f"its node id, so TLS would not accept it for {node_id}; issue one with its node id",
            node_id,
        )
    return Identity(node_id, trust_domain, _hosts_of(node_id, alternatives.dns))


def _one_claim(
    subject: str, claims: list[str], claimed: str | None, alternatives: AlternativeNames
) -> str:
    """The one node id among the common names and the SPIFFE id, or else the only DNS name."""
    is_ambiguous = len(claims) > 1
    if claimed is not None:
        claims.append(claimed)
    if not claims and len(alternatives.dns) == 1:
        claims = list(alternatives.dns)
    if not claims:
        raise IdentityError(
            f"the certificate of {subject} names no node; give it a common name that is a node id"
        )
    node_id = claims[0]
    if is_ambiguous or claims.count(node_id) != len(claims):
        raise IdentityError(
            f"the certificate names more than one node ({', '.join(claims)}); "
            f"its common name and SPIFFE id must agree",
            node_id,
        )
    return node_id


def _hosts_of(node_id: str, dns: tuple[str, ...]) -> tuple[str, ...]:
    """The DNS names besides the node id; TLS ignores a dot at the end of a name."""
    if len(dns) < 2:  # the node id alone, or none
        return ()
    names = dict.fromkeys([name.removesuffix(".") for name in dns])
    names.pop(node_id, None)
    return tuple(names)


def enrolment_id_of(certificate: x509.Certificate) -> str | None:
    """The node id that a bootstrap certificate may enrol; None for any other certificate.

    The certificate in a token proves no node: it may only ask an issuer for the first certificate
    of this one. Its subject is empty, its one name is the SPIFFE id
    `spiffe://{trust_domain}/enroll/{node_id}`, and it is for clients only. This checks no
    signature: the handshake, or `TrustBundle.issuer_of`, does.
    """
    found = enrolment_of(certificate)
    return None if found is None else found.node_id


def enrolment_of(certificate: x509.Certificate) -> Identity | None:
    """The node and trust domain that a bootstrap certificate may enrol; None for others."""
    try:
        names = extension_of(certificate, x509.SubjectAlternativeName)
        constraints = extension_of(certificate, x509.BasicConstraints)
        usage = extension_of(certificate, x509.ExtendedKeyUsage)
        subject = list(certificate.subject)
    except Exception:  # noqa: BLE001 - the parser's errors have no common root
        return None
    one = next(iter(names), None) if names is not None and len(names) == 1 else None
    if subject or not isinstance(one, x509.UniformResourceIdentifier):
        return None
    if constraints is None or constraints.ca:
        return None
    if usage is None or list(usage) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        return None
    trust_domain, _, path = one.value.removeprefix(_SPIFFE).partition("/")
    node_id = path.removeprefix(_ENROLMENT)
    try:
        found = Identity(validate_node_id(node_id), validate_trust_domain(trust_domain))
    except (InvalidNodeIdError, InvalidRequestError):
        return None
    return found if enrolment_spiffe_id(trust_domain, node_id) == one.value else None


_checked_trust_domain = lru_cache(maxsize=64)(validate_trust_domain)  # leaves have few of them


def _spiffe_claims(subject: str, uris: tuple[str, ...]) -> tuple[str | None, str | None]:
    """The trust domain and the node id of the SPIFFE id; None and None without one."""
    if not uris:
        return None, None
    if not (uris[0].startswith(_SPIFFE) or any(u.lower().startswith(_SPIFFE) for u in uris)):
        return None, None
    if len(uris) > 1:
        raise IdentityError(f"the certificate of {subject} has more than one URI")
    trust_domain, _, path = uris[0][len(_SPIFFE) :].partition("/")
    node_id = path.removeprefix("node/")
    try:
        _checked_trust_domain(trust_domain)
    except InvalidRequestError as error:
        raise IdentityError(f"the SPIFFE id of {subject} cannot be used: {error}") from error
    if spiffe_id(trust_domain, node_id) != uris[0]:
        raise IdentityError(
            f"the SPIFFE id {uris[0]} of {subject} names no node; "
            f"it must be spiffe://TRUST-DOMAIN/node/NODE-ID"
        )
    return trust_domain, node_id


def trust_domain_of_ca(certificate: x509.Certificate) -> str | None:
    """The trust domain that a CA signs for, as its own SPIFFE id says; None without one."""
    for uri in alternative_names(certificate).uris:
        domain = uri.removeprefix(_SPIFFE)
        if domain != uri and "/" not in domain:
            return domain
    return None
