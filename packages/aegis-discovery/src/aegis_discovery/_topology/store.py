"""The records that one process holds: which one counts, what changed when, who provides what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from aegis_discovery._model import NodeInfo, NodeStatus
from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery.records._record import Record

_DIGEST_SIZE = 32
_DIGEST_MODULUS = 1 << (8 * _DIGEST_SIZE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One node id's place in the store.

    Attributes:
        record: The record that counts.
        node: What queries hand out, with the derived status; None for a tombstone.
        record_position: When the record came in, in changes of this store.
        signed_since: When the first of its records came in of those that this one's certificate
            signed without a break.
        status_position: When the status last changed.
        origin: The node id that the record came from; None for our own changes.
    """

    record: Record
    node: NodeInfo | None
    record_position: int
    signed_since: int
    status_position: int
    origin: str | None


class RecordStore:
    """Holds the greatest record per node id, and keeps log, digests and service index in step.

    The log costs nothing of its own: entries are kept in the order of their last change, so what a
    reader at some position lacks is the tail, with each node in it once, however slow the reader.

    Attributes:
        services: Who provides what.
        vouched: How many live records there are by each voucher.
        withdrawn: How many tombstones.
    """

    def __init__(self, log_limiter: LogLimiter) -> None:
        self.position = 0
        self._log_limiter = log_limiter
        self._entries: dict[str, Entry] = {}
        self._first_end: float = math.inf
        self.vouched: Counter[str] = Counter()
        self.withdrawn: Counter[str] = Counter()
        self.live = 0
        self._live_sum = 0
        self._full_sum = 0
        self.services = ServiceIndex()

    @property
    def removed(self) -> int:
        """How many tombstones are held."""
        return len(self._entries) - self.live

    @property
    def live_digest(self) -> bytes:
        """Names the set of live records: equal on all nodes that know the same."""
        return self._live_sum.to_bytes(_DIGEST_SIZE)

    @property
    def full_digest(self) -> bytes:
        """Names the set of all records, tombstones included."""
        return self._full_sum.to_bytes(_DIGEST_SIZE)

    def get(self, node_id: str) -> Entry | None:
        """Returns what is held of a node id, tombstones included."""
        return self._entries.get(node_id)

    def entries(self) -> Iterator[Entry]:
        """Goes through all entries, the least recently changed one first."""
        return iter(self._entries.values())

    def changed_since(self, position: int) -> list[Entry]:
        """Returns the entries that changed after a position, in the order of their changes."""
        tail: list[Entry] = []
        for entry in reversed(self._entries.values()):
            if max(entry.record_position, entry.status_position) <= position:
                break
            tail.append(entry)
        tail.reverse()
        return tail

    def advance(self) -> int:
        """Returns the next position of the log."""
        self.position += 1
        return self.position

    def signed_since(self, node_id: str, signer: bytes) -> int | None:
        """Returns the position since which this certificate signs a node's record, if it does.

        Whoever holds the log up to there holds the certificate.
        """
        entry = self._entries.get(node_id)
        return entry.signed_since if entry and entry.record.signer == signer else None

    def beats(self, record: Record) -> bool:
        """Tells whether a record would replace what is held of its node id."""
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

    def put(self, record: Record, origin: str | None = None) -> NodeInfo | None:
        """Stores a record over what was held of its id; returns what queries showed before."""
        position = self.advance()
        held = self._entries.get(record.id)
        before = held.node if held else None
        since = self.signed_since(record.id, record.signer)
        self._take_out(held)
        node = record.info
        status_position = 0
        if held and node and before and _is_same_life(record, held.record):
            # A new record alone clears nothing: whether it refutes is worked out from verdicts.
            node = replace(node, status=before.status)
            status_position = held.status_position
        self._append(Entry(record, node, position, since or position, status_position, origin))
        self._full_sum = (self._full_sum + record.digest) % _DIGEST_MODULUS
        if node is not None:
            self._live_sum = (self._live_sum + record.digest) % _DIGEST_MODULUS
            self.services.add(node)
            self.vouched[record.voucher or ""] += 1
            self.live += 1
        else:
            self.withdrawn[record.voucher or ""] += 1
        self._first_end = min(self._first_end, record.expires_at)
        return before

    def set_status(self, node_id: str, status: NodeStatus) -> NodeInfo:
        """Overlays the derived status of a live node; returns the node as queries show it now."""
        entry = self._entries[node_id]
        assert entry.node is not None, node_id  # noqa: S101 - the caller looked
        position = self.advance()
        node = replace(entry.node, status=status)
        self.services.remove(entry.node)
        self.services.add(node)
        self._append(replace(entry, node=node, status_position=position))
        return node

    def expire(self, now: int, *, keep: str | None = None) -> list[Entry]:
        """Drops all entries whose lease ended by `now` (Unix milliseconds) and returns them.

        The live record of `keep` stays: a node that slept past its lease still knows itself.
        """
        if now < self._first_end:
            return []
        leased = [e for e in self._entries.values() if e.record.id != keep or e.node is None]
        dropped = [entry for entry in leased if entry.record.expires_at <= now]
        for entry in dropped:
            self.drop(entry.record.id)
        ends = (e.record.expires_at for e in leased if e.record.expires_at > now)
        self._first_end = min(ends, default=math.inf)
        return dropped

    def drop(self, node_id: str) -> None:
        """Forgets what is held of a node id."""
        self._take_out(self._entries.pop(node_id, None))

    def _append(self, entry: Entry) -> None:
        self._entries.pop(entry.record.id, None)
        self._entries[entry.record.id] = entry

    def _take_out(self, entry: Entry | None) -> None:
        if entry is None:
            return
        self._full_sum = (self._full_sum - entry.record.digest) % _DIGEST_MODULUS
        if entry.node is not None:
            self._live_sum = (self._live_sum - entry.record.digest) % _DIGEST_MODULUS
            self.services.remove(entry.node)
            self.vouched[entry.record.voucher or ""] -= 1
            self.live -= 1
        else:
            self.withdrawn[entry.record.voucher or ""] -= 1


def _is_same_life(one: Record, other: Record) -> bool:
    if one.voucher or other.voucher:
        return bool(one.voucher and other.voucher)
    return one.instance == other.instance


def _equivocates(one: Record, other: Record) -> bool:
    same = one.precedence[:2] == other.precedence[:2] and one.instance == other.instance
    return same and one.digest != other.digest


class ServiceIndex:
    """Providers by service, kept per change, so that no query ever looks at all nodes.

    Attributes:
        answers: What was asked for and has not changed since; may be read without a lock.
    """

    def __init__(self) -> None:
        self._providers: dict[tuple[str, str], dict[str, NodeInfo]] = {}
        self._versions: dict[str, set[str]] = {}
        self.answers: dict[tuple[str, ...], tuple[NodeInfo, ...]] = {}

    def add(self, node: NodeInfo) -> None:
        """Lists a node under its services, unless it is failed."""
        if node.status is NodeStatus.FAILED:
            return
        for service in node.services:
            key = (service.name, service.version)
            if key not in self._providers:
                self._providers[key] = {}
                self._versions.setdefault(service.name, set()).add(service.version)
            self._providers[key][node.id] = node
            self._forget_sorted(key)

    def remove(self, node: NodeInfo) -> None:
        """Takes a node out again; it need not be listed."""
        for service in node.services:
            key = (service.name, service.version)
            listed = self._providers.get(key, {})
            if listed.pop(node.id, None) is None:
                continue
            self._forget_sorted(key)
            if not listed:
                del self._providers[key]
                versions = self._versions[service.name]
                versions.remove(service.version)
                if not versions:
                    del self._versions[service.name]

    def find(self, *key: str) -> tuple[NodeInfo, ...]:
        """Returns the nodes under (name, version) or (name,), in the order of their ids."""
        found = self.answers.get(key)
        if found is None:
            listed = self._listed(*key)
            if not listed:
                return ()
            found = self.answers[key] = tuple(listed[node_id] for node_id in sorted(listed))
        return found

    def _listed(self, name: str, version: str | None = None) -> Mapping[str, NodeInfo]:
        if version is not None:
            return self._providers.get((name, version), {})
        return {
            node_id: node
            for version in self._versions.get(name, ())
            for node_id, node in self._providers[name, version].items()
        }

    def _forget_sorted(self, key: tuple[str, str]) -> None:
        self.answers.pop(key, None)
        self.answers.pop(key[:1], None)
