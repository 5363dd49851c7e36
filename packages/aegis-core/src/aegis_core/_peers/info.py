"""Peers: other nodes, by id and address."""

from __future__ import annotations

from dataclasses import dataclass

from aegis_certs import parse_worker_id

from aegis_core._address import check_dialable


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A node to talk to, in the topology or not.

    Attributes:
        id: Its node id, which its certificate must prove.
        address: `host:port`.
        type: The kind of node.

    Raises:
        aegis_certs.CertsError: If the id is not valid.
        ConfigError: If the address is not valid.
    """

    id: str
    address: str
    type: str = "generic"

    def __post_init__(self) -> None:
        parse_worker_id(self.id)
        check_dialable("address", self.address)
