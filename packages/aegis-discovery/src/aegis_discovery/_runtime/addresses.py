"""Addresses to dial, to listen on, and to join through."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from aegis_certs import CertsError, parse_worker_id

from aegis_discovery.errors import InvalidAddressError

_HOST = r"(?!.{254})[A-Za-z0-9_]([A-Za-z0-9_-]*)(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*\.?"
"""Compiled on first use, unlike the following."""

_PLAIN = re.compile(rf"(?P<host>{_HOST}):(?P<port>[0-9]{{1,5}})")
"""Nearly all addresses; it decides nothing else, and a longer look says what is wrong."""

_ZEROS = frozenset("0:.")
"""The characters of addresses that mean all addresses."""

_SCHEMES = frozenset({"dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds"})
"""Words that gRPC reads as the scheme of a target, not as a host."""


class SeedPeer(NamedTuple):
    """A node through which a process joins the mesh.

    Attributes:
        address: `host:port`, with brackets around an IPv6 host.
        node_id: The node that must answer; None accepts the id in the server's certificate.
    """

    address: str
    node_id: str | None = None

    def __str__(self) -> str:
        return f"{self.node_id}@{self.address}" if self.node_id else self.address


def parse_seed(text: str) -> SeedPeer:
    """Parses `host:port` or `id@host:port`; an IPv6 host is written as in `[::1]:50051`.

    Raises:
        InvalidAddressError: It has neither form.
    """
    node_id, at, address = text.strip().rpartition("@")
    host, port = split_address(address)
    if at:
        try:
            parse_worker_id(node_id)
        except CertsError as error:
            raise InvalidAddressError(text, str(error)) from error
    return SeedPeer(join_address(host, port), node_id or None)


def split_address(address: str) -> tuple[str, int]:
    """Splits an address to dial; removes the brackets around an IPv6 host.

    Raises:
        InvalidAddressError: It has no host, a wildcard host, or no port from 1 to 65535.
    """
    if plain := _PLAIN.fullmatch(address):
        host, port = plain["host"], int(plain["port"])
        if 0 < port <= 65535 and host not in _SCHEMES and not is_wildcard(host):
            return host, port
    host, port = split_host_port(address)
    if port == 0:
        raise InvalidAddressError(address, "it has no port from 1 to 65535; write host:port")
    if is_wildcard(host):
        reason = "it means all addresses of a machine; write the address of one interface"
        raise InvalidAddressError(address, reason)
    return host, port


def split_host_port(address: str) -> tuple[str, int]:
    """Splits an address to listen on: the port may be 0, and the host may be a wildcard.

    Raises:
        InvalidAddressError: It has no host, or no port from 0 to 65535.
    """
    host, colon, port = address.rpartition(":")
    if not colon:
        raise InvalidAddressError(address, "it has no port; write host:port, as in 10.0.0.7:50051")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if _as_ip(host) is None:
            raise InvalidAddressError(address, "the text in brackets is not an IPv6 address")
    elif ":" in host:
        raise InvalidAddressError(address, "an IPv6 host needs brackets, as in [::1]:50051")
    elif not re.fullmatch(_HOST, host) or host in _SCHEMES:
        raise InvalidAddressError(address, "it has no host; write host:port, as in 10.0.0.7:50051")
    if not port.isascii() or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise InvalidAddressError(address, "it has no port from 1 to 65535; write host:port")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Joins a host and a port; adds the brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_wildcard(host: str) -> bool:
    """Returns whether a server on this host listens on all addresses of the machine."""
    if not _ZEROS.issuperset(host):  # it takes long to find out that a name is no IP
        return False
    ip = _as_ip(host)
    return ip is not None and ip.is_unspecified


def _as_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
