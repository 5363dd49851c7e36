"""Counts the answers of each caller that are not sent yet. Does no I/O.

A caller that reads nothing (HTTP/2: a window of 0) leaves its answers in the memory of the node.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

MAX_UNSENT = 4 * 1024 * 1024
"""Bytes of answers of one caller, times its live workers, from which on its next requests wait."""

SMALL = 1024
"""Bytes of answers that are not counted: only 600 calls may be open."""


class UnsentAnswers:
    """Knows whose next requests must wait. It may be used from any thread.

    Args:
        workers_of: Returns how many processes share an identity, and so have its limit together.
        on_room: Called with a caller whose requests need not wait any more.

    Attributes:
        full: Callers whose requests must wait.
    """

    def __init__(
        self,
        workers_of: Callable[[str], int] = lambda _: 1,
        on_room: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.full: set[str] = set()
        self.on_room = on_room
        self._workers_of = workers_of
        self._bytes: dict[str, int] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<UnsentAnswers {sum(self._bytes.values())} bytes, full={sorted(self.full)}>"

    def held_by(self, caller: str) -> int:
        """Returns the bytes of a caller's answers."""
        return self._bytes.get(caller, 0)

    def add(self, caller: str, size: int) -> None:
        """Counts an answer until `remove`."""
        with self._lock:
            held = self._bytes[caller] = self._bytes.get(caller, 0) + size
            if held >= MAX_UNSENT and held >= MAX_UNSENT * self._workers_of(caller):
                self.full.add(caller)

    def remove(self, caller: str, size: int) -> None:
        """Counts an answer as sent, or as dropped with its call."""
        with self._lock:
            held = self._bytes[caller] = self._bytes[caller] - size
            if not held:
                del self._bytes[caller]
            has_room = caller in self.full and held < MAX_UNSENT
            if has_room:
                self.full.discard(caller)
        if has_room:
            self.on_room(caller)
