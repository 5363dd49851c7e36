"""Hosts: the DNS names and IP addresses that people want in certificates. Pure."""

from __future__ import annotations

import ipaddress

from aegis_certs._naming import DNS_LABEL, IP_NUMBER
from aegis_certs.errors import InvalidRequestError

type_of_ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_ip(text: str) -> type_of_ip | None:
    """The address that the text is, or None."""
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def parse_host(host: str) -> str | type_of_ip:
    """A host that somebody wants in a certificate: an IP address, or a DNS name in lower case.

    Raises:
        InvalidRequestError: It is neither. Wildcards are refused: one would pass for every
            node id below it.
    """
    if (ip := parse_ip(host)) is not None:
        return ip
    name = host.lower()
    if "*" in name:
        raise InvalidRequestError("host", host, "a wildcard would pass for other nodes")
    labels = name.split(".")
    if len(name) > 253 or not all(DNS_LABEL.fullmatch(label) for label in labels):
        raise InvalidRequestError("host", host, "it is neither an IP address nor a DNS name")
    if IP_NUMBER.fullmatch(labels[-1]):
        raise InvalidRequestError("host", host, "it ends in a number but is no IP address")
    return name


def ip_of_address(address: str) -> type_of_ip | None:
    """The IP of `host:port`, `[v6]:port` or a bare IP; None for a name or an unspecified IP.

    A node's own address goes into its certificate only where it is an IP: a host name there
    would be a name that another node might have.
    """
    ip = parse_ip(address) or parse_ip(address.rpartition(":")[0])
    return None if ip is None or ip.is_unspecified else ip
