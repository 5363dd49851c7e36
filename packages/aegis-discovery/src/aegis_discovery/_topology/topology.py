"""The topology: what one process knows of the mesh, safe to use from any thread."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from aegis_discovery._model import NodeInfo, NodeStatus
from aegis_discovery._topology.changes import Changes
from aegis_discovery._topology.events import Announcer, TopologyEvent
from aegis_discovery._topology.merge import MergeResult, RecordMerger
from aegis_discovery.errors import NodeNotFoundError
from aegis_discovery.records._record import Clock, Record
from aegis_discovery.records._signer import RecordSigner
from aegis_discovery.records._verdict import Opinion, SignedVerdict, Verdict


@dataclass(frozen=True, slots=True)
class TopologySnapshot:
    """The whole topology at one moment: version, nodes and records belong together."""

    version: int
    updated_at: datetime
    nodes: Mapping[str, NodeInfo]
    digest: bytes
    records: tuple[Record, ...]


class Topology:
    """Every node of the mesh, by id.

    A topology without an owner (tests, tools) takes any change. One that belongs to a node takes
    changes of that node's record only; all else comes in by `merge`. Reading never blocks on I/O
    and never scans; every value handed out is immutable.

    Args:
        owner: The node id that this topology belongs to.
        signer: Writes and signs the records; by default one that signs nothing.
        clock: Unix time in seconds.
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
        self._lock = threading.RLock()
        self._announcer = Announcer(self._lock)
        signer = signer or RecordSigner(clock=clock)
        self._ledger = RecordMerger(owner, signer, clock, self._announcer)

    def __repr__(self) -> str:
        with self._lock:
            return (
                f"<Topology version={self.version} nodes={len(self.nodes)} "
                f"digest={self.digest.hex()[:12]}>"
            )

    # Reading

    @property
    def version(self) -> int:
        """Counts changes; for people and the seed protocol, it orders no record."""
        return self._ledger.version

    @property
    def log_position(self) -> int:
        """How far this topology's own log has come: counts changes of records and verdicts."""
        return self._ledger.store.position

    @property
    def updated_at(self) -> datetime:
        """When anything last changed here (UTC)."""
        return self._ledger.updated_at

    @property
    def digest(self) -> bytes:
        """SHA-256 based digest of all live records: equal where the same is known."""
        return self._ledger.store.live_digest

    @property
    def full_digest(self) -> bytes:
        """As `digest`, tombstones included: equal where a feed has nothing to tell."""
        return self._ledger.store.full_digest

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        """All nodes by id, in the order of their ids; a snapshot that never changes."""
        with self._lock:
            return self._ledger.nodes

    @property
    def is_full(self) -> bool:
        """Whether it holds as many nodes as it may; records of further ones are dropped."""
        return self._ledger.is_full

    def get_node(self, node_id: str) -> NodeInfo | None:
        """Returns a node, or None."""
        with self._lock:
            return self._ledger.get_node(node_id)

    def get_record(self, node_id: str) -> Record | None:
        """Returns the record, or tombstone, that is held of a node id."""
        with self._lock:
            return self._ledger.get_record(node_id)

    def get_service_providers(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the nodes that provide a service, in the order of their ids, less failed ones.

        The same tuple object comes back until one of these providers changes.
        """
        found = self._ledger.store.services.answers.get((name, version))
        if found is None:
            with self._lock:
                found = self._ledger.store.services.find(name, version)
        return found

    def get_nodes_by_service(self, name: str) -> tuple[NodeInfo, ...]:
        """Returns the nodes that provide any version of a service, as `get_service_providers`."""
        with self._lock:
            return self._ledger.store.services.find(name)

    def snapshot(self) -> TopologySnapshot:
        """Returns version, nodes and records of one moment."""
        with self._lock:
            records = tuple(entry.record for entry in self._ledger.store.entries())
            return TopologySnapshot(self.version, self.updated_at, self.nodes, self.digest, records)

    def changes_since(self, position: int) -> Changes:
        """Returns what changed after a position of this topology's own log."""
        with self._lock:
            ledger = self._ledger
            return Changes(
                tuple(ledger.store.changed_since(position)),
                tuple(ledger.verdicts.changed_since(position)),
                position,
                ledger.store.position,
                ledger.version,
                self.digest,
                ledger.store.signed_since,
            )

    def get_verdicts(self, node_id: str) -> tuple[Verdict, ...]:
        """Returns what is said of a node, the latest of each accuser, less what it refuted."""
        with self._lock:
            return self._ledger.get_verdicts(node_id)

    def get_verdict(self, node_id: str, accuser: str) -> SignedVerdict | None:
        """Returns the latest that one node said of another one."""
        with self._lock:
            return self._ledger.verdicts.get(node_id, accuser)

    @property
    def signers(self) -> frozenset[bytes]:
        """Fingerprints of the certificates that signed the records and verdicts held."""
        with self._lock:
            records = frozenset(entry.record.signer for entry in self._ledger.store.entries())
            return records | self._ledger.verdicts.signers

    # Changing

    def add_node(self, node: NodeInfo) -> NodeInfo:
        """Adds a node, or replaces what was known of it; returns it with its times set.

        Raises:
            NotOwnerError: If the topology belongs to another node.
        """
        with self._changing() as ledger:
            ledger.check_owner(node.id)
            return ledger.set(node)

    def update_node(self, node: NodeInfo) -> NodeInfo:
        """Replaces a node's entry.

        Raises:
            NodeNotFoundError: If there is none.
            NotOwnerError: If the topology belongs to another node.
        """
        with self._changing() as ledger:
            ledger.check_owner(node.id)
            known = ledger.get_node(node.id)
            if known is None:
                raise NodeNotFoundError(node.id)
            return ledger.set(replace(node, joined_at=node.joined_at or known.joined_at))

    def remove_node(self, node_id: str) -> None:
        """Removes a node; a tombstone keeps it from coming back.

        Raises:
            NodeNotFoundError: If there is none.
            NotOwnerError: If the topology belongs to another node.
        """
        with self._changing() as ledger:
            ledger.check_owner(node_id)
            if ledger.get_node(node_id) is None:
                raise NodeNotFoundError(node_id)
            ledger.write(node_id, None)

    def republish(self) -> None:
        """Renews the lease of the owner's record, above any stamp seen of it."""
        with self._changing() as ledger:
            node = ledger.get_node(self.owner) if self.owner else None
            if node is not None:
                ledger.write(node.id, replace(node, status=NodeStatus.ALIVE))

    def vouch(self, node: NodeInfo) -> None:
        """Publishes what a peer that signs nothing says of a node; never over a signed record.

        Raises:
            InvalidRecordError: If there is no room for it, or it is larger than a record may be.
        """
        with self._changing() as ledger:
            node = replace(node, status=NodeStatus.ALIVE, vouched_by=self.owner)
            ledger.write(node.id, node, vouched=True)

    def unvouch(self, node_id: str) -> None:
        """Removes a node again that this owner vouched for; anything else stays as it is."""
        with self._changing() as ledger:
            record = ledger.get_record(node_id)
            if record and record.info and record.voucher and record.voucher == self.owner:
                ledger.write(node_id, None, vouched=True)

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
        with self._changing() as ledger:
            return ledger.merge(records, version, origin)

    def publish_verdict(self, node_id: str, opinion: Opinion, *, held: bool = False) -> None:
        """Publishes the owner's verdict on what is held of another node; nothing of unknown ones.

        Args:
            node_id: Whom it is about.
            opinion: What the owner says of it.
            held: Whether a newer record does not refute it.
        """
        with self._changing() as ledger:
            ledger.publish_verdict(node_id, opinion, held=held)

    def merge_verdicts(
        self, verdicts: Iterable[SignedVerdict], *, origin: str | None = None
    ) -> None:
        """Joins verified verdicts of nodes on nodes, the latest of each accuser on each subject.

        One on somebody, or by somebody, that is not in the topology is dropped.
        """
        with self._changing() as ledger:
            for content in verdicts:
                ledger.take_verdict(content, origin)

    def advance_version_past(self, version: int) -> int:
        """Raises the version above a peer's, so that it adopts ours; returns the version then."""
        with self._changing() as ledger:
            return ledger.advance_version_past(version)

    def set_status(self, node_id: str, stamp: int, status: NodeStatus) -> bool:
        """Overlays what was derived of a node's record; void where the record changed since.

        Returns:
            Whether anything changed.
        """
        with self._changing() as ledger:
            return ledger.set_status(node_id, stamp, status)

    def remove_revoked(self, signers: Collection[bytes]) -> None:
        """Drops all records that were signed with these certificates (SHA-256), but our own."""
        with self._changing() as ledger:
            ledger.remove_revoked(signers)

    def expire(self) -> None:
        """Drops all records and verdicts whose lease has ended; call it now and then."""
        with self._changing() as ledger:
            ledger.expire()

    def retain(self, node_ids: Collection[str]) -> None:
        """Drops everybody else: a server that was asked for some nodes told that these are all."""
        with self._changing() as ledger:
            ledger.retain(node_ids)

    # Following

    def subscribe(self, callback: Callable[[TopologyEvent], object]) -> Callable[[], None]:
        """Calls back on every change, in order; returns what ends that.

        The callback runs in a thread that changes the topology, and must not block. What it
        raises is logged.
        """
        return self._announcer.subscribe(callback)

    def subscribe_changed(self, waker: Callable[[], object]) -> Callable[[], None]:
        """Calls `waker` once after every change of log or version; returns what ends that."""
        return self._announcer.subscribe_changed(waker)

    @contextmanager
    def _changing(self) -> Iterator[RecordMerger]:
        """Holds the lock for a change, and announces it afterwards."""
        with self._lock:
            yield self._ledger
        self._announcer.announce()
