"""The address of each peer: the one that it publishes, or one given by hand. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from aegis_discovery import NodeStatus, Topology

from aegis_core._peers.info import PeerInfo
from aegis_core.errors import ConfigError, PeerNotFoundError


@lru_cache(maxsize=1024)  # the same few are asked for at each change of the topology
def _peer_of(node_id: str, address: str, node_type: str) -> PeerInfo | None:
    try:
        return PeerInfo(node_id, address, node_type)
    except ConfigError:
        return None  # what a node publishes need not be an address at all


class PeerDirectory:
    """Knows the peers that were added by hand, and the nodes of a topology.

    Attributes:
        added: The peers that were added, by id.
        version: Grows whenever these change.
    """

    def __init__(self, topology: Topology, *, on_change: Callable[[], None]) -> None:
        self._topology = topology
        self._on_change = on_change
        self.added: dict[str, PeerInfo] = {}
        self.version = 0
        self._stamps_when_added: dict[str, int] = {}

    def add(self, peer: PeerInfo) -> None:
        """Adds a peer; its address is valid until its node publishes a newer record."""
        record = self._topology.get_record(peer.id)
        self.added[peer.id] = peer
        self._stamps_when_added[peer.id] = record.stamp if record else 0
        self.version += 1
        self._on_change()

    def remove(self, peer_id: str) -> None:
        """Forgets a peer that was added.

        Raises:
            PeerNotFoundError: If it was not added.
        """
        if self.added.pop(peer_id, None) is None:
            raise PeerNotFoundError(peer_id)
        del self._stamps_when_added[peer_id]
        self.version += 1
        self._on_change()

    def get(self, peer_id: str) -> PeerInfo | None:
        """Returns a peer and its address; None if it is unknown or the node itself."""
        added = self.added.get(peer_id)
        if added is not None and self._is_newer_by_hand(peer_id):
            return added
        node = self._topology.get_node(peer_id)
        if node is not None and peer_id != self._topology.owner:
            return _peer_of(node.id, node.address, node.type) or added
        return added

    def has_left(self, peer_id: str) -> bool:
        """Tells whether a node has left; one that was added is dialled, in case it returns."""
        record = self._topology.get_record(peer_id)
        return record is not None and record.info is None

    def unpublished(self) -> dict[str, PeerInfo]:
        """Returns the added peers that membership does not watch: they have no signed record."""
        found = {}
        for peer_id, added in self.added.items():
            record = self._topology.get_record(peer_id)
            if (
                record is None
                or record.info is None
                or record.voucher
                or self._is_newer_by_hand(peer_id)
            ):
                found[peer_id] = self.get(peer_id) or added
        return found

    def wanted(
        self, watched: Iterable[str], regions: Mapping[str, str]
    ) -> dict[str, tuple[PeerInfo, str | None]]:
        """Returns the peers whose feeds to hold, with the region that each is limited to.

        Args:
            watched: The nodes that membership watches.
            regions: The nodes that a bridge reads from, with their regions.
        """
        found: dict[str, tuple[PeerInfo, str | None]] = {
            peer_id: (peer, None) for peer_id, peer in self.unpublished().items()
        }
        for node_id in sorted({*watched, *regions} - found.keys()):
            peer = self.get(node_id)
            if peer is not None:
                found[node_id] = peer, regions.get(node_id)
        return found

    def _is_newer_by_hand(self, peer_id: str) -> bool:
        """Tells whether a peer was added after its node published the record that is held.

        One that is alive at the very address that it publishes is not: membership watches it.
        """
        record, node = self._topology.get_record(peer_id), self._topology.get_node(peer_id)
        if record is None or record.stamp > self._stamps_when_added[peer_id]:
            return False
        is_there = node is not None and node.address == self.added[peer_id].address
        return not (is_there and node is not None and node.status is NodeStatus.ALIVE)
