"""The watching end of a feed, without I/O: how a watcher merges what a server sends."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

from aegis_discovery._model import ServiceInfo
from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery._topology.topology import Topology
from aegis_discovery.documents._store import DocumentStore
from aegis_discovery.errors import InvalidDocumentError, InvalidVerdictError
from aegis_discovery.feed._divergence import Divergence
from aegis_discovery.feed._limits import MAX_CURSOR, MAX_ITEMS, MAX_STATUSES, provides_any
from aegis_discovery.feed._parts import Message, count_items, is_heartbeat, is_oversized
from aegis_discovery.feed._refused import RefusedDocuments
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records._codec import signed_from_wire, signed_to_wire, status_from_wire
from aegis_discovery.records._protocol import Verifier
from aegis_discovery.records._record import Record
from aegis_discovery.records._verdict import SignedVerdict

_log = logging.getLogger("aegis.feed")

MAX_STAMPS = 1024
"""Nodes whose latest stamp on a feed a watcher remembers, some 100 KB."""

DOCUMENT_NEWS = 80
"""As how many nodes a new document counts, which may have a megabyte."""


class ReceiveResult(NamedTuple):
    """What one message brought.

    Attributes:
        complete: The watcher now holds everything that the server held when the feed began.
        foreign: A newer record of the watcher's own id that another process wrote.
        diverged: Both sides have been idle for a while and still hold different records: the feed
            must be reopened, for a snapshot.
        lacks_home: The server of another region has held other records of the reader's own region
            for a while. It may know what the last living nodes there wrote to it alone.
        lacks_regions: That server has known other regions than the reader for a while.
        news: How many nodes it brought that this feed had not brought before it was complete, and
            `DOCUMENT_NEWS` for each new document.
    """

    complete: bool
    foreign: Record | None = None
    diverged: bool = False
    lacks_home: bool = False
    lacks_regions: bool = False
    news: int = 0


class FeedReader:
    """Merges what servers send into a topology, and remembers the position in the last feed.

    Args:
        topology: The topology to merge into.
        verifier: Verifies records and verdicts.
        trusts_statuses: Whether to adopt the statuses that the server sends. Clients do; nodes
            derive them.
        services: Limits the feed to the providers of these services, of any version if a service
            has none. Empty for all nodes. For clients.
        region: Limits the feeds to the records and verdicts of this region, that of the servers;
            None for all. For bridges.
        log_limiter: Limits the log lines about refused data; shared by the readers of one process.
        documents: Receives the documents; None passes over them.
    """

    def __init__(
        self,
        topology: Topology,
        verifier: Verifier,
        *,
        trusts_statuses: bool,
        services: Collection[ServiceInfo] = (),
        region: str | None = None,
        log_limiter: LogLimiter | None = None,
        documents: DocumentStore | None = None,
    ) -> None:
        self._topology = topology
        self._documents = documents
        self._refused_documents = RefusedDocuments()
        self._verifier = verifier
        self._trusts_statuses = trusts_statuses
        self._services = tuple(service.key for service in services)
        self._region = region
        self._log_limiter = log_limiter or LogLimiter(_log)
        self._provider_ids: set[str] = set()
        self._stamps: OrderedDict[str, int] = OrderedDict()
        self._is_complete = False
        self._arrived: set[str] = set()
        self._cursor = b""
        self._cursor_source = ""
        self._divergence = Divergence()
        self._home_divergence = Divergence()
        self._regions_divergence = Divergence()

    def request(
        self,
        mesh: str,
        own: Record | None = None,
        chain: tuple[bytes, ...] = (),
        *,
        source: str,
        heartbeat_phase: int | None = None,
    ) -> mesh_pb2.WatchRequest:
        """Makes the request that opens or resumes the feed of the node `source`.

        A node sends its own record and its signer's chain (DER, leaf first). A cursor is sent only
        to the server that gave it: it has no meaning for others, and a liar could have made one for
        which others refuse us. A watcher of several nodes says when it wants heartbeats.
        """
        self._is_complete = False
        self._arrived.clear()
        self._stamps.clear()
        held = b"" if self._documents is None else self._documents.digest
        if self._services:
            self._provider_ids.clear()
            services = [mesh_pb2.Service(name=n, version=v) for n, v in self._services]
            return mesh_pb2.WatchRequest(mesh=mesh, services=services, documents=held)
        return mesh_pb2.WatchRequest(
            mesh=mesh,
            cursor=self._cursor if source == self._cursor_source else b"",
            digest=self._topology.full_digest if self._region is None else self.digest,
            region=self._region,
            record=None if own is None else signed_to_wire(own),
            chain=mesh_pb2.Chain(certificates=chain) if chain else None,
            documents=held,
            heartbeat_phase=heartbeat_phase,
        )

    @property
    def digest(self) -> bytes:
        """The digest of what this end holds of all that the feed brings."""
        if self._region is None:
            return self._topology.digest
        return self._topology.region_digest(self._region)

    def receive(self, message: Message, *, source: str) -> ReceiveResult:
        """Merges one message of the node `source`; logs and ignores what cannot be verified."""
        if is_heartbeat(message):
            return self._receive_heartbeat(message, source)
        if is_oversized(message):
            reason = (
                f"a message of {count_items(message)} records and {len(message.statuses)} statuses "
                f"was ignored; the limits are {MAX_ITEMS} and {MAX_STATUSES}"
            )
            self._warn(source, reason, reason)
            return ReceiveResult(complete=False)
        self._note_source(source)
        news = DOCUMENT_NEWS * self._receive_documents(message, source)
        records = self._verified_records(message, source)
        if not self._is_complete:
            news -= len(self._arrived)
            self._arrived.update([record.id for record in records])
            news += len(self._arrived)
        has_stopped = False
        if self._services:
            records, has_stopped = self._filter_requested(records)
        foreign = self._merge_records(records, message, source)
        self._merge_verdicts(message, source)
        if self._trusts_statuses and message.statuses:
            self._topology.set_statuses(
                [
                    (wire.id, wire.stamp, status)
                    for wire in message.statuses
                    if (status := status_from_wire(wire)) is not None
                ]
            )
        self._is_complete |= message.complete
        if self._is_complete:
            self._arrived.clear()
        if self._services and self._is_complete and (message.complete or has_stopped):
            # Not before: this server may still send the nodes that another server sent.
            self._topology.retain(self._provider_ids)
        if len(message.cursor) > MAX_CURSOR:
            self._cursor = b""
            size = len(message.cursor)
            reason = f"a cursor of {size} bytes was ignored; the limit is {MAX_CURSOR}"
            self._warn(source, reason, reason)
        elif message.cursor:
            self._cursor = message.cursor
        diverged = self._has_diverged(message)
        lacks_home, lacks_regions = self._lacks_home(message), self._lacks_regions(message)
        return ReceiveResult(message.complete, foreign, diverged, lacks_home, lacks_regions, news)

    def _receive_heartbeat(self, message: Message, source: str) -> ReceiveResult:
        """As `receive`: most messages are heartbeats, which have nothing to verify."""
        self._note_source(source)
        foreign = self._merge_records([], message, source)
        lacks_documents = self._refused_documents.is_retry_due()
        diverged = self._has_diverged(message) or lacks_documents
        lacks_home, lacks_regions = self._lacks_home(message), self._lacks_regions(message)
        return ReceiveResult(False, foreign, diverged, lacks_home, lacks_regions)

    def _note_source(self, source: str) -> None:
        if source != self._cursor_source:
            # This server may undo what another one sent, so the other one's cursor is void.
            self._cursor, self._cursor_source = b"", source

    def _merge_records(self, records: list[Record], message: Message, source: str) -> Record | None:
        """Returns a newer record of the watcher's own id, if there is one."""
        version = message.version
        if records or version > self._topology.version:
            return self._topology.merge_records(records, version=version, origin=source).foreign
        # Nothing else checks leases as often, and in a client nothing else does.
        self._topology.expire()
        return None

    def lacks(self, node_ids: Collection[str]) -> bool:
        """Tells whether the record of any of these nodes is missing; never for some services."""
        if self._services:
            return False
        return any(self._topology.get_record(node_id) is None for node_id in node_ids)

    def _receive_documents(self, message: Message, source: str) -> int:
        """Returns how many of the documents are new."""
        count = 0
        if self._documents is None or not message.documents:
            return count
        from aegis_discovery.documents._codec import document_from_wire

        for wire in message.documents:
            try:
                change = self._documents.receive(document_from_wire(wire), origin=source)
                count += change is not None
            except InvalidDocumentError as error:
                self._refused_documents.note(error)
                self._warn(source, "document", error)
        return count

    def _verified_records(self, message: Message, source: str) -> list[Record]:
        chains = [tuple(chain.certificates) for chain in message.chains]
        for refused in self._verifier.add_chains(chains):
            self._warn(source, f"chain: {refused.reason}", refused)
        signed = [signed_from_wire(wire) for wire in message.records]
        records, refused_records = self._verifier.verify_all(signed, self._topology.get_record)
        for refused in refused_records:
            self._warn(source, refused.reason, refused)
        for record in records:
            self._check_order(record, source)
        return records

    def _check_order(self, record: Record, source: str) -> None:
        """Warns of a record that is older than one on the same feed: no honest server sends it.

        A record that is only older than ours is normal: its server may not have the newer one.
        """
        if record.voucher is not None:
            return
        if record.stamp < self._stamps.get(record.id, 0):
            held = self._topology.get_record(record.id)
            # If the newer one expired, or was revoked, the older one is the latest again.
            if held is not None and held.voucher is None and held.stamp > record.stamp:
                reason = f"an older record of {record.id} after a newer one"
                self._warn(source, "an older record", reason)
            return
        self._stamps[record.id] = record.stamp
        self._stamps.move_to_end(record.id)
        if len(self._stamps) > MAX_STAMPS:
            self._stamps.popitem(last=False)

    def _filter_requested(self, records: list[Record]) -> tuple[list[Record], bool]:
        """Returns the records of requested providers, and whether a known one has stopped."""
        requested: list[Record] = []
        has_stopped = False
        for record in records:
            if provides_any(record.info, self._services):
                self._provider_ids.add(record.id)
                requested.append(record)
            elif record.id in self._provider_ids:
                held = self._topology.get_record(record.id)
                if record.info is None:
                    requested.append(record)
                elif held is not None and record.precedence > held.precedence:
                    self._provider_ids.discard(record.id)
                    has_stopped = True
        return requested, has_stopped

    def _merge_verdicts(self, message: Message, source: str) -> None:
        verdicts: list[SignedVerdict] = []
        for signed in message.verdicts:
            try:
                verdicts.append(
                    self._verifier.verify_verdict(
                        signed_from_wire(signed), held=self._topology.get_verdict
                    )
                )
            except InvalidVerdictError as error:
                self._warn(source, error.reason, error)
        if verdicts:
            self._topology.merge_verdicts(verdicts, origin=source)

    def _warn(self, source: str, reason: str, what: object) -> None:
        self._log_limiter.warn(source, reason, "from %s: %s", source, what)

    def _has_diverged(self, message: Message) -> bool:
        """Tells, on a server's heartbeats, whether both sides keep holding different records.

        Otherwise a record that was refused or dropped because a clock was wrong for a while would
        never arrive. If both sides differ for a lasting reason, the feed is reopened ever more
        rarely.
        """
        if not message.digest:
            # A chunk of a larger message, or a feed of some services: no digest of the whole.
            return False
        if message.cursor:
            self._divergence.reset()
            return False
        if not self._divergence.heartbeat(is_equal=message.digest == self.digest):
            return False
        self._cursor = b""
        return True

    def _lacks_home(self, message: Message) -> bool:
        """Tells whether the server holds other records of this node's own region, for a while."""
        own = self._topology.get_node(self._topology.owner or "")
        if not message.home_digest or own is None:
            return False
        held = self._topology.region_digest(own.region)
        return self._home_divergence.heartbeat(is_equal=message.home_digest == held)

    def _lacks_regions(self, message: Message) -> bool:
        """Tells whether the server knows other regions than this node, for a while."""
        if not message.regions_digest:
            return False
        held = self._topology.regions_digest
        return self._regions_divergence.heartbeat(is_equal=message.regions_digest == held)
