"""The serving end of a feed, without I/O: what a server tells a watcher.

Every accepted change has a position in the log of the process that serves the feed. A cursor is
that log's id and a position in it, so a watcher that comes back is told only what it missed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator

from aegis_discovery._model import NodeInfo, ServiceInfo
from aegis_discovery._topology.changes import Changes
from aegis_discovery._topology.topology import Topology
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records._codec import signed_to_wire, status_to_wire, verdict_to_wire
from aegis_discovery.records._record import Record
from aegis_discovery.records._verdict import SignedVerdict

CHUNK = 64 * 1024
"""Bytes after which a message is sent: more would only be memory held at both ends."""

MIN_CHAINS_SENT = 64
"""Chains that may be remembered as sent on top of twice those that are needed."""

_CURSOR = struct.Struct(">8sQ")

ChainOf = Callable[[bytes], tuple[bytes, ...] | None]


class FeedWriter:
    """Tells one watcher what it lacks; keeps no queue, so that a slow one costs no memory.

    Args:
        topology: What to tell of.
        chain_of: Finds the certificate chain (DER) of a signer's fingerprint.
        watcher: The caller's node id; its own news are not sent back to it.
        request: What it asked for.
    """

    def __init__(
        self,
        topology: Topology,
        chain_of: ChainOf,
        *,
        watcher: str,
        request: mesh_pb2.WatchRequest,
    ) -> None:
        self._topology = topology
        self._chain_of = chain_of
        self._watcher = watcher
        self._is_node = request.HasField("record")
        self._services = frozenset(ServiceInfo(s.name, s.version) for s in request.services)
        self._chains_sent: set[bytes] = set()
        self._max_chains_sent = MIN_CHAINS_SENT
        self._told: set[str] = set()
        self._complete_sent = False
        self._version_sent = -1
        position = None if self._services else self._position_of(request.cursor)
        # One that comes from elsewhere believes what another server said of who is alive, so it
        # is told everybody's status even where it holds all records.
        self._is_new = position is None
        self._position = position or 0
        self._held = self._held_by(request.digest) if position is None else position

    def messages(self) -> Iterator[mesh_pb2.WatchResponse]:
        """Yields what is to be sent now; nothing, where the watcher is up to date."""
        changes = self._topology.changes_since(self._position)
        if (
            self._complete_sent
            and changes.position == self._position
            and changes.version == self._version_sent
        ):
            return
        yield from self._chunks(changes)

    def heartbeat(self) -> mesh_pb2.WatchResponse:
        """Makes the message of an idle moment."""
        message = mesh_pb2.WatchResponse(version=self._topology.version)
        if not self._services:
            message.digest = self._topology.digest
        return message

    def _position_of(self, cursor: bytes) -> int | None:
        """Reads a cursor of this topology's own log; any other one is unknown."""
        if len(cursor) == _CURSOR.size:
            log_id, position = _CURSOR.unpack(cursor)
            if log_id == self._topology.log_id:
                return int(position)
        return None

    def _held_by(self, digest: bytes) -> int:
        """Tells up to which position a watcher with this digest holds all records."""
        if self._services or digest != self._topology.full_digest:
            return 0
        return self._topology.log_position

    def _chunks(self, changes: Changes) -> Iterator[mesh_pb2.WatchResponse]:
        message = mesh_pb2.WatchResponse()
        size = 0
        is_silent = bool(self._services) and self._complete_sent
        for piece in self._news(changes):
            is_silent = False
            size += self._add(message, piece, changes)
            if size >= CHUNK:
                yield message
                message = mesh_pb2.WatchResponse()
                size = 0
        if not self._services:
            message.cursor = _CURSOR.pack(self._topology.log_id, changes.position)
            message.digest = changes.digest
        message.version = changes.version
        message.complete = not self._complete_sent
        self._position = changes.position
        self._version_sent = changes.version
        self._complete_sent = True
        self._is_new = False
        if len(self._chains_sent) > self._max_chains_sent:
            # Of certificates that sign nothing any more, and each look at all costs its time.
            self._chains_sent &= self._topology.signers
            self._max_chains_sent = 2 * len(self._chains_sent) + MIN_CHAINS_SENT
        if not is_silent:
            yield message

    def _news(self, changes: Changes) -> Iterator[Record | SignedVerdict | mesh_pb2.DerivedStatus]:
        # A watcher that starts from nothing is told everything, its own record included: that is
        # how a restarted node finds out how far its stamps had come.
        # So is a client, even one that calls itself as a node does.
        reader = self._watcher if self._is_node and not self._is_new else None
        for record in changes.records(reader=reader, held=self._held):
            if self._is_asked_for(record):
                yield record
        if self._is_node:
            yield from changes.verdicts(reader=reader)
        else:
            # One that came to provide what was asked for may have been suspected before.
            unchanged = self._is_new or bool(self._services)
            for node_id, stamp, status in changes.statuses(unchanged=unchanged):
                if not self._services or node_id in self._told:
                    yield status_to_wire(node_id, stamp, status)

    def _is_asked_for(self, record: Record) -> bool:
        """Tells whether the watcher asked for this node, or is to hear how one of these ends."""
        if not self._services:
            return True
        if provides_any(record.info, self._services):
            self._told.add(record.id)
            return True
        was_told = record.id in self._told
        self._told.discard(record.id)
        return was_told

    def _add(
        self,
        message: mesh_pb2.WatchResponse,
        piece: Record | SignedVerdict | mesh_pb2.DerivedStatus,
        changes: Changes,
    ) -> int:
        """Puts one piece of news into a message; returns by how many bytes at most it grew."""
        if isinstance(piece, mesh_pb2.DerivedStatus):
            message.statuses.append(piece)
            return len(piece.id) + 24
        if isinstance(piece, SignedVerdict):
            signed = piece.signed
            message.verdicts.append(verdict_to_wire(signed))
            size = len(signed.body) + len(signed.signature) + 64
            return size + self._add_chain(message, piece.verdict.accuser, signed.signer, changes)
        message.records.append(signed_to_wire(piece))
        size = len(piece.body) + len(piece.signature) + 64
        return size + self._add_chain(message, piece.voucher or piece.id, piece.signer, changes)

    def _add_chain(
        self, message: mesh_pb2.WatchResponse, node_id: str, signer: bytes, changes: Changes
    ) -> int:
        """Adds the chain of a certificate that the watcher cannot have; returns its bytes."""
        if signer in self._chains_sent:
            return 0
        self._chains_sent.add(signer)
        since = changes.signed_since(node_id, signer)
        if since is not None and since <= self._held:
            return 0
        certificates = self._chain_of(signer)
        if certificates is None:
            return 0
        message.chains.append(mesh_pb2.Chain(certificates=certificates))
        return sum(map(len, certificates))


def provides_any(node: NodeInfo | None, services: Collection[ServiceInfo]) -> bool:
    """Tells whether a node provides one of these; no version means any. One that left does not."""
    return node is not None and any(
        service in services or ServiceInfo(service.name, "") in services
        for service in node.services
    )
