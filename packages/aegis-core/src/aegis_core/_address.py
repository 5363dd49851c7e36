"""Addresses: what is bound, and what is published."""

from __future__ import annotations

import ipaddress

from aegis_core.errors import ConfigError


def split_address(option: str, address: str) -> tuple[str, int]:
    """Splits `host:port` or `[ipv6]:port`.

    Raises:
        ConfigError: If it is neither.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(option, f"{address!r} is not host:port, such as 127.0.0.1:50051")
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ConfigError(option, f"{address!r}: write an IPv6 address as [::1]:50051")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """Joins a host and a port, with the brackets that IPv6 needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_address(option: str, address: str) -> None:
    """Checks that an address can be dialled.

    Raises:
        ConfigError: If not.
    """
    host, port = split_address(option, address)
    if port == 0:
        raise ConfigError(option, f"{address!r} has no port to dial")
    if is_wildcard(host):
        raise ConfigError(option, f"{address!r} is every address of a machine, not one to dial")


def is_wildcard(host: str) -> bool:
    """Tells whether binding this host means every address of the machine."""
    ip = as_ip(host)
    return ip is not None and ip.is_unspecified


def as_ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Returns the host as an IP address, or None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def published_address(bind: str, advertise: str | None, port: int) -> str:
    """Tells which address to publish for a server that listens on `bind`, at `port`.

    Raises:
        ConfigError: If others could not dial it.
    """
    if advertise is None:
        host, _ = split_address("address", bind)
        if is_wildcard(host):
            raise ConfigError(
                "advertise",
                f"{bind} listens everywhere; say under which host:port others reach this node",
            )
        return join_address(host, port)
    host, advertised = split_address("advertise", advertise)
    if is_wildcard(host):
        raise ConfigError("advertise", f"{advertise} is not an address that others can dial")
    return join_address(host, advertised or port)
