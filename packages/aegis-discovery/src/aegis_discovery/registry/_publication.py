"""What one process has to write to a registry, and when. Pure: the time is an argument."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from aegis_discovery.transport._backoff import Backoff

SPREAD = 2.0
"""Seconds over which the nodes of a mesh write again after their leases ended together."""

REPAIR = 0.2, 10.0
"""Seconds before a key is written again that somebody else changed or deleted: first, and at most.
"""

REPAIR_SHARED = 1.0, 60.0
"""The same for keys that others write too: a process that lags must not undo what is newer."""

QUIET = 60.0
"""Seconds after which such a change counts as the first one again."""


@dataclass(frozen=True, slots=True)
class Write:
    """A key to write, or to delete if the value is None."""

    key: bytes
    value: bytes | None
    is_leased: bool = True


@dataclass(slots=True)
class _Entry:
    """A key of this process.

    Attributes:
        wanted: What it should hold; None for nothing.
        held: What it holds, as far as is known.
        revision: That of `held`.
        due: When to write it, if the two differ.
    """

    wanted: bytes | None
    is_leased: bool
    backoff: Backoff
    held: bytes | None = None
    revision: int = 0
    due: float = 0.0
    repaired_at: float = field(default=-math.inf)


class Publication:
    """Decides which keys to write: those that do not hold what this process wants there.

    Somebody who deletes or overwrites keys is answered after longer and longer pauses.

    Args:
        uniform: Draws the jitter.
    """

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._entries: dict[bytes, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def knows(self, key: bytes) -> bool:
        return key in self._entries

    def want(
        self,
        key: bytes,
        value: bytes,
        now: float,
        *,
        within: float = 0.0,
        is_leased: bool = True,
    ) -> None:
        """Wants a key to hold a value, written at a random moment `within` so many seconds.

        A value that others hold too, as a document, is written by whoever draws the first moment.
        """
        entry = self._entries.get(key)
        if entry is None:
            backoff = Backoff(*(REPAIR if is_leased else REPAIR_SHARED), uniform=self._uniform)
            entry = self._entries[key] = _Entry(None, is_leased, backoff)
        if entry.wanted != value:
            entry.wanted = value
            entry.due = now + (self._uniform(0.0, within) if within else 0.0)

    def drop(self, key: bytes, now: float) -> None:
        """Wants a key to be deleted."""
        entry = self._entries.get(key)
        if entry is not None and entry.wanted is not None:
            entry.wanted, entry.due = None, now

    def due(self, now: float) -> list[Write]:
        """Returns what is to be written now."""
        return [
            Write(key, entry.wanted, entry.is_leased)
            for key, entry in self._entries.items()
            if entry.wanted != entry.held and entry.due <= now
        ]

    def next_due(self) -> float:
        """Returns when something is to be written next; infinity for never."""
        times = (e.due for e in self._entries.values() if e.wanted != e.held)
        return min(times, default=math.inf)

    def wrote(self, write: Write, revision: int) -> None:
        """Notes that a key was written, or deleted."""
        entry = self._entries.get(write.key)
        if entry is None:
            return
        entry.held, entry.revision = write.value, max(entry.revision, revision)
        if entry.wanted is None and write.value is None:
            del self._entries[write.key]

    def failed(self, write: Write, now: float) -> bool:
        """Notes that a write was refused, so it is tried later; returns whether that is new."""
        entry = self._entries.get(write.key)
        if entry is None:
            return False
        is_new = now - entry.repaired_at > QUIET
        entry.repaired_at = now
        entry.due = now + entry.backoff.next()
        return is_new

    def observed(self, key: bytes, value: bytes | None, revision: int, now: float) -> None:
        """Notes what the registry says that a key holds; whoever wrote it."""
        entry = self._entries.get(key)
        if entry is None or revision <= entry.revision:
            return  # an echo of what was written here
        entry.held, entry.revision = value, revision
        if entry.wanted is not None and value != entry.wanted:
            if now - entry.repaired_at > QUIET:
                entry.backoff.reset()
            entry.repaired_at = now
            entry.due = max(entry.due, now + entry.backoff.next())

    def lost_lease(self, now: float) -> None:
        """Notes that the leased keys are gone; they are written again, spread over some time."""
        at = now + self._uniform(0.0, SPREAD)
        for entry in self._entries.values():
            if entry.is_leased and entry.held is not None:
                entry.held, entry.due = None, at

    def lost_all(self, now: float) -> None:
        """Notes that nothing is known of what the registry holds: it is another one, or older."""
        at = now + self._uniform(0.0, SPREAD)
        for entry in self._entries.values():
            entry.held, entry.revision, entry.due = None, 0, at

    def reading_ended(self, read: set[bytes], revision: int, now: float) -> None:
        """Notes that everything was read at a revision, and which keys were there."""
        for key, entry in self._entries.items():
            if entry.held is not None and key not in read:
                self.observed(key, None, revision, now)
