"""What peers that sign nothing told this node, and what it therefore publishes for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from aegis_certs import CertsError, validate_node_id
from aegis_discovery import InvalidAddressError, InvalidRecordError, NodeInfo, Topology
from aegis_discovery.logs import LogLimiter
from aegis_discovery.records import LEASE, REPUBLISH_EVERY
from aegis_discovery.transport import split_address

from aegis_core._rate_limit import TokenBucket

_log = logging.getLogger("aegis.peers")

MAX_BROUGHT = 64
"""Nodes vouched for on the word of one other peer, until they answer themselves.

It is a quarter of what a node may vouch for, so that no one peer takes all of it.
"""

NEW_EVERY = 180.0
"""Seconds for each further node that one peer may bring, beyond the first `MAX_BROUGHT`.

What it brings and drops again is remembered for a day, and is a quarter of what may be, too.
"""


@dataclass(slots=True)
class _Teller:
    """A peer that signs nothing.

    Attributes:
        new: How many nodes more it may bring.
        told: What it told last, by id.
        answers: Whether it does.
        brought: Ids that this node vouches for because this peer told of them first.
    """

    new: TokenBucket
    told: Mapping[str, NodeInfo] = field(default_factory=dict)
    answers: bool = True
    brought: set[str] = field(default_factory=set)


class Vouching:
    """Publishes the nodes that peers without signatures tell of, as records vouched for.

    A peer's answer can add, change and remove only what such peers told of before: it never
    touches a record that its owner signed, nor removes what another node vouches for. Where peers
    tell different things of a node, all who listen to them settle on the same one. Each of them
    brings only so many nodes; a peer that answers itself is charged to nobody.
    """

    def __init__(self, topology: Topology, clock: Callable[[], float] = time.time) -> None:
        self._topology = topology
        self._clock = clock
        self._tellers: dict[str, _Teller] = {}
        self._settled: dict[str, NodeInfo] = {}
        self._complaints = LogLimiter(_log, clock=clock)

    def learn(self, peer_id: str, nodes: Iterable[NodeInfo]) -> None:
        """Takes in a peer's whole answer; the peer itself must be among the nodes."""
        teller = self._tellers.get(peer_id)
        if teller is None:
            new = TokenBucket(MAX_BROUGHT, 1 / NEW_EVERY, self._clock())
            teller = self._tellers[peer_id] = _Teller(new)
        before, teller.told = teller.told, self._credible(peer_id, nodes)
        teller.answers = True
        teller.brought = {i for i in teller.brought if i in teller.told and self._vouches_for(i)}
        for other in self._tellers.values():
            other.brought.discard(peer_id)
        self._settle(before.keys() | teller.told.keys(), peer_id)

    def lost(self, peer_id: str) -> None:
        """Notes that a peer does not answer; what it told counts less than what others tell."""
        teller = self._tellers.get(peer_id)
        if teller is not None and teller.answers:
            teller.answers = False
            self._settle(teller.told, peer_id)

    def forget(self, peer_id: str) -> None:
        """Withdraws what only this peer told of."""
        teller = self._tellers.pop(peer_id, None)
        if teller is not None:
            self._settle(teller.told, peer_id)

    def is_behind(self, peer_id: str) -> bool:
        """Tells whether a peer's last answer was without something that the topology has."""
        teller = self._tellers.get(peer_id)
        if teller is None:
            return False
        told = teller.told
        nodes = self._topology.nodes
        return any(
            node_id not in told or _essence(told[node_id]) != _essence(node)
            for node_id, node in nodes.items()
        )

    def _credible(self, peer_id: str, nodes: Iterable[NodeInfo]) -> dict[str, NodeInfo]:
        """Leaves out what cannot be a node, and of unknown ones all that are too many at once."""
        told: dict[str, NodeInfo] = {}
        unknown = 0
        for node in nodes:
            record = self._topology.get_record(node.id)
            is_known = record is not None and (record.info is not None or record.voucher is None)
            is_new = not is_known and node.id != peer_id and node.id not in told
            if is_new and unknown >= MAX_BROUGHT:
                unknown += 1
                continue
            try:
                split_address(node.address)
                validate_node_id(node.id)
            except (CertsError, InvalidAddressError) as error:
                line = "%s lists a node that cannot be one: %s"
                self._complaints.warn(peer_id, "impossible", line, peer_id, error)
                continue
            unknown += is_new
            told[node.id] = node
        if unknown > MAX_BROUGHT:
            self._complain_of_new(peer_id)
        return told

    def _settle(self, node_ids: Iterable[str], peer_id: str) -> None:
        """Publishes or removes what a peer's word may have changed."""
        open_ids = [node_id for node_id in sorted(node_ids) if not self._is_signed(node_id)]
        believed = [(node_id, self._believed(node_id)) for node_id in open_ids]
        # Removals first: they make room.
        for node_id, node in believed:
            if node is None:
                self._settled.pop(node_id, None)
                self._topology.unvouch(node_id)
        for node_id, node in believed:
            if node is None:
                continue
            settled = self._settled.get(node_id)
            is_news = settled is None or _without_times(settled) != _without_times(node)
            if not self._is_due(node, is_news=is_news) or self._publish(node, peer_id):
                self._settled[node_id] = node

    def _believed(self, node_id: str) -> NodeInfo | None:
        """Chooses among what is told of a node: best by a peer that answers, best by itself."""
        tellers = [peer_id for peer_id, teller in self._tellers.items() if node_id in teller.told]
        if not tellers:
            return None
        best = min(tellers, key=lambda p: (not self._tellers[p].answers, p != node_id, p))
        return self._tellers[best].told[node_id]

    def _is_due(self, node: NodeInfo, *, is_news: bool) -> bool:
        record = self._topology.get_record(node.id)
        if record is None or record.info is None:
            return True
        lease_left = record.expires_at / 1000 - self._clock()
        if lease_left < LEASE - REPUBLISH_EVERY:
            return True
        if _without_times(record.info) == _without_times(node):
            return False
        # Two vouchers who hear different things would else overwrite each other for ever.
        return is_news or record.voucher == self._topology.owner

    def _publish(self, node: NodeInfo, peer_id: str) -> bool:
        """Vouches for a node, at the charge of the peer that told; returns whether it could."""
        teller = self._tellers.get(peer_id)
        is_brought = node.id != peer_id and not self._vouches_for(node.id)
        if is_brought:
            if teller is None:
                return False
            if len(teller.brought) >= MAX_BROUGHT or teller.new.wait(self._clock()) > 0:
                self._complain_of_new(peer_id)
                return False
        try:
            self._topology.vouch(node)
        except InvalidRecordError as error:
            line = "%s cannot be vouched for: %s (told by %s)"
            self._complaints.warn(peer_id, error.reason, line, node.id, error.reason, peer_id)
            return False
        if is_brought and teller is not None:
            teller.new.take(self._clock())
            teller.brought.add(node.id)
        return True

    def _complain_of_new(self, peer_id: str) -> None:
        line = "%s tells of more new nodes than the %d at once that one peer may; some are left out"
        self._complaints.warn(peer_id, "too many new nodes", line, peer_id, MAX_BROUGHT)

    def _is_signed(self, node_id: str) -> bool:
        record = self._topology.get_record(node_id)
        return record is not None and record.voucher is None

    def _vouches_for(self, node_id: str) -> bool:
        node = self._topology.get_node(node_id)
        return node is not None and node.vouched_by == self._topology.owner


def _essence(node: NodeInfo) -> NodeInfo:
    """Leaves out what a peer of the seed protocol does not pass on."""
    return NodeInfo(node.id, node.name, node.type, node.address, node.services)


def _without_times(node: NodeInfo) -> NodeInfo:
    """Leaves out what a peer may touch at every answer though nothing changed."""
    return replace(node, joined_at=None, updated_at=None, vouched_by=None)
