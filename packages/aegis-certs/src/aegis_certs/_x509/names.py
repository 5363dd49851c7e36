"""Which strings may be a node id, a host or a trust domain. Pure, and light to import."""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from typing import NamedTuple

from aegis_certs.errors import InvalidNodeIdError, InvalidRequestError

DEFAULT_TRUST_DOMAIN = "aegis.internal"
CA_NAME = "ca"  # the CA's files are named like a node's, so no node may have this id
NEXT_CA_NAME = "ca_next"  # the CA that a rotation has prepared; no node id has an underscore
OLD_CA_NAME = "ca_old"  # the CA that a rotation has replaced and not yet retired
DOCUMENTS_NAME = "ca_documents"  # the signer of the mesh's documents
NEXT_DOCUMENTS_NAME = "ca_next_documents"  # the one below the root of a CA that is prepared
CA_NAMES = (CA_NAME, NEXT_CA_NAME, OLD_CA_NAME, DOCUMENTS_NAME, NEXT_DOCUMENTS_NAME)

_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(rf"{_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")
_IP_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_MAX_NODE_ID = 63  # a common name holds 64 characters, a DNS label 63

MAX_WORKERS = 64
"""Workers of one identity: a member of a mesh can enter this many nodes at most."""

_WORKER_NUMBER = re.compile(r"[0-9]|[1-5][0-9]|6[0-3]")

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class KeyType(StrEnum):
    """The types of keys that this package creates.

    Ed25519 is missing because gRPC refuses such leaves, and the verifier of `cryptography` refuses
    such CAs.
    """

    RSA_2048 = "rsa-2048"
    RSA_4096 = "rsa-4096"
    P256 = "p256"
    P384 = "p384"


CA_KEY_TYPE = KeyType.RSA_4096
LEAF_KEY_TYPE = KeyType.RSA_2048


def parse_key_type(value: str) -> KeyType:
    """The key type of this name.

    Raises:
        InvalidRequestError: There is no such key type.
    """
    try:
        return KeyType(value)
    except ValueError as error:
        reason = f"choose one of {', '.join(KeyType)}"
        raise InvalidRequestError("key type", value, reason) from error


def parse_ip(text: str) -> IPAddress | None:
    """The IP address that the text is, or None."""
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def parse_host(host: str) -> str | IPAddress:
    """A host for a certificate: an IP address, or a DNS name in lower case.

    Raises:
        InvalidRequestError: The host is neither, or is an unspecified IP or one with a zone.
            Wildcards are refused: a wildcard would match every node id below it.
    """
    if (ip := parse_ip(host)) is not None:
        if ip.is_unspecified:
            raise InvalidRequestError("host", host, "it is the address of no machine")
        if _has_zone(ip):
            reason = "a certificate cannot hold the zone of an address; give one without a zone"
            raise InvalidRequestError("host", host, reason)
        return ip
    name = host.lower()
    if "*" in name:
        raise InvalidRequestError("host", host, "a wildcard would match the names of other nodes")
    labels = name.split(".")
    if len(name) > 253 or not all(_DNS_LABEL.fullmatch(label) for label in labels):
        raise InvalidRequestError("host", host, "it is neither an IP address nor a DNS name")
    if _IP_NUMBER.fullmatch(labels[-1]):
        raise InvalidRequestError("host", host, "it ends in a number but is not an IP address")
    return name


def parse_granted_host(host: str) -> str | IPAddress:
    """`parse_host` for a host that a certificate is to have.

    Raises:
        InvalidRequestError: As `parse_host`, or the host is `localhost` or below it.
    """
    parsed = parse_host(host)
    if isinstance(parsed, str) and parsed.rpartition(".")[2] == "localhost":
        reason = (
            "every machine is localhost to itself, so the node could impersonate every other one "
            "that is dialled by this name; give a name of this node alone"
        )
        raise InvalidRequestError("host", host, reason)
    return parsed


def ip_of_address(address: str) -> IPAddress | None:
    """The IP of `host:port`, `[v6]:port` or a bare IP; None for a name or an unspecified IP.

    Only an IP of the node's own address goes into its certificate: a host name could also be the
    name of another node. An IP with a zone does not: a certificate cannot hold the zone.
    """
    ip = parse_ip(address) or parse_ip(address.rpartition(":")[0])
    return None if ip is None or ip.is_unspecified or _has_zone(ip) else ip


def _has_zone(ip: IPAddress) -> bool:
    return isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None


def validate_node_id(node_id: str) -> str:
    """Checks that a string can be a node id, and returns it.

    A node id is a lower-case DNS name of at most 63 characters in all, because it is used as a
    common name, a DNS name, a SPIFFE path and a file name. Anything that a resolver would read as
    an IP address is refused, and so is `localhost`, which means a different machine on each
    machine.

    Raises:
        InvalidNodeIdError: The string cannot be a node id.
    """
    if not isinstance(node_id, str) or not node_id:
        raise InvalidNodeIdError(node_id, "it is empty or not a text")
    if len(node_id) > _MAX_NODE_ID:
        raise InvalidNodeIdError(node_id, f"it is longer than {_MAX_NODE_ID} characters")
    if not _DNS_NAME.fullmatch(node_id):
        raise InvalidNodeIdError(node_id, "it is not a lower-case DNS name")
    last = node_id.rpartition(".")[2]
    if last[0] <= "9" and _IP_NUMBER.fullmatch(last):
        raise InvalidNodeIdError(node_id, "it ends in a number, as an IP address does")
    if last == "localhost":
        raise InvalidNodeIdError(node_id, "every machine is localhost to itself")
    if node_id == CA_NAME:
        raise InvalidNodeIdError(node_id, "the CA's own files have this name")
    return node_id


class WorkerId(NamedTuple):
    """The parts of the id of a node, which may be a worker.

    Attributes:
        identity: The node id that its certificate names.
        number: The number of the worker; None for a node that is no worker.
    """

    identity: str
    number: int | None


def parse_worker_id(node_id: str) -> WorkerId:
    """Splits the id of a node that may be a worker, such as `orders-1#2`, and checks both parts.

    Workers are several processes under one identity. A certificate names the identity, never a
    worker, so `validate_node_id` refuses the id of one.

    Raises:
        InvalidNodeIdError: The string is the id of neither a node nor a worker.
    """
    identity, separator, number = node_id.partition("#")
    if separator and not _WORKER_NUMBER.fullmatch(number):
        reason = f"a worker has a number from 0 to {MAX_WORKERS - 1} after '#', as in orders-1#2"
        raise InvalidNodeIdError(node_id[:80], reason)
    validate_node_id(identity)
    return WorkerId(identity, int(number) if separator else None)


def owner_of(node_id: str) -> str:
    """The identity of a valid node id: the part before `#`. Its certificate signs the records."""
    return node_id.partition("#")[0]


def matching_names(node_id: str) -> tuple[str, ...]:
    """The DNS names of certificates that TLS accepts for a node: its id, and a wildcard above it.

    Aegis issues no wildcards; other CAs may.
    """
    _, dot, parent = node_id.partition(".")
    return (node_id, f"*.{parent}") if dot else (node_id,)


def validate_trust_domain(trust_domain: str) -> str:
    """Checks that a string can be a trust domain, and returns it.

    The characters are those of the SPIFFE ID standard, section 2.1. No label may be empty: the
    trust domain is the host of a URI in certificates, and other tools cannot read a certificate
    whose URI has an empty label.

    Raises:
        InvalidRequestError: The string cannot be a trust domain.
    """
    if not isinstance(trust_domain, str) or not _TRUST_DOMAIN.fullmatch(trust_domain):
        raise InvalidRequestError(
            "trust domain", trust_domain, "it may have only a-z, 0-9, '.', '-' and '_'"
        )
    if not all(trust_domain.split(".")):
        raise InvalidRequestError("trust domain", trust_domain, "it has an empty label")
    return trust_domain
