"""The watching end of a feed, without I/O: what it makes of what a server tells."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from aegis_discovery._model import ServiceInfo
from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import InvalidRecordError, InvalidVerdictError
from aegis_discovery.feed._limits import AT_ONCE, MAX_CURSOR, MAX_ITEMS, MAX_STATUSES
from aegis_discovery.feed._writer import provides_any
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records._codec import signed_from_wire, signed_to_wire, status_from_wire
from aegis_discovery.records._record import Record
from aegis_discovery.records._verdict import SignedVerdict
from aegis_discovery.records._verifier import Verifier

_log = logging.getLogger("aegis.feed")

DIVERGED_AFTER = 3
"""Heartbeats in a row with another digest, at first, after which a feed is opened anew."""

MAX_PATIENCE = 300
"""Heartbeats at most, where opening it anew did not help."""

MAX_REMEMBERED = 1024
"""Nodes of which a watcher remembers what it was last told on a feed, some 100 KB."""


@dataclass(frozen=True, slots=True)
class ReceiveResult:
    """What came of one message.

    Attributes:
        complete: The watcher now holds all that the server held when the feed began.
        foreign: A newer record of the watcher's own id, by another process.
        diverged: Both sides have been at rest for a while, and know different things all the same:
            the feed must be opened anew, for a snapshot.
    """

    complete: bool
    foreign: Record | None = None
    diverged: bool = False


def split_message(message: mesh_pb2.WatchResponse) -> Iterator[mesh_pb2.WatchResponse]:
    """Cuts a message into several that say the same, each of few checks of signatures.

    Each can be taken in on its own: a record or a verdict and the chain that it needs stay
    together. A message that is left unread is not cut.
    """
    if _checks(message) <= AT_ONCE or _is_overfull(message):
        yield message
        return
    signed: list[mesh_pb2.SignedRecord | mesh_pb2.SignedVerdict]
    signed = [*message.records, *message.verdicts]
    signers = {piece.signer for piece in signed}
    needed: dict[bytes, mesh_pb2.Chain] = {}
    part = mesh_pb2.WatchResponse()
    for chain in message.chains:
        fingerprint = hashlib.sha256(b"".join(chain.certificates[:1])).digest()
        if fingerprint in signers and needed.setdefault(fingerprint, chain) is chain:
            continue
        part.chains.append(chain)
        if _checks(part) >= AT_ONCE:
            yield part
            part = mesh_pb2.WatchResponse()
    for piece in signed:
        if piece.signer in needed:
            part.chains.append(needed.pop(piece.signer))
        if isinstance(piece, mesh_pb2.SignedRecord):
            part.records.append(piece)
        else:
            part.verdicts.append(piece)
        if _checks(part) >= AT_ONCE:
            yield part
            part = mesh_pb2.WatchResponse()
    # What is said of the whole is true once all of it is taken in.
    part.statuses.extend(message.statuses)
    part.cursor, part.digest = message.cursor, message.digest
    part.version, part.complete = message.version, message.complete
    yield part


def _checks(message: mesh_pb2.WatchResponse) -> int:
    """Counts what may cost a check of a signature."""
    certificates = sum(len(chain.certificates) for chain in message.chains)
    return len(message.records) + len(message.verdicts) + certificates


def _pieces(message: mesh_pb2.WatchResponse) -> int:
    return len(message.records) + len(message.verdicts) + len(message.chains)


def _is_overfull(message: mesh_pb2.WatchResponse) -> bool:
    return _pieces(message) > MAX_ITEMS or len(message.statuses) > MAX_STATUSES


class FeedReader:
    """Takes in what one server tells, and remembers how far that was.

    Args:
        topology: Where it goes.
        verifier: Says what may be believed.
        trusts_statuses: Whether the server's view of who is alive is taken over; clients do,
            nodes judge for themselves.
        services: Only the providers of these, of any version where none is named; all nodes where
            it is empty. For clients.
        log_limiter: Where to warn of what cannot be believed; shared by the readers of one process.
    """

    def __init__(
        self,
        topology: Topology,
        verifier: Verifier,
        *,
        trusts_statuses: bool,
        services: Collection[ServiceInfo] = (),
        log_limiter: LogLimiter | None = None,
    ) -> None:
        self._topology = topology
        self._verifier = verifier
        self._trusts_statuses = trusts_statuses
        self._services = tuple(services)
        self._log_limiter = log_limiter or LogLimiter(_log)
        self._told: set[str] = set()
        self._stamps: OrderedDict[str, int] = OrderedDict()
        self._is_complete = False
        self._cursor = b""
        self._cursor_of = ""
        self._beats_apart = 0
        self._beats_together = 0
        self._patience = DIVERGED_AFTER

    def request(
        self, mesh: str, own: Record | None = None, chain: tuple[bytes, ...] = (), *, source: str
    ) -> mesh_pb2.WatchRequest:
        """Makes the request that opens the feed, or takes it up again.

        Args:
            mesh: The mesh's name.
            own: A node's own record; clients have none.
            chain: Of the certificate that signed it (DER, leaf first).
            source: The node that it goes to. A cursor goes to the one that gave it only: it says
                nothing to others, and a liar could have made one for which they refuse us.
        """
        self._is_complete = False
        self._stamps.clear()
        if self._services:
            self._told.clear()
            services = [mesh_pb2.Service(name=s.name, version=s.version) for s in self._services]
            return mesh_pb2.WatchRequest(mesh=mesh, services=services)
        return mesh_pb2.WatchRequest(
            mesh=mesh,
            cursor=self._cursor if source == self._cursor_of else b"",
            digest=self._topology.full_digest,
            record=None if own is None else signed_to_wire(own),
            chain=mesh_pb2.Chain(certificates=chain) if chain else None,
        )

    def receive(self, message: mesh_pb2.WatchResponse, *, source: str) -> ReceiveResult:
        """Takes in one message of the node `source`; what cannot be believed is logged and left."""
        if _is_overfull(message):
            reason = (
                f"a message of {_pieces(message)} records and {len(message.statuses)} statuses "
                f"was left unread; the limits are {MAX_ITEMS} and {MAX_STATUSES}"
            )
            self._complain(source, reason, reason)
            return ReceiveResult(complete=False)
        if source != self._cursor_of:
            # What this one tells may undo what another one told: that one's cursor is void.
            self._cursor, self._cursor_of = b"", source
        records = self._believable(message, source)
        stopped = False
        if self._services:
            records, stopped = self._only_asked_for(records)
        foreign = None
        # A heartbeat has nothing to merge, and is what most messages are.
        if records or message.version > self._topology.version:
            foreign = self._topology.merge_records(
                records, version=message.version, origin=source
            ).foreign
        else:
            # Nothing else looks at leases as often, and at a client's nothing else at all.
            self._topology.expire()
        self._take_verdicts(message, source)
        if self._trusts_statuses:
            for wire in message.statuses:
                status = status_from_wire(wire)
                if status is not None:
                    self._topology.set_status(wire.id, wire.stamp, status)
        self._is_complete |= message.complete
        if self._services and self._is_complete and (message.complete or stopped):
            # Before that, those that another server told of may still be told of by this one.
            self._topology.retain(self._told)
        if message.cursor:
            self._take_cursor(message.cursor, source)
        return ReceiveResult(message.complete, foreign, self._is_apart(message))

    def _take_cursor(self, cursor: bytes, source: str) -> None:
        if len(cursor) <= MAX_CURSOR:
            self._cursor = cursor
            return
        self._cursor = b""
        reason = f"a cursor of {len(cursor)} bytes was left; the limit is {MAX_CURSOR}"
        self._complain(source, reason, reason)

    def _believable(self, message: mesh_pb2.WatchResponse, source: str) -> list[Record]:
        for chain in message.chains:
            try:
                self._verifier.add_chain(tuple(chain.certificates))
            except InvalidRecordError as error:
                self._complain(source, f"chain: {error.reason}", error)
        records: list[Record] = []
        for signed in message.records:
            try:
                record = self._verifier.verify(
                    signed_from_wire(signed), held=self._topology.get_record
                )
            except InvalidRecordError as error:
                self._complain(source, error.reason, error)
                continue
            self._look_at_order(record, source)
            records.append(record)
        return records

    def _look_at_order(self, record: Record, source: str) -> None:
        """Complains of one that undoes on a feed what it told on it: no honest server does.

        A record that is merely old says nothing: its server may not have heard of the newer one.
        """
        if record.voucher is not None:
            return
        if record.stamp < self._stamps.get(record.id, 0):
            held = self._topology.get_record(record.id)
            # Where the newer one expired, or was revoked, the older one is the latest again.
            if held is not None and held.voucher is None and held.stamp > record.stamp:
                reason = f"an older record of {record.id} after a newer one"
                self._complain(source, "an older record", reason)
            return
        self._stamps[record.id] = record.stamp
        self._stamps.move_to_end(record.id)
        if len(self._stamps) > MAX_REMEMBERED:
            self._stamps.popitem(last=False)

    def _only_asked_for(self, records: list[Record]) -> tuple[list[Record], bool]:
        """Leaves out records of nodes that were not asked for.

        Returns:
            The rest, and whether a node that is here stopped providing what was asked for.
        """
        wanted: list[Record] = []
        stopped = False
        for record in records:
            if provides_any(record.info, self._services):
                self._told.add(record.id)
                wanted.append(record)
            elif record.id in self._told:
                held = self._topology.get_record(record.id)
                if record.info is None:
                    wanted.append(record)
                elif held is not None and record.precedence > held.precedence:
                    self._told.discard(record.id)
                    stopped = True
        return wanted, stopped

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
                self._complain(source, error.reason, error)
        if verdicts:
            self._topology.merge_verdicts(verdicts, origin=source)

    def _complain(self, source: str, reason: str, what: object) -> None:
        self._log_limiter.warn(source, reason, "from %s: %s", source, what)

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
                # One alone costs a liar nothing; to be believed takes as long as it was apart.
                self._beats_together += 1
                if self._beats_together >= self._patience:
                    self._patience = DIVERGED_AFTER
            return False
        self._beats_together = 0
        self._beats_apart += 1
        if self._beats_apart < self._patience:
            return False
        self._beats_apart = 0
        self._patience = min(2 * self._patience, MAX_PATIENCE)
        self._cursor = b""
        return True
