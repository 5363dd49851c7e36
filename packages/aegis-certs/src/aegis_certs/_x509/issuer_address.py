"""Where an issuer can be reached."""

from __future__ import annotations

from typing import NamedTuple, Self

from aegis_certs._x509.names import parse_host, validate_node_id
from aegis_certs.errors import InvalidRequestError

MAX_ISSUERS = 16
"""Issuers that a token names at most."""

_MAX_ADDRESS = 300  # characters


class IssuerAddress(NamedTuple):
    """Where an issuer can be reached.

    Attributes:
        node_id: Its node id, which its certificate must name.
        address: Its address, `host:port`.
    """

    node_id: str
    address: str

    @classmethod
    def parse(cls, node_id: str, address: str) -> Self:
        """Checks both parts.

        Raises:
            InvalidNodeIdError: The node id is invalid.
            InvalidRequestError: The address is not `host:port`.
        """
        host, _, port = address.rpartition(":")
        if len(address) > _MAX_ADDRESS or not (port.isascii() and port.isdigit()):
            raise InvalidRequestError("address", address[:80], "give it as host:port")
        if not 0 < int(port) < 1 << 16:
            raise InvalidRequestError("address", address, "its port is not from 1 to 65535")
        parse_host(host)
        return cls(validate_node_id(node_id), address)
