"""How records and verdicts merge into a topology."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from aegis_certs import owner_of

from aegis_discovery._model import NodeInfo, NodeStatus
from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery._topology.events import EventDispatcher, EventKind, TopologyEvent, kind_of
from aegis_discovery._topology.limits import exceeded_limit
from aegis_discovery._topology.store import RecordStore, changed_node
from aegis_discovery.errors import InvalidRecordError
from aegis_discovery.records._record import MAX_AHEAD, Clock, Record
from aegis_discovery.records._signer import RecordSigner
from aegis_discovery.records._verdict import MAX_ACCUSATIONS, Opinion, SignedVerdict, VerdictStore

_log = logging.getLogger("aegis.topology")

MAX_AHEAD_MS = round(MAX_AHEAD * 1000)

MAX_VERSION = 2**63 - 1
MAX_VERSION_STEP = 2**20
"""The most by which another topology raises our version, so that no peer can use up the range."""


class MergeResult(NamedTuple):
    """What a merge did.

    Attributes:
        changed: Whether this topology changed.
        foreign: A newer record of the owner's id that another process wrote; it is not merged.
    """

    changed: bool
    foreign: Record | None = None


class RecordMerger:
    """The records and verdicts of one topology, and how others merge into them.

    Public methods take the lock and dispatch events after its release. The private ones need the
    lock, except `_changing`.
    """

    def __init__(
        self,
        *,
        owner: str | None = None,
        signer: RecordSigner | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.owner = owner
        self.log_id = secrets.token_bytes(8)
        self._signer = signer or RecordSigner(clock=clock)
        self._clock = clock
        self._lock = threading.RLock()
        self._events = EventDispatcher(self._lock)
        self._log_limiter = LogLimiter(_log, clock=clock)
        self._store = RecordStore(self._log_limiter)
        self._verdicts = VerdictStore()
        self._version = 0
        self._own_floor = 0
        self._forgotten: dict[tuple[str, str], int] = {}
        self._updated_at = self._now_ms()

    def merge_records(
        self, records: Iterable[Record], *, version: int = 0, origin: str | None = None
    ) -> MergeResult:
        """Merges verified records of a topology's version, as `origin` sent them.

        Of each id the record with the highest precedence remains, unless it could not be accepted
        any more: see `_is_corrected_by`.
        """
        with self._changing():
            foreign: Record | None = None
            newer: dict[str, Record] = {}
            now = self._now_ms()
            self._expire_records(now)
            for record in records:
                if record.expires_at <= now or self._is_forgotten(record):
                    continue
                if record.id == self.owner:
                    foreign = self._check_own(record) or foreign
                elif self._store.is_superseded_by(record) or self._is_corrected_by(record, now):
                    rival = newer.get(record.id)
                    if rival is None or record.precedence > rival.precedence:
                        newer[record.id] = record
            changed = False
            for record in newer.values():
                if self._has_room(record, origin):
                    if not changed:
                        # All events of a merge state the version after it.
                        self._raise_version(version, changed=True)
                    changed = True
                    self._accept(record, origin, now)
            if not changed:
                self._raise_version(version, changed=False)
            return MergeResult(changed, foreign)

    def restart_stamps(self) -> bool:
        """Signs anew what this owner signed while its clock was ahead; call it if others refuse it.

        Without that refusal, this clock may as well be behind now. Returns whether there was any.
        """
        with self._changing():
            now = self._now_ms()
            limit = now + MAX_AHEAD_MS
            records = [e.record for e in self._store.entries() if e.record.stamp > limit]
            own = [r for r in records if (r.voucher or r.id) == self.owner]
            verdicts = [v.verdict for v in self._verdicts.by(self.owner or "")]
            ahead = [verdict for verdict in verdicts if verdict.stamp > limit]
            self._own_floor = min(self._own_floor, now)
            for record in own:
                content = record.info
                vouched = record.voucher is not None
                renewed = self._signer.sign_record(record.id, now, content, vouched=vouched)
                self._version = min(self._version + 1, MAX_VERSION)
                self._accept(renewed, None, now)
            for verdict in ahead:
                about = self._store.get_record(verdict.subject)
                if about is not None and about.info is not None:
                    opinion, held = verdict.opinion, verdict.held
                    again = self._signer.sign_verdict(about, now, opinion, held=held)
                    self._verdicts.put(again, self._store.advance(), None)
                    self._events.mark_changed()
            if own:
                line = (
                    "%s signed its record %d s ahead of its clock, which was wrong; it signs anew"
                )
                _log.warning(line, self.owner, (max(r.stamp for r in own) - now) // 1000)
            return bool(own or ahead)

    def publish_verdict(self, node_id: str, opinion: Opinion, *, held: bool = False) -> None:
        """Publishes the owner's verdict on another node's record; ignores an unknown node.

        A held verdict also applies to newer records of the node.
        """
        with self._changing():
            record = self._store.get_record(node_id)
            if record is None or record.info is None or node_id == self.owner:
                return
            known = self._verdicts.get(node_id, self.owner or "")
            stamp = max(self._now_ms(), known.verdict.stamp + 1 if known else 0)
            self._merge_verdict(self._signer.sign_verdict(record, stamp, opinion, held=held), None)

    def merge_verdicts(
        self, verdicts: Iterable[SignedVerdict], *, origin: str | None = None
    ) -> None:
        """Merges verified verdicts: the latest of each accuser on each subject remains.

        Drops a verdict whose accuser or subject is not in the topology.
        """
        with self._changing():
            for content in verdicts:
                self._merge_verdict(content, origin)

    def set_status(self, node_id: str, stamp: int, status: NodeStatus) -> bool:
        """Sets a derived status if the record still has this stamp; returns whether it changed."""
        return self.set_statuses([(node_id, stamp, status)])

    def set_statuses(self, statuses: Iterable[tuple[str, int, NodeStatus]]) -> bool:
        """As `set_status` for node ids, stamps and statuses; returns whether any changed."""
        has_changed = False
        with self._changing():
            for node_id, stamp, status in statuses:
                entry = self._store.get(node_id)
                if entry is None or entry.node is None or entry.record.stamp != stamp:
                    continue
                if entry.node.status is status:
                    continue
                has_changed = True
                node = self._store.set_status(node_id, status)
                self._note_change(kind_of(status), node)
        return has_changed

    def advance_version_past(self, version: int) -> int:
        """Raises the version above a peer's, so that the peer adopts ours; returns the result."""
        with self._changing():
            target = min(version + 1, self._version + MAX_VERSION_STEP, MAX_VERSION)
            self._version = max(self._version, target)
            self._events.mark_changed()
            return self._version

    def remove_revoked(self, signers: Collection[bytes]) -> None:
        """Drops all records that these certificates (SHA-256) signed, except the owner's.

        They are revoked, or valid for another node too.
        """
        with self._changing():
            for entry in list(self._store.entries()):
                if entry.record.signer in signers and entry.record.id != self.owner:
                    self._drop(entry.record.id)
                    self._note_loss(EventKind.REVOKED, entry.node)

    def forget(self, lives: Mapping[tuple[str, str], int]) -> None:
        """Drops the records of these lives of nodes, and refuses them from now on.

        Only the last call counts. The owner is alive, so it publishes a newer record instead.

        Args:
            lives: The greatest stamp that is refused, by node id and instance.
        """
        with self._changing():
            self._forgotten = dict(lives)
            for node_id, instance in lives:
                entry = self._store.get(node_id)
                if entry is None or not self._is_forgotten(entry.record):
                    continue
                if node_id == self.owner:
                    self._own_floor = max(self._own_floor, lives[node_id, instance])
                    self._write(node_id, entry.record.info)
                else:
                    self._drop(node_id)
                    self._note_loss(EventKind.FORGOTTEN, entry.node)

    def _is_forgotten(self, record: Record) -> bool:
        until = self._forgotten.get((record.id, record.instance)) if self._forgotten else None
        return until is not None and record.stamp <= until

    def retain(self, node_ids: Collection[str]) -> None:
        """Drops all nodes but these and the owner.

        A feed of some services calls it: such a feed sends no record of a node that it stops
        listing.
        """
        with self._changing():
            for entry in list(self._store.entries()):
                if entry.record.id not in node_ids and entry.record.id != self.owner:
                    self._drop(entry.record.id)
                    if entry.node is not None:
                        left = changed_node(entry.node, status=NodeStatus.LEFT)
                        self._note_change(EventKind.LEFT, left)

    def expire(self) -> None:
        """Drops all records and verdicts whose lease has ended; to be called regularly."""
        self._events.resume()
        if (now := self._now_ms()) < min(self._store.first_end, self._verdicts.first_end):
            return  # without the lock, as each heartbeat comes here
        with self._changing():
            self._expire_records(now)
            self._verdicts.expire(now)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Holds the lock for a change, and dispatches its events after the release."""
        with self._lock:
            yield
        self._events.dispatch()

    def _write(self, node_id: str, info: NodeInfo | None, *, vouched: bool = False) -> None:
        """Writes a record, or a tombstone if `info` is None, above the one that is held.

        Raises:
            InvalidRecordError: If it is vouched for, and there is no room for it.
        """
        if vouched:
            limit = exceeded_limit(self._store, node_id, self.owner or "", is_node=info is not None)
            if limit:
                raise InvalidRecordError(node_id, limit)
        held = self._store.get_record(node_id)
        floor = max(held.stamp if held else 0, self._own_floor if node_id == self.owner else 0)
        now = self._now_ms()
        leaves = info is None and held is not None and not vouched
        stamp = floor + 1 if leaves else max(now, floor + 1)  # this clock may be wrong by now
        if stamp > now + MAX_AHEAD_MS:
            _log.warning(
                "the record of %s continues from a stamp %d s ahead of this clock: it is or was "
                "wrong; if other nodes refuse that stamp, it begins anew",
                node_id,
                (stamp - now) // 1000,
            )
        record = self._signer.sign_record(node_id, stamp, info, vouched=vouched)
        if not self._store.is_superseded_by(record):
            return
        self._version = min(self._version + 1, MAX_VERSION)
        self._accept(record, None, now)

    def _merge_verdict(self, content: SignedVerdict, origin: str | None) -> None:
        verdict = content.verdict
        held = self._verdicts.get(verdict.subject, verdict.accuser)
        # Most verdicts arrive from several peers.
        if held is not None and not self._verdicts.is_superseded_by(content):
            latest = self._now_ms() + MAX_AHEAD_MS
            if not verdict.stamp <= latest < held.verdict.stamp:  # as with records
                return
        subject, accuser = self._store.get(verdict.subject), self._store.get(verdict.accuser)
        if subject is None or subject.node is None or accuser is None or accuser.node is None:
            return
        if verdict.expires_at <= self._now_ms():
            # The verdict that took it back may be forgotten already.
            return
        is_own = verdict.accuser == self.owner
        if held is None and not is_own and (limit := self._verdicts.limit_of(verdict.accuser)):
            accuser_id = verdict.accuser
            self._log_limiter.warn(
                accuser_id,
                "too many verdicts",
                "%s has verdicts on more than %d nodes; its verdict on %s is dropped (from %s)",
                accuser_id if limit == MAX_ACCUSATIONS else owner_of(accuser_id),
                limit,
                verdict.subject,
                origin,
            )
            return
        self._verdicts.put(content, self._store.advance(), origin)
        self._events.mark_changed()

    def _expire_records(self, now: int) -> None:
        for entry in self._store.expire(now, keep=self.owner):
            self._verdicts.forget(entry.record.id)
            self._note_loss(EventKind.EXPIRED, entry.node)

    def _drop(self, node_id: str) -> None:
        self._store.drop(node_id)
        self._verdicts.forget(node_id)

    def _is_corrected_by(self, record: Record, now: int) -> bool:
        """Tells whether a record replaces one that its node signed while its clock was ahead.

        This clock was ahead too when it accepted that, or is behind now: it has gone back since,
        and cannot tell which time was right. Without this rule, nodes whose clocks were wrong
        together would never believe each other again, since `restart_stamps` goes below what they
        hold.
        """
        held = self._store.get_record(record.id)
        if held is None or (record.voucher is not None and held.voucher is None):
            return False
        return record.stamp <= now + MAX_AHEAD_MS < held.stamp

    def _has_room(self, record: Record, origin: str | None) -> bool:
        limit = exceeded_limit(
            self._store, record.id, record.voucher, is_node=record.info is not None
        )
        if limit:
            what = f"{record.id}, vouched for by {record.voucher}" if record.voucher else record.id
            source = record.voucher or origin or ""
            self._log_limiter.warn(source, limit, "%s: dropped %s, from %s", limit, what, origin)
        return not limit

    def _accept(self, record: Record, origin: str | None, now: int) -> None:
        before, after = self._store.put(record, origin)
        if after is None:
            self._verdicts.forget(record.id)
            kind = EventKind.LEFT
            after = before and changed_node(before, status=NodeStatus.LEFT)
        else:
            kind = EventKind.UPDATED if before else EventKind.JOINED
        # A renewed lease changes the record, but nothing that a subscriber sees.
        self._note_change(kind, after if after is not before else None, now)

    def _check_own(self, record: Record) -> Record | None:
        """Returns a record of the owner's id if another process wrote it and it is newer."""
        if record.voucher is not None:
            return None
        held = self._store.get_record(record.id)
        is_newer = held is None or record.precedence > held.precedence
        if record.instance != self._signer.instance:
            self._own_floor = max(self._own_floor, record.stamp)
            return record if is_newer else None
        if is_newer and held is not None:
            # Others hold what this process signed before it restarted its stamps.
            self._own_floor = max(self._own_floor, record.stamp)
            self._write(record.id, held.info)
        return None

    def _raise_version(self, theirs: int, *, changed: bool) -> None:
        raised = max(self._version, min(theirs, self._version + MAX_VERSION_STEP))
        if changed and raised == self._version:
            raised += 1
        raised = min(raised, MAX_VERSION)
        if raised != self._version:
            self._version = raised
            self._events.mark_changed()

    def _note_loss(self, kind: EventKind, node: NodeInfo | None) -> None:
        if node is not None:
            self._version = min(self._version + 1, MAX_VERSION)
            self._note_change(kind, node)

    def _note_change(self, kind: EventKind, node: NodeInfo | None, now: int | None = None) -> None:
        self._updated_at = self._now_ms() if now is None else now
        if node is not None:
            self._events.queue(TopologyEvent(kind, node, self._version))
        self._events.mark_changed()

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)

    def _moment(self, at: int) -> datetime:
        # In milliseconds, as on the wire, so that a node's times are the same at every node.
        return datetime.fromtimestamp(at / 1000, UTC)
