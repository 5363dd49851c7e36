"""What peers without signatures list, and the vouched records published for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from aegis_certs import CertsError, validate_node_id
from aegis_discovery import InvalidAddressError, InvalidRecordError, NodeInfo, Topology
from aegis_discovery.records import LEASE, REPUBLISH_EVERY
from aegis_discovery.signals import LogLimiter
from aegis_discovery.transport import split_address

from aegis_core._rate_limit import TokenBucket
from aegis_core._unsigned_peers.codec import is_listed
from aegis_core._unsigned_peers.folding import fold_workers

_log = logging.getLogger("aegis.peers")

MAX_INTRODUCED = 64
"""Nodes that one other peer may introduce, which are vouched for until they answer themselves.

It is a quarter of what a node may vouch for, so that no single peer uses all of it.
"""

INTRODUCE_EVERY = 180.0
"""Seconds for each further node that one peer may introduce, beyond the first `MAX_INTRODUCED`.

Tombstones of nodes that it introduced and dropped last a day, and are then a quarter of all too.
"""


class _UnsignedPeer:
    """A peer that signs nothing.

    Attributes:
        tokens: For the nodes that it may still introduce.
        listed: The nodes of its last answer, by id.
        answers: Whether it answered the last poll.
        introduced: Ids that this node vouches for because this peer listed them first.
    """

    __slots__ = ("answers", "introduced", "listed", "tokens")

    def __init__(self, tokens: TokenBucket) -> None:
        self.tokens = tokens
        self.listed: Mapping[str, NodeInfo] = {}
        self.answers = True
        self.introduced: set[str] = set()


class Vouching:
    """Publishes the nodes that unsigned peers list, as vouched records.

    A peer's answer can add, change and remove only nodes that such peers listed: it never changes
    a signed record, nor removes a node that another node vouches for. If peers list a node in
    different ways, all nodes that poll them choose the same one. Each peer may introduce a limited
    number of nodes; a peer that answers itself counts for no other peer.
    """

    def __init__(self, topology: Topology, clock: Callable[[], float] = time.time) -> None:
        self._topology = topology
        self._clock = clock
        self._peers: dict[str, _UnsignedPeer] = {}
        self._published: dict[str, NodeInfo] = {}
        self._log_limiter = LogLimiter(_log, clock=clock)

    def update(self, peer_id: str, nodes: Iterable[NodeInfo]) -> None:
        """Replaces what a peer lists; the peer itself must be among the nodes."""
        peer = self._peers.get(peer_id)
        if peer is None:
            tokens = TokenBucket(MAX_INTRODUCED, 1 / INTRODUCE_EVERY, self._clock())
            peer = self._peers[peer_id] = _UnsignedPeer(tokens)
        before, peer.listed = peer.listed, self._validated(peer_id, nodes)
        peer.answers = True
        peer.introduced = {i for i in peer.introduced if i in peer.listed and self._vouches_for(i)}
        for other in self._peers.values():
            other.introduced.discard(peer_id)
        self._update_records(before.keys() | peer.listed.keys(), peer_id)

    def mark_unanswered(self, peer_id: str) -> None:
        """Notes that a peer does not answer; the lists of others take precedence."""
        peer = self._peers.get(peer_id)
        if peer is not None and peer.answers:
            peer.answers = False
            self._update_records(peer.listed, peer_id)

    def forget(self, peer_id: str) -> None:
        """Forgets a peer, and removes the nodes that no other peer lists."""
        peer = self._peers.pop(peer_id, None)
        if peer is not None:
            self._update_records(peer.listed, peer_id)

    def is_behind(self, peer_id: str) -> bool:
        """Tells whether a peer's last answer lacked part of the topology, or had failed nodes."""
        peer = self._peers.get(peer_id)
        if peer is None:
            return False
        return any(
            _transmitted(peer.listed.get(node_id)) != _transmitted(node)
            if is_listed(node, peer_id)
            else node_id in peer.listed
            for node_id, node in fold_workers(self._topology.nodes).items()
        )

    def _validated(self, peer_id: str, nodes: Iterable[NodeInfo]) -> dict[str, NodeInfo]:
        """Omits invalid nodes, and unknown nodes above the limit."""
        listed: dict[str, NodeInfo] = {}
        unknown = 0
        for node in nodes:
            record = self._topology.get_record(node.id)
            is_known = record is not None and (record.info is not None or record.voucher is None)
            is_known |= self._topology.is_signed(node.id)
            is_new = not is_known and node.id != peer_id and node.id not in listed
            if is_new and unknown >= MAX_INTRODUCED:
                unknown += 1
                continue
            try:
                split_address(node.address)
                validate_node_id(node.id)
            except (CertsError, InvalidAddressError) as error:
                line = "%s lists an invalid node: %s"
                self._log_limiter.warn(peer_id, "invalid", line, peer_id, error)
                continue
            unknown += is_new
            listed[node.id] = node
        if unknown > MAX_INTRODUCED:
            self._warn_of_limit(peer_id)
        return listed

    def _update_records(self, node_ids: Iterable[str], peer_id: str) -> None:
        """Publishes or removes the nodes that a change of a peer may affect."""
        preferred = [(node_id, self._preferred(node_id)) for node_id in sorted(node_ids)]
        # Removals first, so that they make room for others.
        for node_id, node in preferred:
            if node is None:
                self._published.pop(node_id, None)
                if self._vouches_for(node_id):
                    self._topology.unvouch(node_id)
        for node_id, node in preferred:
            if node is None:
                continue
            published = self._published.get(node_id)
            is_changed = published is None or _without_times(published) != _without_times(node)
            if not self._is_due(node, is_changed=is_changed) or self._publish(node, peer_id):
                self._published[node_id] = node

    def _preferred(self, node_id: str) -> NodeInfo | None:
        """Returns the entry of a peer that answers, if possible that of the node itself.

        It is None for a node that signs its records itself. Such peers list the workers of an
        identity as one node.
        """
        if self._topology.is_signed(node_id):
            return None
        listing = [peer_id for peer_id, peer in self._peers.items() if node_id in peer.listed]
        if not listing:
            return None
        best = min(listing, key=lambda p: (not self._peers[p].answers, p != node_id, p))
        node = self._peers[best].listed[node_id]
        if best == node_id:
            return node
        # A list has no health: only the node itself tells it, to whichever node polls it.
        known = self._topology.get_node(node_id)
        return node if known is None else replace(node, health=known.health)

    def _is_due(self, node: NodeInfo, *, is_changed: bool) -> bool:
        record = self._topology.get_record(node.id)
        if record is None or record.info is None:
            return True
        lease_left = record.expires_at / 1000 - self._clock()
        if lease_left < LEASE - REPUBLISH_EVERY:
            return True
        if _without_times(record.info) == _without_times(node):
            return False
        # Otherwise two vouchers with different lists would overwrite each other for ever.
        return is_changed or record.voucher == self._topology.owner

    def _publish(self, node: NodeInfo, peer_id: str) -> bool:
        """Vouches for a node that a peer lists; returns whether the limits allow it."""
        peer = self._peers.get(peer_id)
        is_introduced = node.id != peer_id and not self._vouches_for(node.id)
        if is_introduced:
            if peer is None:
                return False
            if len(peer.introduced) >= MAX_INTRODUCED or peer.tokens.wait(self._clock()) > 0:
                self._warn_of_limit(peer_id)
                return False
        try:
            self._topology.vouch(self._placed(node))
        except InvalidRecordError as error:
            line = "%s cannot be vouched for: %s (listed by %s)"
            self._log_limiter.warn(peer_id, error.reason, line, node.id, error.reason, peer_id)
            return False
        if is_introduced and peer is not None:
            peer.tokens.take(self._clock())
            peer.introduced.add(node.id)
        return True

    def _placed(self, node: NodeInfo) -> NodeInfo:
        """Places a node in the region of this one, which polls it, if that has a boundary."""
        own = self._topology.get_node(self._topology.owner or "")
        if own is None or not own.boundary:
            return node
        return replace(node, region=own.region, boundary=own.boundary)

    def _warn_of_limit(self, peer_id: str) -> None:
        line = "%s lists more new nodes than the %d that one peer may introduce; some are omitted"
        self._log_limiter.warn(peer_id, "too many new nodes", line, peer_id, MAX_INTRODUCED)

    def _vouches_for(self, node_id: str) -> bool:
        node = self._topology.get_node(node_id)
        return node is not None and node.vouched_by == self._topology.owner


def _transmitted(node: NodeInfo | None) -> NodeInfo | None:
    """Omits the fields that the unsigned protocol does not transmit."""
    return node and NodeInfo(node.id, node.name, node.type, node.address, node.services)


def _without_times(node: NodeInfo) -> NodeInfo:
    """Omits the fields that a peer may change in every answer, and those that the voucher adds."""
    return replace(node, joined_at=None, updated_at=None, vouched_by=None, region="", boundary="")
