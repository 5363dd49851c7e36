"""The ledger: records, verdicts and version of one topology, and the rules by which they change."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType

from aegis_discovery._model import NodeInfo, NodeStatus
from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery._topology.events import Announcer, EventKind, TopologyEvent
from aegis_discovery._topology.store import RecordStore
from aegis_discovery.errors import InvalidRecordError, NotOwnerError
from aegis_discovery.records._record import MAX_AHEAD, Clock, Record
from aegis_discovery.records._signer import RecordSigner
from aegis_discovery.records._verdict import (
    MAX_ACCUSATIONS,
    Opinion,
    SignedVerdict,
    Verdict,
    VerdictStore,
    is_refuted,
)

_log = logging.getLogger("aegis.topology")

MAX_VERSION = 2**63 - 1
MAX_VERSION_STEP = 2**20
"""The most that another topology raises our version by: a lying peer cannot use the range up."""

MAX_NODES = 20_000
"""Nodes that a topology holds: twice the largest mesh that is tested, some 60 MB of records."""

MAX_VOUCHED = 256
"""Nodes that one node may vouch for; else one of them could fill the mesh with invented ones."""

MAX_VOUCHED_IDS = 8 * MAX_VOUCHED
"""The same with all that it removed again, for as long as their tombstones are kept, some 25 hours.

It lets a voucher replace each of its nodes seven times a day.
"""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge did.

    Attributes:
        changed: Whether we know more than before.
        foreign: A record of our own id by another process that is newer than ours; not merged.
    """

    changed: bool
    foreign: Record | None = None


class RecordMerger:
    """What a topology holds, without its lock: one thread at a time may use it.

    Whatever changes is noted at the announcer, for the topology to announce once it let go.
    """

    def __init__(
        self, owner: str | None, signer: RecordSigner, clock: Clock, announcer: Announcer
    ) -> None:
        self._log_limiter = LogLimiter(_log, clock=clock)
        self.store = RecordStore(self._log_limiter)
        self.verdicts = VerdictStore()
        self.version = 0
        self._owner = owner
        self._signer = signer
        self._clock = clock
        self._announcer = announcer
        self._own_floor = 0
        self._nodes: Mapping[str, NodeInfo] | None = None
        self.updated_at = self._moment()

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        """All nodes by id, in the order of their ids; a snapshot that never changes."""
        if self._nodes is None:
            live = (entry.node for entry in self.store.entries() if entry.node is not None)
            self._nodes = MappingProxyType({n.id: n for n in sorted(live, key=lambda n: n.id)})
        return self._nodes

    @property
    def is_full(self) -> bool:
        """Whether records of further nodes are dropped."""
        return self.store.live >= MAX_NODES

    def get_node(self, node_id: str) -> NodeInfo | None:
        """Returns a node, or None."""
        entry = self.store.get(node_id)
        return entry.node if entry else None

    def get_record(self, node_id: str) -> Record | None:
        """Returns the record, or tombstone, that is held of a node id."""
        entry = self.store.get(node_id)
        return entry.record if entry else None

    def check_owner(self, node_id: str) -> None:
        """Raises `NotOwnerError` where the topology belongs to another node."""
        if self._owner is not None and node_id != self._owner:
            raise NotOwnerError(node_id, self._owner)

    def set(self, node: NodeInfo) -> NodeInfo:
        """Writes a node's record; returns the node with its times set."""
        now = self._moment()
        node = replace(
            node,
            joined_at=node.joined_at or now,
            updated_at=now,
            status=NodeStatus.ALIVE,
            vouched_by=None,
        )
        self.write(node.id, node)
        return node

    def write(self, node_id: str, info: NodeInfo | None, *, vouched: bool = False) -> None:
        """Writes a record, or a tombstone where `info` is None, above what is held of its id.

        Raises:
            InvalidRecordError: If it is vouched for, and there is no room for it.
        """
        if vouched:
            limit = self._limit_reached(node_id, self._owner or "", is_node=info is not None)
            if limit:
                raise InvalidRecordError(node_id, limit)
        held = self.get_record(node_id)
        floor = max(held.stamp if held else 0, self._own_floor if node_id == self._owner else 0)
        now = self._now_ms()
        stamp = max(now, floor + 1)
        if stamp > now + MAX_AHEAD * 1000:
            _log.warning(
                "the record of %s goes on from a stamp %d s ahead of this clock; others refuse it "
                "until then",
                node_id,
                (stamp - now) // 1000,
            )
        record = self._signer.sign_record(node_id, stamp, info, vouched=vouched)
        if not self.store.beats(record):
            return
        self.version = min(self.version + 1, MAX_VERSION)
        self._accept(record, None)

    def merge(self, records: Iterable[Record], version: int, origin: str | None) -> MergeResult:
        """Joins verified records; the greatest of each id counts."""
        foreign: Record | None = None
        news: dict[str, Record] = {}
        now = self._now_ms()
        self._expire_records(now)
        for record in records:
            if record.expires_at <= now:
                continue
            if record.id == self._owner:
                foreign = self._meet_own(record) or foreign
            elif self.store.beats(record):
                rival = news.get(record.id)
                if rival is None or record.precedence > rival.precedence:
                    news[record.id] = record
        changed = False
        for record in news.values():
            if self._has_room(record, origin):
                if not changed:
                    # Events tell the version that the whole merge leads to.
                    self._raise_version(version, changed=True)
                changed = True
                self._accept(record, origin)
        if not changed:
            self._raise_version(version, changed=False)
        return MergeResult(changed, foreign)

    def get_verdicts(self, node_id: str) -> tuple[Verdict, ...]:
        """Returns what is said of a node, less what its record refutes."""
        record = self.get_record(node_id)
        said = (content.verdict for content in self.verdicts.of(node_id).values())
        return tuple(verdict for verdict in said if record and not is_refuted(verdict, record))

    def publish_verdict(self, node_id: str, opinion: Opinion, *, held: bool) -> None:
        """Writes the owner's verdict on what is held of another node."""
        record = self.get_record(node_id)
        if record is None or record.info is None or node_id == self._owner:
            return
        said = self.verdicts.get(node_id, self._owner or "")
        stamp = max(self._now_ms(), said.verdict.stamp + 1 if said else 0)
        self.take_verdict(self._signer.sign_verdict(record, stamp, opinion, held=held), None)

    def take_verdict(self, content: SignedVerdict, origin: str | None) -> None:
        """Joins a verified verdict of one node of the topology on another one."""
        verdict = content.verdict
        subject, accuser = self.store.get(verdict.subject), self.store.get(verdict.accuser)
        if subject is None or subject.node is None or accuser is None or accuser.node is None:
            return
        if verdict.expires_at <= self._now_ms():
            # What took it back may be forgotten by now.
            return
        known = self.verdicts.get(verdict.subject, verdict.accuser) is not None
        is_own = verdict.accuser == self._owner
        if not known and not is_own and self.verdicts.count(verdict.accuser) >= MAX_ACCUSATIONS:
            self._log_limiter.warn(
                verdict.accuser,
                "too many verdicts",
                "%s judges more than %d nodes; what it says of %s is dropped (from %s)",
                verdict.accuser,
                MAX_ACCUSATIONS,
                verdict.subject,
                origin,
            )
            return
        if self.verdicts.beats(content):
            self.verdicts.put(content, self.store.advance(), origin)
            self._announcer.moved()

    def set_status(self, node_id: str, stamp: int, status: NodeStatus) -> bool:
        """Overlays what was derived of a node's record; returns whether anything changed."""
        entry = self.store.get(node_id)
        if entry is None or entry.node is None or entry.record.stamp != stamp:
            return False
        if entry.node.status is status:
            return False
        node = self.store.set_status(node_id, status)
        kind = {
            NodeStatus.SUSPECTED: EventKind.SUSPECTED,
            NodeStatus.FAILED: EventKind.FAILED,
        }.get(status, EventKind.UPDATED)
        self._changed(kind, node)
        return True

    def advance_version_past(self, version: int) -> int:
        """Raises the version above a peer's; returns it."""
        target = min(version + 1, self.version + MAX_VERSION_STEP, MAX_VERSION)
        self.version = max(self.version, target)
        self._announcer.moved()
        return self.version

    def remove_revoked(self, signers: Collection[bytes]) -> None:
        """Drops all records that were signed with these certificates, but the owner's."""
        for entry in list(self.store.entries()):
            if entry.record.signer in signers and entry.record.id != self._owner:
                self._drop(entry.record.id)
                if entry.node is not None:
                    self.version = min(self.version + 1, MAX_VERSION)
                    self._changed(EventKind.REVOKED, entry.node)

    def retain(self, node_ids: Collection[str]) -> None:
        """Drops everybody but these and the owner."""
        for entry in list(self.store.entries()):
            if entry.record.id not in node_ids and entry.record.id != self._owner:
                self._drop(entry.record.id)
                if entry.node is not None:
                    self._changed(EventKind.LEFT, replace(entry.node, status=NodeStatus.LEFT))

    def expire(self) -> None:
        """Drops all records and verdicts whose lease has ended."""
        now = self._now_ms()
        self._expire_records(now)
        self.verdicts.expire(now)

    def _expire_records(self, now: int) -> None:
        for entry in self.store.expire(now, keep=self._owner):
            self.verdicts.forget(entry.record.id)
            if entry.node is not None:
                self.version = min(self.version + 1, MAX_VERSION)
                self._changed(EventKind.EXPIRED, entry.node)

    def _drop(self, node_id: str) -> None:
        self.store.drop(node_id)
        self.verdicts.forget(node_id)

    def _has_room(self, record: Record, origin: str | None) -> bool:
        """Tells whether a record fits in; where it does not, complains of who made it up."""
        limit = self._limit_reached(record.id, record.voucher, is_node=record.info is not None)
        if limit:
            what = f"{record.id}, vouched for by {record.voucher}" if record.voucher else record.id
            by = record.voucher or origin or ""
            self._log_limiter.warn(by, limit, "%s: dropped %s, from %s", limit, what, origin)
        return not limit

    def _limit_reached(self, node_id: str, voucher: str | None, *, is_node: bool) -> str:
        """Says which limit a record, or a tombstone, would exceed; empty where it fits in.

        Tombstones are no nodes: a mesh that often replaces its nodes has many. Of those that nodes
        sign themselves there are no more than certificates. A voucher could invent any number, so
        all its ids are counted, and one that it removes keeps the place that it had.
        """
        store, held = self.store, self.get_record(node_id)
        holds_node = held is not None and held.info is not None
        if voucher is not None:
            is_known = held is not None and held.voucher == voucher
            vouched = store.vouched[voucher]
            if is_node and not (is_known and holds_node) and vouched >= MAX_VOUCHED:
                return f"{voucher} vouches for {MAX_VOUCHED} nodes, the most it may"
            if not is_known and vouched + store.withdrawn[voucher] >= MAX_VOUCHED_IDS:
                return f"{voucher} vouched for {MAX_VOUCHED_IDS} nodes in a day, the most it may"
            if not is_node and is_known:
                return ""
        if is_node and not holds_node and store.live >= MAX_NODES:
            return f"the topology holds {MAX_NODES} nodes, the most it may"
        is_invented = voucher is not None and not is_node and (held is None or holds_node)
        if is_invented and store.removed >= MAX_NODES:
            return f"the topology holds {MAX_NODES} removed nodes, the most it may"
        return ""

    def _accept(self, record: Record, origin: str | None) -> None:
        before = self.store.put(record, origin)
        if record.info is None:
            self.verdicts.forget(record.id)
        after = self.get_node(record.id)
        if after is None:
            kind = EventKind.LEFT
            after = before and replace(before, status=NodeStatus.LEFT)
        else:
            kind = EventKind.UPDATED if before else EventKind.JOINED
        # A renewed lease changes the record, but nothing that a subscriber sees.
        self._changed(kind, after if after != before else None)

    def _meet_own(self, record: Record) -> Record | None:
        """Looks at a record of the owner's id: another process may have written it."""
        if record.voucher is not None or record.instance == self._signer.instance:
            return None
        held = self.get_record(record.id)
        self._own_floor = max(self._own_floor, record.stamp)
        return record if held is None or record.precedence > held.precedence else None

    def _raise_version(self, theirs: int, *, changed: bool) -> None:
        raised = max(self.version, min(theirs, self.version + MAX_VERSION_STEP))
        if changed and raised == self.version:
            raised += 1
        raised = min(raised, MAX_VERSION)
        if raised != self.version:
            self.version = raised
            self._announcer.moved()

    def _changed(self, kind: EventKind, node: NodeInfo | None) -> None:
        self._nodes = None
        self.updated_at = self._moment()
        if node is not None:
            self._announcer.note(TopologyEvent(kind, node, self.version))
        self._announcer.moved()

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)

    def _moment(self) -> datetime:
        # In milliseconds, as the wire has it: a node's times are the same at every node.
        return datetime.fromtimestamp(self._now_ms() / 1000, UTC)
