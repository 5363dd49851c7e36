"""What a leaf certificate should contain: parsed and checked before anything is created."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Self, TypedDict

from cryptography import x509

from aegis_certs._x509.identity import alternative_names, inherited_hosts
from aegis_certs._x509.keys import key_type_of
from aegis_certs._x509.names import (
    LEAF_KEY_TYPE,
    IPAddress,
    KeyType,
    ip_of_address,
    parse_granted_host,
    parse_host,
    parse_key_type,
    validate_node_id,
    validate_trust_domain,
)
from aegis_certs._x509.tls_config import TLSConfig
from aegis_certs._x509.trust import allows
from aegis_certs._x509.validity import CertificateState, issued_at, state_by_dates
from aegis_certs.errors import InvalidRequestError

if TYPE_CHECKING:
    from aegis_certs._ca.issued import IssuedCertificate

LEAF_DAYS = 90


class SpecOptions(TypedDict, total=False):
    """The keyword arguments of `CertificateAuthority.issue`, which documents them."""

    hosts: Iterable[str]
    address: str | None
    days: float
    key_type: KeyType
    client_only: bool
    server_only: bool


class RequestOptions(TypedDict, total=False):
    """The keyword arguments of `load_or_generate_tls`, which documents them."""

    hosts: Iterable[str]
    address: str | None
    key_type: KeyType | None
    trust_domain: str | None


class CertificateSpec(NamedTuple):
    """What a leaf certificate should contain.

    The IP of the node's own address is kept apart from the hosts, because a node that moves drops
    its old address.
    """

    node_id: str
    hosts: tuple[str | IPAddress, ...]
    own_ip: IPAddress | None
    days: float
    key_type: KeyType
    server: bool
    client: bool

    @classmethod
    def parse(
        cls,
        node_id: str,
        *,
        hosts: Iterable[str] = (),
        address: str | None = None,
        days: float = LEAF_DAYS,
        key_type: KeyType = LEAF_KEY_TYPE,
        client_only: bool = False,
        server_only: bool = False,
    ) -> Self:
        """Checks the arguments of `CertificateAuthority.issue`, which documents the errors."""
        validate_node_id(node_id)
        if isinstance(hosts, str):
            raise InvalidRequestError("hosts", hosts, "give a list of hosts")
        if client_only and server_only:
            raise InvalidRequestError("server_only", True, "client_only excludes it")
        own_ip = ip_of_address(address) if address else None
        unique = dict.fromkeys(parse_granted_host(host) for host in hosts)
        return cls(
            node_id,
            tuple(host for host in unique if host not in (node_id, own_ip)),
            own_ip,
            days,
            parse_key_type(key_type),
            server=not client_only,
            client=not server_only,
        )

    @property
    def names(self) -> tuple[str | IPAddress, ...]:
        """All names besides the node id: the IP of its own address, and the hosts."""
        return self.hosts if self.own_ip is None else (self.own_ip, *self.hosts)


class IdentityRequest(NamedTuple):
    """The identity that a node needs when it starts.

    Attributes:
        spec: The certificate to issue if there is none.
        required: The hosts without which the node does not start.
        key_type: The requested key type; None accepts any.
        trust_domain: The requested trust domain; None accepts any.
    """

    spec: CertificateSpec
    required: tuple[str | IPAddress, ...] = ()
    key_type: KeyType | None = None
    trust_domain: str | None = None

    @classmethod
    def parse(
        cls,
        node_id: str,
        *,
        hosts: Iterable[str] = (),
        address: str | None = None,
        key_type: KeyType | None = None,
        trust_domain: str | None = None,
    ) -> Self:
        """Checks the arguments of `load_or_generate_tls`, which documents the errors."""
        if not isinstance(hosts, str):  # the spec refuses a string
            hosts = tuple(hosts)
        spec = CertificateSpec.parse(
            node_id, hosts=hosts, address=address, key_type=key_type or LEAF_KEY_TYPE
        )
        return cls(
            spec,
            tuple(parse_host(host) for host in hosts),
            key_type,
            None if trust_domain is None else validate_trust_domain(trust_domain),
        )

    @property
    def node_id(self) -> str:
        """The node that needs the identity."""
        return self.spec.node_id

    def missing_names(self, tls: TLSConfig) -> list[str | IPAddress]:
        """The requested names that the certificate does not have."""
        names = alternative_names(tls.certificate)
        return [host for host in self.spec.names if not names.cover(host)]

    def is_satisfied_by(self, tls: TLSConfig, at: datetime) -> bool:
        """Whether the certificate is valid, not due for renewal, and has all requested names."""
        valid = state_by_dates(tls.certificate, at) is CertificateState.VALID
        return valid and not self.missing_names(tls)

    def renewal_spec(
        self, old: x509.Certificate, issuer: x509.Certificate, entry: IssuedCertificate | None
    ) -> CertificateSpec:
        """The spec of the successor of a certificate: what it had, and what is requested.

        Args:
            old: The certificate to renew.
            issuer: The CA that signed it.
            entry: The inventory's entry of the old certificate.
        """
        kept = inherited_hosts(old) if entry is None else _still_valid(entry.hosts)
        own_ip = self.spec.own_ip
        if own_ip is None and entry is not None and entry.address:
            own_ip = ip_of_address(entry.address)
        hosts = dict.fromkeys((*self.spec.hosts, *kept))
        hosts.pop(self.node_id, None)
        return self.spec._replace(
            hosts=tuple(host for host in hosts if host != own_ip),
            own_ip=own_ip,
            days=(entry and entry.days) or _days_of(old, issuer),
            key_type=self.key_type or key_type_of(old, LEAF_KEY_TYPE),
            server=allows(old, "server"),
            client=allows(old, "client"),
        )


def _days_of(leaf: x509.Certificate, issuer: x509.Certificate) -> float:
    """The life of a leaf; the default if its issuer cut it short."""
    life = leaf.not_valid_after_utc - issued_at(leaf.not_valid_before_utc)
    cut_short = leaf.not_valid_after_utc >= issuer.not_valid_after_utc
    return LEAF_DAYS if cut_short or life <= timedelta() else life / timedelta(days=1)


def _still_valid(hosts: Iterable[str]) -> Iterator[str | IPAddress]:
    """Hosts of an earlier certificate, without those that the rules of today refuse."""
    for host in hosts:
        with suppress(InvalidRequestError):
            yield parse_granted_host(host)
