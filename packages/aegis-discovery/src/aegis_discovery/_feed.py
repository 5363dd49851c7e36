"""Both ends of a feed, without I/O: what a server tells a watcher, and what that one makes of it.

Every accepted change has a position in the log of the process that serves the feed. A cursor is
that log's id and a position in it, so a watcher that comes back is told only what it missed.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from aegis_discovery._changes import Changes
from aegis_discovery._codec import (
    signed_from_wire,
    signed_to_wire,
    status_from_wire,
    status_to_wire,
    verdict_to_wire,
)
from aegis_discovery._model import NodeInfo, ServiceInfo
from aegis_discovery._record import Record
from aegis_discovery._topology import Topology
from aegis_discovery._verdict import SignedVerdict
from aegis_discovery._verifier import RecordVerifier
from aegis_discovery.errors import InvalidRecordError, InvalidVerdictError
from aegis_discovery.proto import mesh_pb2

_log = logging.getLogger("aegis.feed")

HEARTBEAT = 1.0
"""Seconds between two messages of an idle feed."""

BATCH = 0.005
"""Seconds that a server waits for more changes before it sends the first."""

CHUNK = 256 * 1024
"""Bytes after which a message is sent; far below gRPC's limit of 4 MiB, so loops stay lively."""

APART_AFTER = 3
"""Heartbeats in a row with another digest, at first, after which a feed is opened anew."""

MAX_PATIENCE = 300
"""Heartbeats at most, where opening it anew did not help."""

MAX_VOUCHED = 256
"""Nodes that one node may vouch for; else one of them could fill the mesh with invented ones."""

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
        return self._topology.position

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
        if not is_silent:
            yield message

    def _news(self, changes: Changes) -> Iterator[Record | SignedVerdict | mesh_pb2.DerivedStatus]:
        # A watcher that starts from nothing is told everything, its own record included: that is
        # how a restarted node finds out how far its stamps had come.
        reader = None if self._is_new else self._watcher
        for record in changes.records(reader=reader, held=self._held):
            if self._is_asked_for(record):
                yield record
        if self._is_node:
            yield from changes.verdicts(reader=reader)
        else:
            for node_id, stamp, status in changes.statuses(unchanged=self._is_new):
                if not self._services or node_id in self._told:
                    yield status_to_wire(node_id, stamp, status)

    def _is_asked_for(self, record: Record) -> bool:
        """Tells whether the watcher asked for this node; it also hears how one of these ends."""
        if not self._services:
            return True
        if record.info is not None and _provides(record.info, self._services):
            self._told.add(record.id)
            return True
        return record.id in self._told

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
            return size + self._add_chain(message, signed.signer, changes)
        message.records.append(signed_to_wire(piece))
        size = len(piece.body) + len(piece.signature) + 64
        return size + self._add_chain(message, piece.signer, changes)

    def _add_chain(self, message: mesh_pb2.WatchResponse, signer: bytes, changes: Changes) -> int:
        """Adds the chain of a certificate that the watcher cannot have; returns its bytes."""
        if signer in self._chains_sent:
            return 0
        self._chains_sent.add(signer)
        since = changes.signed_since(signer)
        if since is not None and since <= self._held:
            return 0
        certificates = self._chain_of(signer)
        if certificates is None:
            return 0
        message.chains.append(mesh_pb2.Chain(certificates=certificates))
        return sum(map(len, certificates))


def _provides(node: NodeInfo, services: frozenset[ServiceInfo]) -> bool:
    return any(
        service in services or ServiceInfo(service.name, "") in services
        for service in node.services
    )


@dataclass(frozen=True, slots=True)
class Received:
    """What came of one message.

    Attributes:
        complete: The watcher now holds all that the server held when the feed began.
        foreign: A newer record of the watcher's own id, by another process.
        apart: Both sides have been at rest for a while, and know different things all the same:
            the feed must be opened anew, for a snapshot.
    """

    complete: bool
    foreign: Record | None = None
    apart: bool = False


class FeedReader:
    """Takes in what one server tells, and remembers how far that was.

    Args:
        topology: Where it goes.
        verifier: Says what may be believed.
        trusts_statuses: Whether the server's view of who is alive is taken over; clients do,
            nodes judge for themselves.
        services: Only the providers of these, of any version where none is named; all nodes where
            it is empty. For clients.
    """

    def __init__(
        self,
        topology: Topology,
        verifier: RecordVerifier,
        *,
        trusts_statuses: bool,
        services: Collection[ServiceInfo] = (),
    ) -> None:
        self._topology = topology
        self._verifier = verifier
        self._trusts_statuses = trusts_statuses
        self._services = tuple(services)
        self._told: set[str] = set()
        self._cursor = b""
        self._beats_apart = 0
        self._patience = APART_AFTER

    def request(
        self, mesh: str, own: Record | None = None, chain: tuple[bytes, ...] = ()
    ) -> mesh_pb2.WatchRequest:
        """Makes the request that opens the feed, or takes it up again.

        Args:
            mesh: The mesh's name.
            own: A node's own record; clients have none.
            chain: Of the certificate that signed it (DER, leaf first).
        """
        if self._services:
            self._told.clear()
            services = [mesh_pb2.Service(name=s.name, version=s.version) for s in self._services]
            return mesh_pb2.WatchRequest(mesh=mesh, services=services)
        return mesh_pb2.WatchRequest(
            mesh=mesh,
            cursor=self._cursor,
            digest=self._topology.full_digest,
            record=None if own is None else signed_to_wire(own),
            chain=mesh_pb2.Chain(certificates=chain) if chain else None,
        )

    def receive(self, message: mesh_pb2.WatchResponse, *, source: str) -> Received:
        """Takes in one message of the node `source`; what cannot be believed is logged and left."""
        for chain in message.chains:
            try:
                self._verifier.learn(tuple(chain.certificates))
            except InvalidRecordError as error:
                _log.warning("from %s: %s", source, error)
        records: list[Record] = []
        for signed in message.records:
            try:
                record = self._verifier.verify(
                    signed_from_wire(signed), held=self._topology.get_record
                )
            except InvalidRecordError as error:
                _log.warning("from %s: %s", source, error)
            else:
                if self._may_vouch(record, records):
                    records.append(record)
                else:
                    _log.warning("from %s: %s vouches for too many", source, record.voucher)
        result = self._topology.merge_records(records, version=message.version, origin=source)
        self._take_verdicts(message, source)
        if self._trusts_statuses:
            for wire in message.statuses:
                status = status_from_wire(wire)
                if status is not None:
                    self._topology.set_status(wire.id, wire.stamp, status)
        if self._services:
            self._told.update(record.id for record in records)
            if message.complete:
                self._topology.keep_only(self._told)
        if message.cursor:
            self._cursor = message.cursor
        return Received(message.complete, result.foreign, self._is_apart(message))

    def _take_verdicts(self, message: mesh_pb2.WatchResponse, source: str) -> None:
        verdicts: list[SignedVerdict] = []
        for signed in message.verdicts:
            try:
                verdicts.append(
                    self._verifier.verify_verdict(
                        signed_from_wire(signed), held=self._topology.get_verdict
                    )
                )
            except InvalidVerdictError as error:
                _log.warning("from %s: %s", source, error)
        if verdicts:
            self._topology.merge_verdicts(verdicts, origin=source)

    def _may_vouch(self, record: Record, batch: list[Record]) -> bool:
        if record.voucher is None or record.info is None:
            return True
        node = self._topology.get_node(record.id)
        if node is not None and node.vouched_by == record.voucher:
            return True
        coming = sum(other.voucher == record.voucher for other in batch)
        return self._topology.count_vouched(record.voucher) + coming < MAX_VOUCHED

    def _is_apart(self, message: mesh_pb2.WatchResponse) -> bool:
        """Looks, when the server is at rest, whether it knows what we know.

        A record that was refused, or dropped, by a clock that was wrong for a while would else
        never come again. Where they stay apart for a good reason, this is tried ever more rarely.
        """
        if not message.digest:
            # A chunk with more to come, or a feed of some services: neither tells of the whole.
            return False
        if message.cursor or message.digest == self._topology.digest:
            self._beats_apart = 0
            if not message.cursor:
                self._patience = APART_AFTER
            return False
        self._beats_apart += 1
        if self._beats_apart < self._patience:
            return False
        self._beats_apart = 0
        self._patience = min(2 * self._patience, MAX_PATIENCE)
        self._cursor = b""
        return True
