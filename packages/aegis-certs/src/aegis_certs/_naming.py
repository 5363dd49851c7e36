"""Names: which strings may be a node id or a trust domain. Pure, and light to import."""

from __future__ import annotations

import re
from enum import StrEnum

from aegis_certs.errors import InvalidNodeIdError, InvalidRequestError

DEFAULT_TRUST_DOMAIN = "aegis.internal"
CA_NAME = "ca"  # the CA's files are called like a node's, so no node may have its name
NEXT_CA_NAME = "ca_next"  # the CA that a rotation has prepared; no node id has an underscore
OLD_CA_NAME = "ca_old"  # the CA that a rotation has replaced, and not yet retired
CA_NAMES = (CA_NAME, NEXT_CA_NAME, OLD_CA_NAME)

DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
IP_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_MAX_NODE_ID = 63  # a common name holds 64 characters, a DNS label 63


class KeyType(StrEnum):
    """The keys that are made here.

    No Ed25519: gRPC refuses such leaves, and the verifier of `cryptography` such CAs.
    """

    RSA_2048 = "rsa-2048"
    RSA_4096 = "rsa-4096"
    P256 = "p256"
    P384 = "p384"


def validate_node_id(node_id: str) -> str:
    """Checks that a string can be a node id, and gives it back.

    A node id is a lower-case DNS name of at most 63 characters in all: it becomes a common
    name, a DNS name, a SPIFFE path and a file name. Whatever a resolver would take for an
    address is refused, and so is `localhost`, which every machine takes for itself.

    Raises:
        InvalidNodeIdError: It cannot be one.
    """
    if not isinstance(node_id, str) or not node_id:
        raise InvalidNodeIdError(node_id, "it is empty or no text")
    if len(node_id) > _MAX_NODE_ID:
        raise InvalidNodeIdError(node_id, f"it is longer than {_MAX_NODE_ID} characters")
    labels = node_id.split(".")
    if not all(DNS_LABEL.fullmatch(label) for label in labels):
        raise InvalidNodeIdError(node_id, "it is no lower-case DNS name")
    if IP_NUMBER.fullmatch(labels[-1]):
        raise InvalidNodeIdError(node_id, "it ends in a number, as an IP address does")
    if labels[-1] == "localhost":
        raise InvalidNodeIdError(node_id, "every machine is localhost to itself")
    if node_id == CA_NAME:
        raise InvalidNodeIdError(node_id, "the CA's own files have this name")
    return node_id


def validate_trust_domain(trust_domain: str) -> str:
    """Checks that a string can be a trust domain, and gives it back.

    The characters are those of the SPIFFE ID standard, section 2.1. No label of it may be empty:
    it is the host of a URI in certificates, and other tools cannot read a certificate otherwise.

    Raises:
        InvalidRequestError: It cannot be one.
    """
    if not isinstance(trust_domain, str) or not _TRUST_DOMAIN.fullmatch(trust_domain):
        raise InvalidRequestError(
            "trust domain", trust_domain, "only a-z, 0-9, '.', '-' and '_' may be in it"
        )
    if not all(trust_domain.split(".")):
        raise InvalidRequestError("trust domain", trust_domain, "it has an empty label")
    return trust_domain
