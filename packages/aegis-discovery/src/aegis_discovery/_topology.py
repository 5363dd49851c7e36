"""The topology: what one process knows of the mesh, safe to use from any thread."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType

from aegis_discovery._author import RecordAuthor
from aegis_discovery._changes import Changes
from aegis_discovery._events import Announcer, EventKind, TopologyEvent
from aegis_discovery._model import NodeInfo, NodeStatus
from aegis_discovery._record import MAX_AHEAD, Clock, Record
from aegis_discovery._store import RecordStore
from aegis_discovery._verdict import (
    MAX_ACCUSATIONS,
    Opinion,
    SignedVerdict,
    Verdict,
    VerdictStore,
    is_refuted,
)
from aegis_discovery.errors import NodeNotFoundError, NotOwnerError

_log = logging.getLogger("aegis.topology")

MAX_VERSION = 2**63 - 1
MAX_VERSION_STEP = 2**20
"""The most that another topology raises our version by: a lying peer cannot use the range up."""


@dataclass(frozen=True, slots=True)
class TopologySnapshot:
    """The whole topology at one moment: version, nodes and records belong together."""

    version: int
    updated_at: datetime
    nodes: Mapping[str, NodeInfo]
    digest: bytes
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge did.

    Attributes:
        changed: Whether we know more than before.
        foreign: A record of our own id by another process that is newer than ours; not merged.
    """

    changed: bool
    foreign: Record | None = None


class Topology:
    """Every node of the mesh, by id.

    A topology without an owner (tests, tools) takes any change. One that belongs to a node takes
    changes of that node's record only; all else comes in by `merge`. Reading never blocks on I/O
    and never scans; every value handed out is immutable.

    Args:
        owner: The node id that this topology belongs to.
        author: Writes and signs the records; by default one that signs nothing.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        *,
        owner: str | None = None,
        author: RecordAuthor | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.owner = owner
        self.log_id = secrets.token_bytes(8)
        self._author = author or RecordAuthor(clock=clock)
        self._clock = clock
        self._lock = threading.RLock()
        self._store = RecordStore()
        self._verdicts = VerdictStore()
        self._version = 0
        self._updated_at = self._moment()
        self._own_floor = 0
        self._nodes: Mapping[str, NodeInfo] | None = None
        self._announcer = Announcer(self._lock)

    def __repr__(self) -> str:
        with self._lock:
            return (
                f"<Topology version={self._version} nodes={len(self.nodes)} "
                f"digest={self.digest.hex()[:12]}>"
            )

    # Reading

    @property
    def version(self) -> int:
        """Counts changes; for people and the seed protocol, it orders no record."""
        return self._version

    @property
    def position(self) -> int:
        """How far this topology's own log has come: counts changes of records and verdicts."""
        return self._store.position

    @property
    def updated_at(self) -> datetime:
        """When anything last changed here (UTC)."""
        return self._updated_at

    @property
    def digest(self) -> bytes:
        """SHA-256 based digest of all live records: equal where the same is known."""
        return self._store.live_digest

    @property
    def full_digest(self) -> bytes:
        """As `digest`, tombstones included: equal where a feed has nothing to tell."""
        return self._store.full_digest

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        """All nodes by id, in the order of their ids; a snapshot that never changes."""
        with self._lock:
            if self._nodes is None:
                live = {e.record.id: e.node for e in self._store.entries() if e.node is not None}
                self._nodes = MappingProxyType(dict(sorted(live.items())))
            return self._nodes

    def get_node(self, node_id: str) -> NodeInfo | None:
        """Returns a node, or None."""
        with self._lock:
            entry = self._store.get(node_id)
            return entry.node if entry else None

    def get_record(self, node_id: str) -> Record | None:
        """Returns the record, or tombstone, that is held of a node id."""
        with self._lock:
            entry = self._store.get(node_id)
            return entry.record if entry else None

    def get_service_providers(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the nodes that provide a service, in the order of their ids, less failed ones.

        The same tuple object comes back until one of these providers changes.
        """
        found = self._store.services.cached(name, version)
        if found is None:
            with self._lock:
                found = self._store.services.find(name, version)
        return found

    def get_nodes_by_service(self, name: str) -> tuple[NodeInfo, ...]:
        """Returns the nodes that provide any version of a service, as `get_service_providers`."""
        with self._lock:
            return self._store.services.find(name)

    def count_vouched(self, voucher: str) -> int:
        """Returns how many nodes are in the topology only because this one vouches for them."""
        with self._lock:
            return self._store.vouched[voucher]

    def snapshot(self) -> TopologySnapshot:
        """Returns version, nodes and records of one moment."""
        with self._lock:
            records = tuple(entry.record for entry in self._store.entries())
            return TopologySnapshot(
                self._version, self._updated_at, self.nodes, self.digest, records
            )

    def changes_since(self, position: int) -> Changes:
        """Returns what changed after a position of this topology's own log."""
        with self._lock:
            return Changes(
                tuple(self._store.changed_since(position)),
                tuple(self._verdicts.changed_since(position)),
                position,
                self._store.position,
                self._version,
                self.digest,
                self._store.signed_since,
            )

    def get_verdicts(self, node_id: str) -> tuple[Verdict, ...]:
        """Returns what is said of a node, the latest of each accuser."""
        with self._lock:
            return tuple(said.verdict for said in self._verdicts.of(node_id).values())

    def get_verdict(self, node_id: str, accuser: str) -> SignedVerdict | None:
        """Returns the latest that one node said of another one."""
        with self._lock:
            return self._verdicts.get(node_id, accuser)

    @property
    def signers(self) -> frozenset[bytes]:
        """Fingerprints of the certificates that signed the records and verdicts held."""
        with self._lock:
            records = frozenset(entry.record.signer for entry in self._store.entries())
            return records | self._verdicts.signers

    # Changing

    def add_node(self, node: NodeInfo) -> NodeInfo:
        """Adds a node, or replaces what was known of it; returns it with its times set.

        Raises:
            NotOwnerError: If the topology belongs to another node.
        """
        with self._lock:
            self._check_owner(node.id)
            node = self._set(node)
        self._announcer.announce()
        return node

    def update_node(self, node: NodeInfo) -> NodeInfo:
        """Replaces a node's entry.

        Raises:
            NodeNotFoundError: If there is none.
            NotOwnerError: If the topology belongs to another node.
        """
        with self._lock:
            self._check_owner(node.id)
            known = self.get_node(node.id)
            if known is None:
                raise NodeNotFoundError(node.id)
            node = self._set(replace(node, joined_at=node.joined_at or known.joined_at))
        self._announcer.announce()
        return node

    def remove_node(self, node_id: str) -> None:
        """Removes a node; a tombstone keeps it from coming back.

        Raises:
            NodeNotFoundError: If there is none.
            NotOwnerError: If the topology belongs to another node.
        """
        with self._lock:
            self._check_owner(node_id)
            if self.get_node(node_id) is None:
                raise NodeNotFoundError(node_id)
            self._write(node_id, None)
        self._announcer.announce()

    def republish(self) -> None:
        """Renews the lease of the owner's record, above any stamp seen of it."""
        with self._lock:
            node = self.get_node(self.owner) if self.owner else None
            if node is not None:
                self._write(node.id, replace(node, status=NodeStatus.ALIVE))
        self._announcer.announce()

    def vouch(self, node: NodeInfo) -> None:
        """Publishes what a peer that signs nothing says of a node; never over a signed record."""
        with self._lock:
            node = replace(node, status=NodeStatus.ALIVE, vouched_by=self.owner)
            self._write(node.id, node, vouched=True)
        self._announcer.announce()

    def unvouch(self, node_id: str) -> None:
        """Removes a node again that this owner vouched for; anything else stays as it is."""
        with self._lock:
            record = self.get_record(node_id)
            if record and record.info and record.voucher and record.voucher == self.owner:
                self._write(node_id, None, vouched=True)
        self._announcer.announce()

    def merge(self, other: Topology | TopologySnapshot) -> MergeResult:
        """Joins another topology into this one, record by record; the higher stamp wins.

        Nothing that only one side knows is lost: the result does not depend on order or repetition
        (a state-based CRDT: Shapiro et al., 2011).
        """
        theirs = other.snapshot() if isinstance(other, Topology) else other
        return self.merge_records(theirs.records, version=theirs.version)

    def merge_records(
        self, records: Iterable[Record], *, version: int = 0, origin: str | None = None
    ) -> MergeResult:
        """Joins verified records, as `merge`; `origin` is the node that they came from."""
        foreign: Record | None = None
        news: dict[str, Record] = {}
        with self._lock:
            now = self._now_ms()
            self._expire(now)
            for record in records:
                if record.expires_at <= now:
                    continue
                if record.id == self.owner:
                    foreign = self._meet_own(record) or foreign
                elif self._store.beats(record):
                    rival = news.get(record.id)
                    if rival is None or record.precedence > rival.precedence:
                        news[record.id] = record
            self._raise_version(version, changed=bool(news))
            for record in news.values():
                self._accept(record, origin)
        self._announcer.announce()
        return MergeResult(bool(news), foreign)

    def judge(self, node_id: str, opinion: Opinion, *, held: bool = False) -> None:
        """Publishes the owner's verdict on what is held of another node; nothing of unknown ones.

        Args:
            node_id: Whom it is about.
            opinion: What the owner says of it.
            held: Whether a newer record does not refute it.
        """
        with self._lock:
            record = self.get_record(node_id)
            if record is not None and record.info is not None and node_id != self.owner:
                said = self._verdicts.get(node_id, self.owner or "")
                stamp = max(self._now_ms(), said.verdict.stamp + 1 if said else 0)
                content = self._author.judge(record, stamp, opinion, held=held)
                self._take_verdict(content, None)
        self._announcer.announce()

    def merge_verdicts(
        self, verdicts: Iterable[SignedVerdict], *, origin: str | None = None
    ) -> None:
        """Joins verified verdicts of nodes on nodes, the latest of each accuser on each subject.

        One on somebody, or by somebody, that is not in the topology is dropped.
        """
        with self._lock:
            for content in verdicts:
                self._take_verdict(content, origin)
        self._announcer.announce()

    def outrun(self, version: int) -> int:
        """Raises the version above a peer's, so that it adopts ours; returns the version then."""
        with self._lock:
            target = min(version + 1, self._version + MAX_VERSION_STEP, MAX_VERSION)
            self._version = max(self._version, target)
            self._announcer.moved()
            version = self._version
        self._announcer.announce()
        return version

    def set_status(self, node_id: str, stamp: int, status: NodeStatus) -> bool:
        """Overlays what was derived of a node's record; void where the record changed since.

        Returns:
            Whether anything changed.
        """
        with self._lock:
            entry = self._store.get(node_id)
            if entry is None or entry.node is None or entry.record.stamp != stamp:
                return False
            if entry.node.status is status:
                return False
            node = self._store.set_status(node_id, status)
            kind = {
                NodeStatus.SUSPECTED: EventKind.SUSPECTED,
                NodeStatus.FAILED: EventKind.FAILED,
            }.get(status, EventKind.UPDATED)
            self._changed(kind, node)
        self._announcer.announce()
        return True

    def distrust(self, signers: Collection[bytes]) -> None:
        """Drops all records that were signed with these certificates (SHA-256), but our own."""
        with self._lock:
            for entry in list(self._store.entries()):
                if entry.record.signer in signers and entry.record.id != self.owner:
                    self._store.drop(entry.record.id)
                    self._verdicts.forget(entry.record.id)
                    if entry.node is not None:
                        self._version = min(self._version + 1, MAX_VERSION)
                        self._changed(EventKind.REVOKED, entry.node)
        self._announcer.announce()

    def expire(self) -> None:
        """Drops all records and verdicts whose lease has ended; call it now and then."""
        with self._lock:
            now = self._now_ms()
            self._expire(now)
            self._verdicts.expire(now)
        self._announcer.announce()

    def keep_only(self, node_ids: Collection[str]) -> None:
        """Drops everybody else: a server that was asked for some nodes told that these are all."""
        with self._lock:
            for entry in list(self._store.entries()):
                if entry.record.id not in node_ids and entry.record.id != self.owner:
                    self._store.drop(entry.record.id)
                    self._verdicts.forget(entry.record.id)
                    if entry.node is not None:
                        self._changed(EventKind.LEFT, replace(entry.node, status=NodeStatus.LEFT))
        self._announcer.announce()

    # Following

    def subscribe(self, callback: Callable[[TopologyEvent], object]) -> Callable[[], None]:
        """Calls back on every change, in order; returns what ends that.

        The callback runs in a thread that changes the topology, and must not block. What it
        raises is logged.
        """
        return self._announcer.subscribe(callback)

    def on_wake(self, waker: Callable[[], object]) -> Callable[[], None]:
        """Calls `waker` once after every change of log or version; returns what ends that."""
        return self._announcer.on_wake(waker)

    # Inside

    def _check_owner(self, node_id: str) -> None:
        if self.owner is not None and node_id != self.owner:
            raise NotOwnerError(node_id, self.owner)

    def _set(self, node: NodeInfo) -> NodeInfo:
        now = self._moment()
        node = replace(
            node,
            joined_at=node.joined_at or now,
            updated_at=now,
            status=NodeStatus.ALIVE,
            vouched_by=None,
        )
        self._write(node.id, node)
        return node

    def _write(self, node_id: str, info: NodeInfo | None, *, vouched: bool = False) -> None:
        held = self.get_record(node_id)
        floor = max(held.stamp if held else 0, self._own_floor if node_id == self.owner else 0)
        now = self._now_ms()
        stamp = max(now, floor + 1)
        if stamp > now + MAX_AHEAD * 1000:
            _log.warning(
                "the record of %s goes on from a stamp %d s ahead of this clock; others refuse it "
                "until then",
                node_id,
                (stamp - now) // 1000,
            )
        record = self._author.write(node_id, stamp, info, vouched=vouched)
        if not self._store.beats(record):
            return
        self._version = min(self._version + 1, MAX_VERSION)
        self._accept(record, None)

    def _accept(self, record: Record, origin: str | None) -> None:
        before = self._store.put(record, origin)
        if record.info is None:
            self._verdicts.forget(record.id)
        else:
            self._verdicts.refuted(record)
        entry = self._store.get(record.id)
        after = entry.node if entry else None
        if after is None:
            kind = EventKind.LEFT
            after = before and replace(before, status=NodeStatus.LEFT)
        else:
            kind = EventKind.UPDATED if before else EventKind.JOINED
        # A renewed lease changes the record, but nothing that a subscriber sees.
        self._changed(kind, after if after != before else None)

    def _take_verdict(self, content: SignedVerdict, origin: str | None) -> None:
        verdict = content.verdict
        subject, accuser = self._store.get(verdict.subject), self._store.get(verdict.accuser)
        if subject is None or subject.node is None or accuser is None or accuser.node is None:
            return
        if is_refuted(verdict, subject.record):
            return
        known = self._verdicts.get(verdict.subject, verdict.accuser) is not None
        is_own = verdict.accuser == self.owner
        if not known and not is_own and self._verdicts.count(verdict.accuser) >= MAX_ACCUSATIONS:
            _log.warning(
                "%s judges more than %d nodes; what it says of %s is dropped (from %s)",
                verdict.accuser,
                MAX_ACCUSATIONS,
                verdict.subject,
                origin,
            )
            return
        if self._verdicts.beats(content):
            self._verdicts.put(content, self._store.advance(), origin)
            self._announcer.moved()

    def _meet_own(self, record: Record) -> Record | None:
        """Looks at a record of the owner's id: another process may have written it."""
        if record.voucher is not None or record.instance == self._author.instance:
            return None
        held = self.get_record(record.id)
        self._own_floor = max(self._own_floor, record.stamp)
        return record if held is None or record.precedence > held.precedence else None

    def _raise_version(self, theirs: int, *, changed: bool) -> None:
        raised = max(self._version, min(theirs, self._version + MAX_VERSION_STEP))
        if changed and raised == self._version:
            raised += 1
        raised = min(raised, MAX_VERSION)
        if raised != self._version:
            self._version = raised
            self._announcer.moved()

    def _expire(self, now: int) -> None:
        for entry in self._store.expire(now, keep=self.owner):
            self._verdicts.forget(entry.record.id)
            if entry.node is not None:
                self._version = min(self._version + 1, MAX_VERSION)
                self._changed(EventKind.EXPIRED, entry.node)

    def _changed(self, kind: EventKind, node: NodeInfo | None) -> None:
        self._nodes = None
        self._updated_at = self._moment()
        if node is not None:
            self._announcer.note(TopologyEvent(kind, node, self._version))
        self._announcer.moved()

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)

    def _moment(self) -> datetime:
        # In milliseconds, as the wire has it: a node's times are the same at every node.
        return datetime.fromtimestamp(self._now_ms() / 1000, UTC)
