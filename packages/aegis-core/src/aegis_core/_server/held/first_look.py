"""What can be known of a caller from before it was watched. Pure.

The first look at who leaves messages unfinished comes when some of its calls were seen. Where
others use the processors, that may be 0.2 s after they arrived, and what has arrived with them must
count.
"""

from __future__ import annotations

from aegis_core._server.held.complete_messages import OVERHEAD
from aegis_core._server.held.unseen_calls import UNREAD, OpenConnection

NOTE_EVERY = 1.0
"""Seconds between two notes of the memory of the process, at least. A flood is found in less."""

OLD = 64
"""Messages of a connection from which on all that it has received may be of complete ones."""


class EarlierMemory:
    """Remembers how much memory the process had one or two seconds ago."""

    def __init__(self) -> None:
        self._before = self._noted = 0
        self._noted_at: float | None = None

    def note(self, allocated: int, now: float) -> None:
        """Notes the memory that the process has allocated, if it is time."""
        if self._noted_at is None:
            self._before = self._noted = allocated
        elif now < self._noted_at + NOTE_EVERY:
            return
        self._before, self._noted, self._noted_at = self._noted, allocated, now

    def least(self, allocated: int) -> int:
        """Returns what it had, or has now if that is less."""
        return allocated if self._noted_at is None else min(allocated, self._before)


def most_explained(one: OpenConnection, max_message: int) -> int | None:
    """Returns the most bytes that a connection may have received and that are not held now.

    These are the messages that were complete, whose lengths nobody knows, and the headers of calls
    with what gRPC takes of a request before the call is seen.

    Args:
        one: The connection, as gRPC counted it after these bytes were counted.
        max_message: Bytes of the largest message.

    Returns:
        The bytes; None if it has carried so many messages that these may be anything.
    """
    if one.messages >= OLD:
        return None
    largest = max_message + (max_message >> 5) + OVERHEAD
    return one.messages * largest + one.started * UNREAD
