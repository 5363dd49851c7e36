"""What peers that sign nothing told this node, and what it therefore publishes for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from aegis_certs import CertsError, validate_node_id
from aegis_discovery import InvalidAddressError, InvalidRecordError, NodeInfo, Topology
from aegis_discovery.records import LEASE, REPUBLISH_EVERY
from aegis_discovery.transport import split_address

_log = logging.getLogger("aegis.peers")


class Vouching:
    """Publishes the nodes that peers without signatures tell of, as records vouched for.

    A peer's answer can add, change and remove only what such peers told of before: it never
    touches a record that its owner signed, nor removes what another node vouches for. Where peers
    tell different things of a node, all who listen to them settle on the same one.
    """

    def __init__(self, topology: Topology, clock: Callable[[], float] = time.time) -> None:
        self._topology = topology
        self._clock = clock
        self._told: dict[str, Mapping[str, NodeInfo]] = {}
        self._answering: set[str] = set()
        self._settled: dict[str, NodeInfo] = {}
        self._complaints: dict[str, str] = {}

    def learn(self, peer_id: str, nodes: Iterable[NodeInfo]) -> None:
        """Takes in a peer's whole answer; the peer itself must be among the nodes."""
        told: dict[str, NodeInfo] = {}
        complaint = ""
        for node in nodes:
            try:
                split_address(node.address)
                told[validate_node_id(node.id)] = node
            except (CertsError, InvalidAddressError) as error:
                complaint = complaint or str(error)
        self._complain(peer_id, complaint)
        before = self._told.get(peer_id, {})
        self._told[peer_id] = told
        self._answering.add(peer_id)
        self._settle(before.keys() | told.keys())

    def lost(self, peer_id: str) -> None:
        """Notes that a peer does not answer; what it told counts less than what others tell."""
        if peer_id in self._answering:
            self._answering.remove(peer_id)
            self._settle(self._told[peer_id])

    def forget(self, peer_id: str) -> None:
        """Withdraws what only this peer told of."""
        self._answering.discard(peer_id)
        self._complaints.pop(peer_id, None)
        self._settle(self._told.pop(peer_id, {}))

    def lacks(self, peer_id: str) -> bool:
        """Tells whether a peer's last answer was without something that the topology has."""
        told = self._told.get(peer_id)
        if told is None:
            return False
        nodes = self._topology.nodes
        return any(
            node_id not in told or _essence(told[node_id]) != _essence(node)
            for node_id, node in nodes.items()
        )

    def _settle(self, node_ids: Iterable[str]) -> None:
        for node_id in sorted(node_ids):
            node = self._believed(node_id)
            if node is None:
                self._settled.pop(node_id, None)
                self._topology.unvouch(node_id)
                continue
            settled = self._settled.get(node_id)
            is_news = settled is None or _without_times(settled) != _without_times(node)
            self._settled[node_id] = node
            if self._is_due(node, is_news=is_news):
                self._publish(node, logging.WARNING if is_news else logging.DEBUG)

    def _believed(self, node_id: str) -> NodeInfo | None:
        """Chooses among what is told of a node: best by a peer that answers, best by itself."""
        tellers = [peer_id for peer_id, told in self._told.items() if node_id in told]
        if not tellers:
            return None
        teller = min(tellers, key=lambda p: (p not in self._answering, p != node_id, p))
        return self._told[teller][node_id]

    def _is_due(self, node: NodeInfo, *, is_news: bool) -> bool:
        record = self._topology.get_record(node.id)
        if record is not None and record.voucher is None:
            return False
        if record is None or record.info is None:
            return True
        lease_left = record.expires_at / 1000 - self._clock()
        if lease_left < LEASE - REPUBLISH_EVERY:
            return True
        if _without_times(record.info) == _without_times(node):
            return False
        # Two vouchers who hear different things would else overwrite each other for ever.
        return is_news or record.voucher == self._topology.owner

    def _publish(self, node: NodeInfo, level: int) -> None:
        try:
            self._topology.vouch(node)
        except InvalidRecordError as error:
            _log.log(level, "%s cannot be vouched for: %s", node.id, error.reason)

    def _complain(self, peer_id: str, complaint: str) -> None:
        if complaint and complaint != self._complaints.get(peer_id):
            _log.warning("%s lists a node that cannot be one: %s", peer_id, complaint)
        self._complaints[peer_id] = complaint


def _essence(node: NodeInfo) -> NodeInfo:
    """Leaves out what a peer of the seed protocol does not pass on."""
    return NodeInfo(node.id, node.name, node.type, node.address, node.services)


def _without_times(node: NodeInfo) -> NodeInfo:
    """Leaves out what a peer may touch at every answer though nothing changed."""
    return replace(node, joined_at=None, updated_at=None, vouched_by=None)
