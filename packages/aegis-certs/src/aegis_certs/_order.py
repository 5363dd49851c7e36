"""What a leaf is to be like: read and checked before anything is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from aegis_certs._hosts import ip_of_address, parse_host, type_of_ip
from aegis_certs._naming import KeyType, validate_node_id
from aegis_certs.errors import InvalidRequestError

LEAF_DAYS = 90


@dataclass(frozen=True)
class Order:
    """What a certificate is to be like, checked and parsed.

    The IP of the node's own address is kept apart from the hosts: a node that moves leaves its
    old address behind.
    """

    node_id: str
    hosts: tuple[str | type_of_ip, ...]
    own: type_of_ip | None
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
    def names(self) -> tuple[str | type_of_ip, ...]:
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
