"""The addresses that a process joins through."""

from __future__ import annotations

from dataclasses import dataclass

from aegis_certs import CertsError, validate_node_id

from aegis_discovery.errors import InvalidAddressError


@dataclass(frozen=True, slots=True)
class SeedPeer:
    """A node to join through.

    Attributes:
        address: `host:port`, an IPv6 host in brackets.
        node_id: Who must be there; None where the handshake is to tell.
    """

    address: str
    node_id: str | None = None

    def __str__(self) -> str:
        return f"{self.node_id}@{self.address}" if self.node_id else self.address


def parse_seed(text: str) -> SeedPeer:
    """Reads `host:port`, `id@host:port` or either with an IPv6 host as in `[::1]:50051`.

    Raises:
        InvalidAddressError: If it is none of these.
    """
    node_id, at, address = text.strip().rpartition("@")
    host, port = split_address(address)
    if at:
        try:
            validate_node_id(node_id)
        except CertsError as error:
            raise InvalidAddressError(text, str(error)) from error
    return SeedPeer(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", node_id or None)


def split_address(address: str) -> tuple[str, int]:
    """Splits `host:port`, taking the brackets off an IPv6 host.

    Raises:
        InvalidAddressError: If there is no host, or no port from 1 to 65535.
    """
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidAddressError(address, "an IPv6 host needs brackets, as in [::1]:50051")
    if not host or any(character.isspace() or character in "/@[]" for character in host):
        raise InvalidAddressError(address, "it has no host; write host:port, as in 10.0.0.7:50051")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidAddressError(address, "it has no port from 1 to 65535; write host:port")
    return host, int(port)
