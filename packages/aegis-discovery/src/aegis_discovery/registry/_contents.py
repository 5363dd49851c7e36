"""What one process has read from a registry. Pure: it is told of keys and values."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery._topology.limits import MAX_NODES
from aegis_discovery.feed._parts import MessagePart
from aegis_discovery.records._record import Record
from aegis_discovery.registry._codec import InvalidEntryError, add_to_message
from aegis_discovery.registry._keys import NODES, Keys

_log = logging.getLogger("aegis.registry")

BATCH = 8
"""Values in one message for the reader of feeds, which checks two signatures for most of them."""

MAX_READ = 4 * MAX_NODES
"""Keys of a mesh that are read: its nodes, and three verdicts on each."""

Change = tuple[bytes, bytes | None]
"""A key and its value; None where the key was deleted."""


class Contents:
    """Translates keys and values into messages of a feed, and knows which nodes have a key.

    A registry is not trusted: what a key holds is verified as what a feed brings, and a key that
    is gone proves nothing.

    Args:
        keys: The keys of the mesh.
        own_id: The id of this node; empty for a client.

    Attributes:
        present: The nodes whose key is there.
        holder: The record in this node's own key, not verified; None without one.
    """

    def __init__(self, keys: Keys, own_id: str = "") -> None:
        self._keys = keys
        self._own_id = own_id
        self._log_limiter = LogLimiter(_log)
        self._reading: set[str] | None = None
        self._count = 0
        self._vanished: dict[str, None] = {}
        self._returned: dict[str, None] = {}
        self.present: set[str] = set()
        self.holder: Record | None = None

    def begin(self) -> None:
        """Begins to read everything anew."""
        self._reading, self._count = set(), 0
        self.holder = None

    def end(self) -> None:
        """Ends the reading: nodes whose key was not read have none any more."""
        read, self._reading = self._reading or set(), None
        for node_id in sorted(self.present - read):
            self._note_gone(node_id)

    def messages(self, changes: Iterable[Change]) -> Iterator[MessagePart]:
        """Yields what the changes say, a few values at a time."""
        message, size = MessagePart(), 0
        for key, value in changes:
            size += self._apply(message, key, value)
            if size >= BATCH:
                yield message
                message, size = MessagePart(), 0
        if size:
            yield message

    def take_changes(self) -> tuple[list[str], list[str]]:
        """Returns the nodes whose key vanished, and those whose key is there again."""
        vanished, returned = list(self._vanished), list(self._returned)
        self._vanished.clear()
        self._returned.clear()
        return vanished, returned

    def _apply(self, message: MessagePart, raw_key: bytes, value: bytes | None) -> int:
        """Applies one change; returns how many values it added to the message."""
        key = self._keys.parse(raw_key)
        if key is None:
            if value is not None:
                self._warn(raw_key, "no process of a mesh writes such a key")
            return 0
        if value is None:
            if key.folder == NODES:
                self._note_gone(key.names[0])
            return 0
        if self._reading is not None:
            self._count += 1
            if self._count > MAX_READ:
                self._warn(raw_key, f"there are more than {MAX_READ} keys; the rest is not read")
                return 0
        try:
            record = add_to_message(message, key, value)
        except InvalidEntryError as error:
            self._warn(raw_key, str(error))
            return 0
        if record is not None:
            self._note_present(record)
        return 1

    def _note_present(self, record: Record) -> None:
        node_id = record.id
        if node_id == self._own_id:
            self.holder = record
            return
        if record.info is None:
            # A tombstone: the node left, and its key is not missed.
            self.present.discard(node_id)
            self._vanished.pop(node_id, None)
            return
        if len(self.present) >= MAX_NODES and node_id not in self.present:
            return
        if self._reading is not None:
            self._reading.add(node_id)
        if node_id not in self.present:
            self.present.add(node_id)
            self._returned[node_id] = None
            self._vanished.pop(node_id, None)

    def _note_gone(self, node_id: str) -> None:
        if node_id == self._own_id:
            self.holder = None
        elif node_id in self.present:
            self.present.discard(node_id)
            self._vanished[node_id] = None
            self._returned.pop(node_id, None)

    def _warn(self, key: bytes, reason: str) -> None:
        shown = ascii(key[:200].decode("utf-8", "replace"))
        # One source: whoever writes there could invent any number of keys.
        self._log_limiter.warn("", reason, "the key %s is passed over: %s", shown, reason)
