"""What peers that sign nothing told this node, and what it therefore publishes for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from aegis_certs import CertsError, validate_node_id
from aegis_discovery import InvalidRecordError, NodeInfo, Topology
from aegis_discovery.records import LEASE, REPUBLISH_EVERY

_log = logging.getLogger("aegis.peers")


class Vouching:
    """Publishes the nodes that peers without signatures tell of, as records vouched for.

    A peer's answer can add, change and remove only what that peer told of before: it never touches
    a record that its owner signed, nor what another node vouches for.
    """

    def __init__(self, topology: Topology, clock: Callable[[], float] = time.time) -> None:
        self._topology = topology
        self._clock = clock
        self._told: dict[str, frozenset[str]] = {}

    def learn(self, peer_id: str, nodes: Sequence[NodeInfo]) -> None:
        """Takes in a peer's whole answer; the peer itself must be among the nodes."""
        told = set()
        for node in nodes:
            try:
                validate_node_id(node.id)
                if not self._is_published(node):
                    self._topology.vouch(node)
            except (CertsError, InvalidRecordError) as error:
                _log.warning("%s lists a node that cannot be one: %s", peer_id, error)
                continue
            told.add(node.id)
        gone = self._told.get(peer_id, frozenset()) - told
        self._told[peer_id] = frozenset(told)
        for node_id in gone:
            self._withdraw(node_id)

    def forget(self, peer_id: str) -> None:
        """Withdraws what only this peer told of."""
        for node_id in self._told.pop(peer_id, frozenset()):
            self._withdraw(node_id)

    def _withdraw(self, node_id: str) -> None:
        if not any(node_id in told for told in self._told.values()):
            self._topology.unvouch(node_id)

    def _is_published(self, node: NodeInfo) -> bool:
        """Tells whether the mesh has this: by the owner itself, or the same by a voucher."""
        record = self._topology.get_record(node.id)
        if record is None or record.voucher is None:
            return record is not None
        lease_left = record.expires_at / 1000 - self._clock()
        if record.info is None or lease_left < LEASE - REPUBLISH_EVERY:
            return False
        return replace(record.info, vouched_by=None) == replace(node, vouched_by=None)
