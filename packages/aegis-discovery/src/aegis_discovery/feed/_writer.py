"""The serving end of a feed, without I/O: what a server sends to a watcher.

Every accepted change has a position in the log of the process that serves the feed. A cursor is
that log's id and a position in it, so a watcher that reconnects receives only what it missed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from aegis_discovery._topology.changes import Changes
from aegis_discovery._topology.topology import Topology
from aegis_discovery.documents._codec import document_to_wire
from aegis_discovery.documents._store import DocumentStore
from aegis_discovery.feed._limits import provides_any
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records._codec import signed_to_wire, status_to_wire, verdict_to_wire
from aegis_discovery.records._record import Record
from aegis_discovery.records._verdict import SignedVerdict

CHUNK = 64 * 1024
"""Bytes after which a message is sent: more would only be memory held at both ends."""

CHUNK_ACROSS = 4 * 1024
"""The same for a node in another region.

Only whole messages show a watcher that the line works, and it waits for one for four seconds. So a
line of 1 kB/s is fast enough. A join takes a third more CPU.
"""

MIN_CHAINS_SENT = 64
"""Chains that may be remembered as sent, in addition to twice those that are needed."""

_CURSOR = struct.Struct(">8sQ")

ChainOf = Callable[[bytes], tuple[bytes, ...] | None]


class FeedWriter:
    """Sends one watcher what it lacks; has no queue, so that a slow watcher costs no memory.

    Args:
        topology: The topology to send.
        chain_of: Returns the certificate chain (DER) of a signer's fingerprint.
        watcher: The caller's node id; its own changes are not sent back to it.
        request: The request that opened the feed.
        documents: The documents to send, before everything else.

    Attributes:
        watcher: The id of the node, or of the client.
        heartbeat_phase: When the watcher wants heartbeats; None if it did not say.
        region: The only region whose records and verdicts are sent; None for all.
    """

    def __init__(
        self,
        topology: Topology,
        chain_of: ChainOf,
        *,
        watcher: str,
        request: mesh_pb2.WatchRequest,
        documents: DocumentStore | None = None,
    ) -> None:
        self._topology = topology
        self._documents = documents
        self._documents_position = 0
        if documents is not None and documents.digest == request.documents:
            self._documents_position = documents.position
        self._chain_of = chain_of
        self.watcher = watcher
        asks = request.HasField("heartbeat_phase")
        self.heartbeat_phase = request.heartbeat_phase if asks else None
        self.region = request.region if request.HasField("region") else None
        self._is_node = request.HasField("record")
        self._services = frozenset((s.name, s.version) for s in request.services)
        self._chains_sent: set[bytes] = set()
        self._max_chains_sent = MIN_CHAINS_SENT
        self._ids_sent: set[str] = set()
        self._complete_sent = False
        self._version_sent = -1
        position = None if self._services else self._position_of(request.cursor)
        # A watcher that used another server before has that server's statuses, so it receives the
        # status of every node even if it holds all records.
        self._is_new = position is None
        self._position = position or 0
        self._held = self._held_by(request.digest) if position is None else position

    def messages(self) -> Iterator[mesh_pb2.WatchResponse]:
        """Yields what is to be sent now; nothing if the watcher is up to date."""
        yield from self._changed_documents()
        topology = self._topology
        # Without the lock, as each heartbeat comes here: who changes it, wakes the feed afterwards.
        if (
            self._complete_sent
            and topology.log_position == self._position
            and topology.version == self._version_sent
        ):
            return
        yield from self._chunks(topology.changes_since(self._position, region=self.region))

    def heartbeat(self) -> mesh_pb2.WatchResponse:
        """Returns the message of an idle feed."""
        message = mesh_pb2.WatchResponse(version=self._topology.version)
        if not self._services:
            message.digest = (
                self._topology.digest
                if self.region is None
                else self._topology.region_digest(self.region)
            )
        watcher = None if self.region is None else self._topology.get_node(self.watcher)
        if watcher is not None:
            message.home_digest = self._topology.region_digest(watcher.region)
            message.regions_digest = self._topology.regions_digest
        return message

    def _position_of(self, cursor: bytes) -> int | None:
        """Returns the position in a cursor of this topology's own log; None for any other."""
        if len(cursor) == _CURSOR.size:
            log_id, position = _CURSOR.unpack(cursor)
            if log_id == self._topology.log_id:
                return int(position)
        return None

    def _held_by(self, digest: bytes) -> int:
        """Returns the position up to which a watcher with this digest holds all records."""
        topology = self._topology
        # Without a tombstone of the region, a watcher without the record lacks nothing.
        held = topology.full_digest if self.region is None else topology.region_digest(self.region)
        return 0 if self._services or digest != held else topology.log_position

    def _changed_documents(self) -> Iterator[mesh_pb2.WatchResponse]:
        """Yields messages of documents: before records, so that a complete feed has them too."""
        documents = self._documents
        if documents is None or documents.position == self._documents_position:
            return
        message, size, chunk = mesh_pb2.WatchResponse(), 0, self._chunk()
        # Read before the documents: one that is put meanwhile goes with the next messages.
        self._documents_position, since = documents.position, self._documents_position
        reader = self.watcher if self._is_node else None
        for document in documents.changed_since(since, reader=reader):
            message.documents.append(document_to_wire(document.signed))
            size += len(document.signed.body)
            if size >= chunk:
                yield message
                message, size = mesh_pb2.WatchResponse(), 0
        if message.documents:
            yield message

    def _chunks(self, changes: Changes) -> Iterator[mesh_pb2.WatchResponse]:
        message, size, chunk = mesh_pb2.WatchResponse(), 0, self._chunk()
        is_limited = bool(self._services) or self.region is not None
        is_empty = is_limited and self._complete_sent
        for item in self._items(changes):
            is_empty = False
            size += self._add(message, item, changes)
            if size >= chunk:
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
            # Forgets certificates that sign nothing any more. The set of signers is expensive, so
            # this waits until the set has doubled.
            self._chains_sent &= self._topology.signers
            self._max_chains_sent = 2 * len(self._chains_sent) + MIN_CHAINS_SENT
        if not is_empty:
            yield message

    def _chunk(self) -> int:
        """Returns the bytes after which a message is sent."""
        own = self._topology.get_node(self._topology.owner or "")
        watcher = self._topology.get_node(self.watcher) if self._is_node else None
        is_across = own is not None and watcher is not None and own.region != watcher.region
        return CHUNK_ACROSS if is_across else CHUNK

    def _items(self, changes: Changes) -> Iterator[Record | SignedVerdict | mesh_pb2.DerivedStatus]:
        # A watcher without a position receives everything, its own record included: so a restarted
        # node learns how far its stamps had advanced. A client receives everything too, even if it
        # has the id of a node.
        reader = self.watcher if self._is_node and not self._is_new else None
        for record in changes.records(reader=reader, held=self._held):
            if self._is_requested(record):
                yield record
        if self._is_node:
            yield from changes.verdicts(reader=reader)
        else:
            # A node that starts to provide a requested service may have been suspected before.
            unchanged = self._is_new or bool(self._services)
            for node_id, stamp, status in changes.statuses(unchanged=unchanged):
                if not self._services or node_id in self._ids_sent:
                    yield status_to_wire(node_id, stamp, status)

    def _is_requested(self, record: Record) -> bool:
        """Tells whether a node provides a requested service, or has just stopped to."""
        if not self._services:
            return True
        if provides_any(record.info, self._services):
            self._ids_sent.add(record.id)
            return True
        was_sent = record.id in self._ids_sent
        self._ids_sent.discard(record.id)
        return was_sent

    def _add(
        self,
        message: mesh_pb2.WatchResponse,
        item: Record | SignedVerdict | mesh_pb2.DerivedStatus,
        changes: Changes,
    ) -> int:
        """Adds an item to a message; returns the most bytes by which the message grew."""
        if isinstance(item, mesh_pb2.DerivedStatus):
            message.statuses.append(item)
            return len(item.id) + 24
        if isinstance(item, SignedVerdict):
            signed = item.signed
            message.verdicts.append(verdict_to_wire(signed))
            size = len(signed.body) + len(signed.signature) + 64
            return size + self._add_chain(message, item.verdict.accuser, signed.signer, changes)
        message.records.append(signed_to_wire(item))
        size = len(item.body) + len(item.signature) + 64
        return size + self._add_chain(message, item.voucher or item.id, item.signer, changes)

    def _add_chain(
        self, message: mesh_pb2.WatchResponse, node_id: str, signer: bytes, changes: Changes
    ) -> int:
        """Adds the chain of a certificate that the watcher cannot have; returns its bytes."""
        if signer in self._chains_sent:
            return 0
        since = changes.signed_since(node_id, signer)
        if since is not None and since <= self._held:
            self._chains_sent.add(signer)
            return 0
        certificates = self._chain_of(signer)
        if certificates is None:
            return 0  # it may be known a moment later: another thread changes the trust bundle
        self._chains_sent.add(signer)
        message.chains.append(mesh_pb2.Chain(certificates=certificates))
        return sum(map(len, certificates))
