"""Counts the requests that handlers have. Does no I/O.

Who sends whole requests of the largest size to a slow handler, one after the other, would have 600
of them held, 2.4 GB. Small ones are not counted: a caller may have only so many calls open.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

CallT = TypeVar("CallT")

LARGE = 16 * 1024
"""Bytes from which on a request is counted: 600 smaller ones have 10 MB."""

USUAL_MESSAGE = 4 * 1024 * 1024
"""Bytes of the largest message, unless the user sets more; then a caller may hold more, too."""

VERY_LARGE = 1024 * 1024
"""Bytes from which on gRPC makes two copies of a request as it arrives that count."""

COPIES = 1.5
"""How many places such a request takes, and how many times its bytes it counts."""

MAX_METHODS = 1024
"""Methods of very large requests that are remembered; a generic handler may serve any number."""

MOST = 2
"""How many times as much a caller may have running as it has places for until further large
requests are refused. Small ones of other methods must arrive, and it shows only then how large."""


class _Running(Generic[CallT]):
    """The large requests of one caller."""

    def __init__(self) -> None:
        self.calls: dict[CallT, tuple[str | None, int]] = {}
        self.methods: Counter[str | None] = Counter()
        self.bytes = 0  # with their copies


class RunningRequests(Generic[CallT]):
    """Knows of which callers handlers have large requests. It may be used from any thread.

    Args:
        places: How many requests of the largest size a caller may have running, times its live
            workers.
        workers_of: Returns how many processes share an identity, and so have its limit together.

    Attributes:
        busy: Callers that use an eighth of their places, or did, until `settle`.
        max_message: Bytes of the largest message.
        very_large: Methods of which the last large request was very large.
    """

    def __init__(self, places: int, workers_of: Callable[[str], int] = lambda _: 1) -> None:
        self.busy: set[str] = set()
        self.max_message = USUAL_MESSAGE
        self.very_large: set[str | None] = set()
        self._places = places
        self._workers_of = workers_of
        self._callers: dict[str, _Running[CallT]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<RunningRequests {len(self)}, busy={sorted(self.busy)}>"

    def __len__(self) -> int:
        return sum(len(running.calls) for running in [*self._callers.values()])

    def add(self, caller: str, call: CallT, method: str | None, size: int) -> bool:
        """Counts a request that has arrived until `remove`; returns False if it is one too many."""
        with self._lock:
            running = self._callers.get(caller)
            if running is None:
                running = self._callers[caller] = _Running()
            if size < VERY_LARGE:
                self.very_large.discard(method)
            else:
                size = int(COPIES * size)
                if len(self.very_large) >= MAX_METHODS:
                    self.very_large.clear()
                self.very_large.add(method)
            room = self._room(caller)
            if running.bytes >= MOST * room:
                return False
            running.calls[call] = method, size
            running.methods[method] += 1
            running.bytes += size
            if running.bytes >= room / 8:
                self.busy.add(caller)
            return True

    def remove(self, caller: str, call: CallT) -> None:
        """Counts a request no more, if it was counted."""
        with self._lock:
            running = self._callers.get(caller)
            counted = None if running is None else running.calls.pop(call, None)
            if running is None or counted is None:
                return
            method, size = counted
            running.methods[method] -= 1
            if not running.methods[method]:
                del running.methods[method]
            running.bytes -= size
            if not running.calls:
                del self._callers[caller]

    def settle(self, caller: str) -> None:
        """Takes a caller for busy no more, if it uses few places."""
        with self._lock:
            running = self._callers.get(caller)
            if running is None or running.bytes < self._room(caller) / 8:
                self.busy.discard(caller)

    def held_by(self, caller: str) -> int:
        """Returns the bytes of a caller's requests, with their copies."""
        running = self._callers.get(caller)
        return 0 if running is None else running.bytes

    def places(self, caller: str) -> tuple[float, list[str | None]]:
        """Returns how many places a caller's requests take, and the methods that have them."""
        running = self._callers.get(caller)
        if running is None:
            return 0, []
        with self._lock:
            return running.bytes / self._place, [*running.methods]

    @property
    def _place(self) -> int:
        return max(self.max_message, USUAL_MESSAGE)

    def _room(self, caller: str) -> int:
        return self._places * self._workers_of(caller) * self._place
