"""Peers: the nodes that this one was told to know, by id and address."""

from __future__ import annotations

from dataclasses import dataclass

from aegis_certs import validate_node_id

from aegis_core._address import check_dialable


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A node to talk to, whether or not the topology has it.

    Attributes:
        id: Its node id; its certificate must prove it.
        address: `host:port`.
        type: What kind of node it is.

    Raises:
        aegis_certs.CertsError: If the id cannot be one.
        ConfigError: If the address cannot be one.
    """

    id: str
    address: str
    type: str = "generic"

    def __post_init__(self) -> None:
        validate_node_id(self.id)
        check_dialable("address", self.address)
