"""Limits what one caller may have open, and blocks callers that flood. Does no I/O."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from aegis_core._rate_limit import TokenBucket

MAX_CALLS = 1_000
"""Calls that one caller may have open, over all its connections, times its live workers.

As many as one connection may have, so that a caller with one connection waits and is never refused.
It is twice what a busy honest caller opens at once.
"""

CANCELLED_PER_SECOND = 1_000.0
"""Calls that a caller may cancel each second in the long run, times its live workers.

Who calls more often waits for answers, and is bounded by them; who cancels at once is bounded by
nothing (CVE-2023-44487, rapid reset: 10 000 a second on one connection).
"""

CANCELLED_AT_ONCE = 2_000.0
"""The same at once: all calls of a caller may miss their deadline twice in a row."""

BLOCKED_FOR = 10.0
"""Seconds for which the calls of a caller are refused after it has cancelled too many."""

PRUNE_ABOVE = 1024
"""Number of remembered callers above which those that cancelled nothing lately are forgotten."""


class CallerLimits:
    """Counts the open and the cancelled calls of each caller. It may be used from any thread.

    Args:
        max_calls: How many calls a caller may have open.
        workers_of: Returns how many processes share an identity, and so have its limits together.
        clock: Monotonic seconds.

    Attributes:
        blocked: Callers that may be blocked; `is_blocked` tells.
    """

    def __init__(
        self,
        max_calls: int = MAX_CALLS,
        workers_of: Callable[[str], int] = lambda _: 1,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_calls = max_calls
        self._workers_of = workers_of
        self._clock = clock
        self.blocked: dict[str, float] = {}
        self._open: dict[str, int] = {}
        self._cancelled: dict[str, TokenBucket] = {}
        self._prune_above = PRUNE_ABOVE
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<CallerLimits {sum(self._open.values())} open, blocked={sorted(self.blocked)}>"

    def __len__(self) -> int:
        return len(self._open) + len(self._cancelled) + len(self.blocked)

    def enter(self, caller: str) -> bool:
        """Counts a call as open until `leave`; returns False if the caller has too many."""
        with self._lock:
            count = self._open.get(caller, 0)
            if count >= self._max_calls and count >= self._max_calls * self._workers_of(caller):
                return False
            self._open[caller] = count + 1
            return True

    def leave(self, caller: str) -> None:
        """Counts an open call less."""
        with self._lock:
            count = self._open[caller] - 1
            if count:
                self._open[caller] = count
            else:
                del self._open[caller]

    def is_blocked(self, caller: str) -> bool:
        """Tells whether the calls of a caller are refused, since it cancelled too many."""
        until = self.blocked.get(caller)
        if until is None:
            return False
        if self._clock() < until:
            return True
        with self._lock:
            self.blocked.pop(caller, None)
        return False

    def abuse(self, caller: str) -> bool:
        """Counts a call that was cancelled, or one that a blocked caller began.

        Returns whether it is one too many. Then the caller is blocked from now on.
        """
        now = self._clock()
        workers = self._workers_of(caller)
        with self._lock:
            bucket = self._cancelled.get(caller)
            if bucket is None:
                self._prune(now)
                bucket = TokenBucket(CANCELLED_AT_ONCE * workers, CANCELLED_PER_SECOND, now)
                self._cancelled[caller] = bucket
            bucket.burst = CANCELLED_AT_ONCE * workers
            bucket.per_second = CANCELLED_PER_SECOND * workers
            if bucket.take(now):
                return False
            self.blocked[caller] = now + BLOCKED_FOR
            return True

    def _prune(self, now: float) -> None:
        if len(self._cancelled) < self._prune_above:
            return
        for caller, bucket in list(self._cancelled.items()):
            bucket.wait(now)
            if bucket.left >= bucket.burst:
                del self._cancelled[caller]
        self.blocked = {caller: until for caller, until in self.blocked.items() if until > now}
        # Doubled, so that a mesh of many callers is not scanned at each new caller.
        self._prune_above = max(PRUNE_ABOVE, 2 * len(self._cancelled))
