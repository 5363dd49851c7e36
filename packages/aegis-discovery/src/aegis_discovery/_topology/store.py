"""The records that one process holds, with their log and digests."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from aegis_certs import matching_names, owner_of

from aegis_discovery._model import NodeInfo, NodeStatus
from aegis_discovery._runtime.frozen import changer_of
from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery._topology.nodes import NodeList
from aegis_discovery._topology.providers import ProviderIndex
from aegis_discovery.records._record import Record

changed_node = changer_of(NodeInfo)
"""Returns a node with other fields."""

_DIGEST_SIZE = 32
_DIGEST_MODULUS = 1 << (8 * _DIGEST_SIZE)
_NAMES_SIZE = 8


class Entry(NamedTuple):
    """What the store holds for one node id.

    Attributes:
        record: The record that counts.
        node: What queries return, with the derived status; None for a tombstone.
        record_position: The log position at which the record was stored.
        signed_since: The log position since which this record's certificate has signed all records
            of the node.
        status_position: The log position at which the status last changed.
        origin: The node id that sent the record; None for our own changes.
        region: The node's region, for a tombstone the last one that is known; None for a tombstone
            of a node that was never known.
    """

    record: Record
    node: NodeInfo | None
    record_position: int
    signed_since: int
    status_position: int
    origin: str | None
    region: str | None


class Put(NamedTuple):
    """What queries returned for a node id before a record was stored, and what they return now."""

    before: NodeInfo | None
    after: NodeInfo | None


class RecordStore:
    """Holds the record with the highest precedence per node id, with log, digests and index.

    The log needs no memory of its own: entries are kept in the order of their last change. So what
    a reader at some position lacks is the tail, with each node in it once, however slow the reader.

    Attributes:
        first_end: When the first lease may end (Unix milliseconds); nothing expires before.
        nodes: The live nodes.
        providers: The providers of each service.
        vouched: The number of live records that each identity vouches for.
        withdrawn: The number of tombstones by each of them.
        signed: The number of live nodes with a record of their own, by each DNS name of a
            certificate that TLS accepts for them.
    """

    def __init__(self, log_limiter: LogLimiter) -> None:
        self.position = 0
        self._log_limiter = log_limiter
        self._entries: dict[str, Entry] = {}
        self.first_end: float = math.inf
        self._workers: dict[str, tuple[str, ...]] = {}
        self.vouched: Counter[str] = Counter()
        self.withdrawn: Counter[str] = Counter()
        self.signed: dict[str, int] = {}
        self._live_sum = 0
        self._full_sum = 0
        self._region_sums: dict[str, tuple[int, int]] = {}
        self._region_names = 0
        self.nodes = NodeList()
        self.providers = ProviderIndex()

    @property
    def live(self) -> int:
        """The number of live nodes."""
        return len(self.nodes)

    @property
    def removed(self) -> int:
        """The number of tombstones."""
        return len(self._entries) - self.live

    @property
    def live_digest(self) -> bytes:
        """Identifies the set of live records: equal on all nodes that hold the same."""
        return self._live_sum.to_bytes(_DIGEST_SIZE)

    @property
    def full_digest(self) -> bytes:
        """Identifies the set of all records, tombstones included."""
        return self._full_sum.to_bytes(_DIGEST_SIZE)

    def region_digest(self, region: str) -> bytes:
        """Identifies the set of live records of one region."""
        return self._region_sums.get(region, (0, 0))[1].to_bytes(_DIGEST_SIZE)

    @property
    def regions_digest(self) -> bytes:
        """Identifies the set of regions that have live records, by their names alone."""
        return self._region_names.to_bytes(_NAMES_SIZE)

    def get(self, node_id: str) -> Entry | None:
        """Returns the entry of a node id; also that of a tombstone."""
        return self._entries.get(node_id)

    def get_node(self, node_id: str) -> NodeInfo | None:
        """Returns a live node, or None."""
        entry = self._entries.get(node_id)
        return entry.node if entry else None

    def get_record(self, node_id: str) -> Record | None:
        """Returns the record, or the tombstone, of a node id."""
        entry = self._entries.get(node_id)
        return entry.record if entry else None

    def of_identity(self, identity: str) -> list[Entry]:
        """Returns the entries of a node and of the workers of its identity, with tombstones."""
        ids = (identity, *self._workers.get(identity, ()))
        return [entry for node_id in ids if (entry := self._entries.get(node_id))]

    def entries(self) -> Iterator[Entry]:
        """Iterates over all entries, the least recently changed one first."""
        return iter(self._entries.values())

    def changed_since(self, position: int) -> list[Entry]:
        """Returns the entries that changed after a position, in the order of their changes."""
        tail = []
        for entry in reversed(self._entries.values()):
            if entry.record_position <= position and entry.status_position <= position:
                break
            tail.append(entry)
        return tail[::-1]

    def advance(self) -> int:
        """Returns the next position of the log."""
        self.position += 1
        return self.position

    def region_of(self, node_id: str) -> str | None:
        """Returns the region of a node; None if it is not known."""
        entry = self._entries.get(node_id)
        return entry.region if entry else None

    def signed_since(self, node_id: str, signer: bytes) -> int | None:
        """Returns the position since which this certificate has signed all records of a node.

        A reader that holds the log up to there holds the certificate. None if another certificate
        signed the record.
        """
        entry = self._entries.get(node_id)
        return entry.signed_since if entry and entry.record.signer == signer else None

    def is_superseded_by(self, record: Record) -> bool:
        """Tells whether a record would replace the one that is held for its node id."""
        held = self._entries.get(record.id)
        if held is None:
            return True
        if held.record is record:
            return False
        if _equivocates(record, held.record):
            node_id = record.voucher or record.id
            self._log_limiter.warn(
                node_id,
                "equivocation",
                "%s signed two records with the stamp %d; the one with the greater hash counts",
                node_id,
                record.stamp,
            )
        return record.precedence > held.record.precedence

    def put(self, record: Record, origin: str | None = None) -> Put:
        """Stores a record over the one held for its id."""
        position = since = self.advance()
        node_id, node = record.id, record.info
        held = self._entries.get(node_id)
        before = region = None
        status_position = 0
        if held is not None:
            self._count(held, -1)
            before, region = held.node, held.region
            if held.record.signer == record.signer:
                since = held.signed_since
            if node and before:
                if _is_same_life(record, held.record):
                    # A new record does not clear the status: the verdicts decide whether it
                    # refutes them.
                    if node.status is not before.status:
                        node = changed_node(node, status=before.status)
                    status_position = held.status_position
                if node == before:
                    node = before  # a renewed lease changes nothing that a query returns
        elif "#" in node_id:
            identity = owner_of(node_id)
            self._workers[identity] = (*self._workers.get(identity, ()), node_id)
        if node is not None:
            region = node.region
        entry = Entry(record, node, position, since, status_position, origin, region)
        if held is not None:
            del self._entries[node_id]  # the latest change comes last
        self._entries[node_id] = entry
        self._count(entry, 1)
        self._change_node(before, node)
        self.first_end = min(self.first_end, record.expires_at)
        return Put(before, node)

    def set_status(self, node_id: str, status: NodeStatus) -> NodeInfo:
        """Sets the derived status of a live node; returns the node as queries return it now."""
        entry = self._entries[node_id]
        assert entry.node is not None, node_id  # noqa: S101 - the caller checked it
        position = self.advance()
        node = changed_node(entry.node, status=status)
        del self._entries[node_id]  # the latest change comes last
        self._entries[node_id] = entry._replace(node=node, status_position=position)
        self._change_node(entry.node, node)
        return node

    def expire(self, now: int, *, keep: str | None = None) -> list[Entry]:
        """Drops all entries whose lease ended by `now` (Unix milliseconds) and returns them.

        The live record of `keep` remains: a node that slept past its lease still knows itself.
        """
        if now < self.first_end:
            return []
        leased = [e for e in self._entries.values() if e.record.id != keep or e.node is None]
        dropped = [entry for entry in leased if entry.record.expires_at <= now]
        for entry in dropped:
            self.drop(entry.record.id)
        ends = (e.record.expires_at for e in leased if e.record.expires_at > now)
        self.first_end = min(ends, default=math.inf)
        return dropped

    def drop(self, node_id: str) -> None:
        """Forgets the entry of a node id."""
        entry = self._entries.pop(node_id, None)
        if entry:
            self._count(entry, -1)
            self._change_node(entry.node, None)
            if "#" in node_id:
                identity = owner_of(node_id)
                others = tuple(i for i in self._workers.pop(identity) if i != node_id)
                if others:
                    self._workers[identity] = others

    def _change_node(self, before: NodeInfo | None, after: NodeInfo | None) -> None:
        """Updates what queries read."""
        if after is before:
            return
        self.providers.change(before, after)
        if after is not None:
            self.nodes.put(after)
        elif before is not None:
            self.nodes.remove(before.id)

    def _count(self, entry: Entry, by: int) -> None:
        """Adds an entry (1) to digests and counts, or removes it (-1)."""
        record, node = entry.record, entry.node
        digest = by * record.digest
        self._full_sum = (self._full_sum + digest) % _DIGEST_MODULUS
        if node is None:
            self.withdrawn[owner_of(record.voucher or "")] += by
            return
        self._live_sum = (self._live_sum + digest) % _DIGEST_MODULUS
        region = node.region
        count, total = self._region_sums.pop(region, (0, 0))
        if 0 in (count, count + by):
            self._region_names ^= _hash_of_name(region)
        if count + by:
            self._region_sums[region] = count + by, (total + digest) % _DIGEST_MODULUS
        if record.voucher is not None:
            self.vouched[owner_of(record.voucher)] += by
            return
        signed = self.signed
        for name in matching_names(owner_of(record.id)):
            number = signed.get(name, 0) + by
            if number:
                signed[name] = number
            else:
                del signed[name]


@lru_cache(maxsize=256)
def _hash_of_name(region: str) -> int:
    return int.from_bytes(hashlib.sha256(region.encode()).digest()[:_NAMES_SIZE])


def _is_same_life(one: Record, other: Record) -> bool:
    if one.voucher or other.voucher:
        return bool(one.voucher and other.voucher)
    return one.instance == other.instance


def _equivocates(one: Record, other: Record) -> bool:
    same = one.precedence[:2] == other.precedence[:2] and one.instance == other.instance
    return same and one.digest != other.digest
