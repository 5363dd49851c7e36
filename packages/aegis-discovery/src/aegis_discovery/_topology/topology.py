"""The topology: what one process knows of the mesh, safe to use from any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from aegis_discovery._model import NodeInfo, NodeStatus
from aegis_discovery._topology.changes import Changes
from aegis_discovery._topology.events import TopologyEvent
from aegis_discovery._topology.limits import holds_max_nodes
from aegis_discovery._topology.merge import MergeResult, RecordMerger
from aegis_discovery._topology.nodes import NodeMap
from aegis_discovery._topology.providers import ProviderChanges, ProviderIndex
from aegis_discovery._topology.store import changed_node
from aegis_discovery.errors import NodeNotFoundError, NotOwnerError
from aegis_discovery.records._record import Record
from aegis_discovery.records._signer import RecordSigner
from aegis_discovery.records._verdict import SignedVerdict, Verdict, is_refuted


class TopologySnapshot(NamedTuple):
    """The whole topology at one moment: version, nodes and records belong together."""

    version: int
    updated_at: datetime
    nodes: Mapping[str, NodeInfo]
    digest: bytes
    records: tuple[Record, ...]


class Topology(RecordMerger):
    """Every node of the mesh, by id.

    A topology without an owner (tests, tools) takes any change. A topology that belongs to a node
    takes changes of that node's record only; everything else arrives by `merge`. Reading never
    blocks on I/O and never scans; every value returned is immutable.

    Args:
        owner: The node id that this topology belongs to.
        signer: Signs the records; by default a signer without a key.
        clock: Unix time in seconds.
    """

    def __repr__(self) -> str:
        with self._lock:
            return (
                f"<Topology version={self.version} nodes={self.node_count} "
                f"digest={self.digest.hex()[:12]}>"
            )

    @property
    def version(self) -> int:
        """Counts changes, for people and for the unsigned protocol; it orders no record."""
        return self._version

    @property
    def log_position(self) -> int:
        """The last position of this topology's own log: counts changes of records and verdicts."""
        return self._store.position

    @property
    def updated_at(self) -> datetime:
        """The time of the last change here (UTC)."""
        return self._moment(self._updated_at)

    @property
    def digest(self) -> bytes:
        """SHA-256 based digest of all live records: equal on all nodes that hold the same."""
        return self._store.live_digest

    @property
    def full_digest(self) -> bytes:
        """As `digest`, tombstones included: if equal on both sides, a feed has nothing to send."""
        return self._store.full_digest

    def region_digest(self, region: str) -> bytes:
        """As `digest`, of the live records of one region."""
        with self._lock:
            return self._store.region_digest(region)

    @property
    def regions_digest(self) -> bytes:
        """Digest of the names of all regions that have live records."""
        return self._store.regions_digest

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        """All nodes by id, in the order of their ids; a snapshot that never changes."""
        with self._lock:
            return NodeMap(self._store.nodes.all())

    @property
    def node_count(self) -> int:
        """The number of nodes."""
        return self._store.live

    @property
    def is_full(self) -> bool:
        """Whether it holds as many nodes as it may; records of further nodes are dropped."""
        return holds_max_nodes(self._store)

    def get_node(self, node_id: str) -> NodeInfo | None:
        """Returns a node, or None."""
        with self._lock:
            return self._store.get_node(node_id)

    def get_record(self, node_id: str) -> Record | None:
        """Returns the record, or the tombstone, that is held for a node id."""
        with self._lock:
            return self._store.get_record(node_id)

    def get_nodes_by_identity(self, identity: str) -> tuple[NodeInfo, ...]:
        """Returns the node of an identity, or its workers; without an order.

        A node that is vouched for is returned only if the identity signs no record itself.
        """
        with self._lock:
            held = self._store.of_identity(identity)
        signed = [entry for entry in held if entry.record.voucher is None]
        return tuple(entry.node for entry in signed or held if entry.node is not None)

    def is_signed(self, identity: str) -> bool:
        """Tells whether an identity has signed a record of its node or of a worker, or left."""
        with self._lock:
            return any(e.record.voucher is None for e in self._store.of_identity(identity))

    def find_signed(self, names: Iterable[str]) -> str | None:
        """Returns the first of these names of a certificate that TLS accepts for another node.

        Only nodes with a record of their own count, not those that are vouched for. A name may be
        a wildcard.
        """
        with self._lock:
            return next((name for name in names if name in self._store.signed), None)

    def get_service_providers(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the nodes that provide a service, in the order of their ids, except failed ones.

        Returns the same tuple object until one of these providers changes.
        """
        found = self._store.providers.get(name, version)
        if found is None:
            with self._lock:
                found = self._store.providers.find(name, version)
        return found

    def get_nodes_by_service(self, name: str) -> tuple[NodeInfo, ...]:
        """Returns the nodes that provide any version of a service, as `get_service_providers`."""
        with self._lock:
            return self._store.providers.find_name(name)

    def get_service_versions(self, name: str) -> tuple[str, ...]:
        """Returns the versions of a service that some node provides, sorted."""
        with self._lock:
            return self._store.providers.versions(name)

    @property
    def provider_index(self) -> ProviderIndex:
        """The index of providers. Without a lock it can only tell whether anything changed."""
        return self._store.providers

    def provider_changes_since(self, position: int) -> ProviderChanges | None:
        """Returns the providers that changed after a position of `provider_index`.

        Returns None if that is too long ago: then all providers have to be read again.
        """
        with self._lock:
            return self._store.providers.changes_since(position)

    def snapshot(self) -> TopologySnapshot:
        """Returns version, nodes and records of one moment."""
        with self._lock:
            records = tuple(entry.record for entry in self._store.entries())
            return TopologySnapshot(self.version, self.updated_at, self.nodes, self.digest, records)

    def changes_since(self, position: int, *, region: str | None = None) -> Changes:
        """Returns what changed after a position of this topology's own log.

        With a region, records and verdicts of other regions are left out, and the digest is that
        of the region.
        """
        with self._lock:
            return Changes(
                tuple(self._store.changed_since(position)),
                tuple(self._verdicts.changed_since(position)),
                position,
                self.log_position,
                self.version,
                self.digest if region is None else self._store.region_digest(region),
                self._store.signed_since,
                self._store.region_of,
                region,
            )

    def get_verdicts(self, node_id: str) -> tuple[Verdict, ...]:
        """Returns the latest verdict of each accuser on a node, except those that it refuted."""
        with self._lock:
            record, held = self._store.get_record(node_id), self._verdicts.of(node_id)
            if record is None or not held:
                return ()
            verdicts = [content.verdict for content in held.values()]
            return tuple([v for v in verdicts if not is_refuted(v, record)])

    def get_verdict(self, node_id: str, accuser: str) -> SignedVerdict | None:
        """Returns the latest verdict of one node on another."""
        with self._lock:
            return self._verdicts.get(node_id, accuser)

    @property
    def signers(self) -> frozenset[bytes]:
        """Fingerprints of the certificates that signed the records and verdicts held."""
        with self._lock:
            records = frozenset(entry.record.signer for entry in self._store.entries())
            return records | self._verdicts.signers

    def add_node(self, node: NodeInfo) -> NodeInfo:
        """Adds a node, or replaces its record; returns the node with its times set.

        Raises:
            NotOwnerError: If the topology belongs to another node.
        """
        with self._changing():
            self._check_owner(node.id)
            return self._set(node)

    def update_node(self, node: NodeInfo) -> NodeInfo:
        """Replaces a node's record; returns the node with its times set.

        Raises:
            NodeNotFoundError: If there is none.
            NotOwnerError: If the topology belongs to another node.
        """
        with self._changing():
            known = self._own_node(node.id)
            return self._set(node, known.joined_at)

    def remove_node(self, node_id: str) -> None:
        """Removes a node; a tombstone keeps older records from restoring it.

        Raises:
            NodeNotFoundError: If there is none.
            NotOwnerError: If the topology belongs to another node.
        """
        with self._changing():
            self._own_node(node_id)
            self._write(node_id, None)

    def republish(self) -> None:
        """Renews the lease of the owner's record, above any stamp that was seen of it."""
        with self._changing():
            node = self._store.get_node(self.owner) if self.owner else None
            if node is not None:
                self._write(node.id, changed_node(node, status=NodeStatus.ALIVE))

    def vouch(self, node: NodeInfo) -> None:
        """Publishes a node for a peer that signs nothing; never replaces a signed record.

        Raises:
            InvalidRecordError: If there is no room for it, or it is larger than a record may be.
        """
        with self._changing():
            node = changed_node(node, status=NodeStatus.ALIVE, vouched_by=self.owner)
            self._write(node.id, node, vouched=True)

    def unvouch(self, node_id: str) -> None:
        """Removes a node that this owner vouched for; ignores any other node."""
        with self._changing():
            record = self._store.get_record(node_id)
            if record and record.info and record.voucher and record.voucher == self.owner:
                self._write(node_id, None, vouched=True)

    def merge(self, other: Topology | TopologySnapshot) -> MergeResult:
        """Merges another topology into this one, record by record; the higher stamp wins.

        No record that only one side has is lost: the result does not depend on order or repetition
        (a state-based CRDT: Shapiro et al., 2011).
        """
        theirs = other.snapshot() if isinstance(other, Topology) else other
        return self.merge_records(theirs.records, version=theirs.version)

    def _check_owner(self, node_id: str) -> None:
        if self.owner is not None and node_id != self.owner:
            raise NotOwnerError(node_id, self.owner)

    def _own_node(self, node_id: str) -> NodeInfo:
        self._check_owner(node_id)
        node = self._store.get_node(node_id)
        if node is None:
            raise NodeNotFoundError(node_id)
        return node

    def _set(self, node: NodeInfo, joined_at: datetime | None = None) -> NodeInfo:
        now = self._moment(self._now_ms())
        node = changed_node(
            node,
            joined_at=node.joined_at or joined_at or now,
            updated_at=now,
            status=NodeStatus.ALIVE,
            vouched_by=None,
        )
        self._write(node.id, node)
        return node

    def change_signer(self, signer: RecordSigner) -> None:
        """Signs further records with this signer."""
        with self._lock:
            self._signer = signer

    def subscribe(self, callback: Callable[[TopologyEvent], object]) -> Callable[[], None]:
        """Calls back on every change, in order; returns the function that unsubscribes.

        The callback runs in a thread that changes the topology, and must not block. What it
        raises is logged.
        """
        return self._events.subscribe(callback)

    def subscribe_changed(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Calls `listener` once after every change of log or version; returns what unsubscribes it.

        The listener must neither block nor raise.
        """
        return self._events.subscribe_changed(listener)
