"""What a leaf is to be like: read and checked before anything is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509

from aegis_certs._ca.inventory import IssuedCertificate
from aegis_certs._x509.identity import alternative_names, inherited_hosts
from aegis_certs._x509.keys import describe_key
from aegis_certs._x509.names import (
    IPAddress,
    KeyType,
    ip_of_address,
    parse_host,
    parse_ip,
    validate_node_id,
    validate_trust_domain,
)
from aegis_certs._x509.tls_config import TLSConfig
from aegis_certs._x509.trust import allows
from aegis_certs._x509.validity import BACKDATE, CertificateState, state_by_dates
from aegis_certs.errors import InvalidRequestError

LEAF_DAYS = 90


@dataclass(frozen=True)
class CertificateSpec:
    """What a certificate is to be like, checked and parsed.

    The IP of the node's own address is kept apart from the hosts: a node that moves leaves its
    old address behind.
    """

    node_id: str
    hosts: tuple[str | IPAddress, ...]
    own: IPAddress | None
    days: float
    key_type: KeyType
    server: bool
    client: bool

    @classmethod
    def of(
        cls,
        node_id: str,
        *,
        hosts: Iterable[str] = (),
        address: str | None = None,
        days: float = LEAF_DAYS,
        key_type: KeyType = KeyType.RSA_2048,
        client_only: bool = False,
        server_only: bool = False,
    ) -> Self:
        """Parses what a caller asked for.

        Raises:
            InvalidNodeIdError: The node id cannot be one.
            InvalidRequestError: A host or the key type cannot be used, or nothing is left to do.
        """
        validate_node_id(node_id)
        if isinstance(hosts, str):
            raise InvalidRequestError("hosts", hosts, "give a list of hosts")
        if client_only and server_only:
            raise InvalidRequestError("server_only", True, "client_only excludes it")
        own = ip_of_address(address) if address else None
        wanted = dict.fromkeys(parse_host(host) for host in hosts)
        names = tuple(host for host in wanted if host not in (node_id, own))
        kind = parse_key_type(key_type)
        server, client = not client_only, not server_only
        return cls(node_id, names, own, days, kind, server=server, client=client)

    @property
    def names(self) -> tuple[str | IPAddress, ...]:
        """All names that come on top of the node id: its own address, and the hosts."""
        return self.hosts if self.own is None else (self.own, *self.hosts)


def parse_key_type(value: str) -> KeyType:
    """The key type of this name.

    Raises:
        InvalidRequestError: There is none.
    """
    try:
        return KeyType(value)
    except ValueError as error:
        reason = f"choose one of {', '.join(KeyType)}"
        raise InvalidRequestError("key type", value, reason) from error


@dataclass(frozen=True)
class IdentityRequest:
    """What a node wants to start with.

    Attributes:
        order: The certificate as it would be issued.
        required: The hosts without which the node does not start.
        key_type: The key that was asked for; None leaves the choice.
        trust_domain: The trust domain that was asked for; None takes any.
    """

    order: CertificateSpec
    required: tuple[str | IPAddress, ...] = ()
    key_type: KeyType | None = None
    trust_domain: str | None = None

    @classmethod
    def of(
        cls,
        node_id: str,
        *,
        hosts: Iterable[str] = (),
        address: str | None = None,
        key_type: KeyType | None = None,
        trust_domain: str | None = None,
    ) -> Self:
        """Parses what a caller asked for.

        Raises:
            InvalidNodeIdError: The node id cannot be one.
            InvalidRequestError: A host, the key type or the trust domain cannot be used.
        """
        if not isinstance(hosts, str):  # the order refuses a text
            hosts = tuple(hosts)
        order = CertificateSpec.of(
            node_id, hosts=hosts, address=address, key_type=key_type or KeyType.RSA_2048
        )
        return cls(
            order,
            tuple(parse_host(host) for host in hosts),
            key_type,
            None if trust_domain is None else validate_trust_domain(trust_domain),
        )

    @property
    def node_id(self) -> str:
        """Who wishes."""
        return self.order.node_id

    def lacks(self, tls: TLSConfig) -> list[str | IPAddress]:
        """The names that are asked for and not in the certificate."""
        names = alternative_names(tls.certificate)
        return [host for host in self.order.names if not names.cover(host)]

    def is_met_by(self, tls: TLSConfig, at: datetime) -> bool:
        """Tells whether nothing has to be issued."""
        valid = state_by_dates(tls.certificate, at) is CertificateState.VALID
        return valid and not self.lacks(tls)

    def order_after(
        self, old: x509.Certificate, issuer: x509.Certificate, entry: IssuedCertificate | None
    ) -> CertificateSpec:
        """The order for the successor of a certificate: what that one had, and what is wanted.

        Args:
            old: The certificate to follow.
            issuer: The CA that will sign.
            entry: What the inventory says of it.
        """
        kept = inherited_hosts(old) if entry is None else map(parse_host, entry.hosts)
        own = self.order.own
        if own is None and entry is not None and entry.address:
            own = parse_ip(entry.address)
        hosts = dict.fromkeys((*self.order.hosts, *kept))
        hosts.pop(self.node_id, None)
        cut_short = old.not_valid_after_utc >= issuer.not_valid_after_utc
        life = old.not_valid_after_utc - old.not_valid_before_utc - BACKDATE
        kind = describe_key(old.public_key())
        return replace(
            self.order,
            hosts=tuple(host for host in hosts if host != own),
            own=own,
            days=LEAF_DAYS if cut_short or life <= timedelta() else life / timedelta(days=1),
            key_type=self.key_type or (KeyType(kind) if kind in set(KeyType) else KeyType.RSA_2048),
            server=allows(old, "server"),
            client=allows(old, "client"),
        )
