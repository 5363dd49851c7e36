"""Limits what one caller may have open, and blocks callers that flood. Does no I/O."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import compress
from operator import itemgetter, not_
from typing import Protocol

from aegis_core._rate_limit import TokenBucket

MAX_CALLS = 600
"""Calls that one caller may have open, over all its connections, times its live workers.

As many as one connection may have, so that a caller with one connection waits and is never refused.
A busy honest caller opens 500 at once; each further one may take 40 KB of an asyncio node.
"""

CANCELLED_PER_SECOND = 1_000.0
"""Calls that a caller may cancel each second in the long run, times its live workers.

Who calls more often waits for answers, and is bounded by them; who cancels at once is bounded by
nothing (CVE-2023-44487, rapid reset: 10 000 a second on one connection).
"""

CANCELLED_AT_ONCE = 2_000.0
"""The same at once: all calls of a caller may miss their deadline twice in a row."""

NAMED_PER_SECOND = 200.0
"""Cancelled calls a second from which on a caller is named, and not refused yet.

Of a flood gRPC shows a busy node only a part: of 40 000 resets a second less than 1 000.
"""

NAMED_AT_ONCE = 1_000.0
"""The same at once."""

BLOCKED_FOR = 10.0
"""Seconds for which the calls are refused of who cancelled too many, or leaves too many open."""

GOES_ON = 50
"""Refused calls of such a caller, times its live workers, after which its connections are closed.

What is refused has arrived in part: on 16 connections that took 30 MB.
"""

PRUNE_ABOVE = 1024
"""Number of remembered callers above which those that cancelled nothing lately are forgotten."""


SWEEP_ABOVE = 32
"""Answered calls that are remembered, above which those are forgotten whose answers are sent."""


class Call(Protocol):
    """A call, such as the task that serves it."""

    def done(self) -> bool: ...


class CallerLimits:
    """Counts the open and the cancelled calls of each caller. It may be used from any thread.

    Open calls are counted without a lock: CPython switches threads between calls, not within
    `+= 1`, and not between a comparison and what follows it.

    Args:
        max_calls: How many calls a caller may have open.
        workers_of: Returns how many processes share an identity, and so have its limits together.
        clock: Monotonic seconds.

    Attributes:
        max_calls: How many calls a caller with one worker may have open.
        open: The open calls of each caller that has some.
        blocked: Callers that may be blocked; `is_blocked` tells.
        answered: Calls that were answered, with their callers; they are open until they are done.
        sweep_above: How many of them there may be without a `sweep`.
    """

    __slots__ = (
        "_cancelled",
        "_clock",
        "_lock",
        "_named",
        "_prune_above",
        "_refused",
        "_workers_of",
        "answered",
        "blocked",
        "max_calls",
        "open",
        "sweep_above",
    )

    def __init__(
        self,
        max_calls: int = MAX_CALLS,
        workers_of: Callable[[str], int] = lambda _: 1,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_calls = max_calls
        self._workers_of = workers_of
        self._clock = clock
        self.blocked: dict[str, float] = {}
        self.open: defaultdict[str, int] = defaultdict(int)
        self.answered: list[tuple[Call, str]] = []
        self.sweep_above = SWEEP_ABOVE
        self._cancelled: dict[str, TokenBucket] = {}
        self._named: dict[str, TokenBucket] = {}
        self._refused: Counter[str] = Counter()
        self._prune_above = PRUNE_ABOVE
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<CallerLimits {sum(self.open.values())} open, blocked={sorted(self.blocked)}>"

    def __len__(self) -> int:
        self.sweep()
        return len(self.open) + len(self._cancelled) + len(self.blocked)

    def enter(self, caller: str, *, few: bool = False) -> bool:
        """Counts a call as open until `leave`; returns False if the caller has too many.

        Args:
            caller: Who calls.
            few: Whether more than five sixths are too many, since the caller reads no answers.
        """
        limit = self.max_calls * 5 // 6 if few else self.max_calls
        if self.open.get(caller, 0) >= limit and not self._has_room(caller, limit):
            return False
        self.open[caller] += 1
        return True

    def _has_room(self, caller: str, limit: int) -> bool:
        limit *= self._workers_of(caller)
        if self.open.get(caller, 0) >= limit:
            self.sweep()
        return self.open.get(caller, 0) < limit

    def leave(self, caller: str) -> None:
        """Counts an open call less."""
        self.open[caller] -= 1
        if not self.open[caller]:
            del self.open[caller]

    def leave_when_done(self, call: Call, caller: str) -> None:
        """Counts an open call less once it is done: until then its answer may not be sent.

        A callback of each call would cost more than to look now and then. Only one thread may use
        this.
        """
        self.answered.append((call, caller))
        if len(self.answered) > self.sweep_above:
            self.sweep()

    def sweep(self) -> None:
        """Counts the answered calls that are done as open no more."""
        calls, answered = self.open, self.answered
        are_done = [call.done() for call, _ in answered]
        done = Counter(compress(map(itemgetter(1), answered), are_done))
        answered[:] = compress(answered, map(not_, are_done))
        for caller, count in done.items():
            calls[caller] -= count
            if not calls[caller]:
                del calls[caller]
        self.sweep_above = max(SWEEP_ABOVE, 2 * len(answered))

    def block(self, caller: str) -> None:
        """Refuses the calls of a caller from now on, for a while.

        Of one that reads no answers or sends no requests, the calls that gRPC holds back, 31 KB
        each, would otherwise meet those of its next connection, for which it would have room again.
        """
        with self._lock:
            self.blocked[caller] = self._clock() + BLOCKED_FOR

    def is_blocked(self, caller: str) -> bool:
        """Tells whether the calls of a caller are refused."""
        until = self.blocked.get(caller)
        if until is None:
            return False
        if self._clock() < until:
            return True
        with self._lock:
            self.blocked.pop(caller, None)
            self._refused.pop(caller, None)
        return False

    def goes_on(self, caller: str) -> bool:
        """Counts a refused call of a blocked caller; returns whether there were many."""
        with self._lock:
            self._refused[caller] += 1
            return self._refused[caller] > GOES_ON * self._workers_of(caller)

    def abuse(self, caller: str) -> bool:
        """Counts a call that was cancelled, or one that its caller must not begin.

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

    def cancels_many(self, caller: str) -> bool:
        """Counts a cancelled call again; returns whether its caller is to be named."""
        now = self._clock()
        with self._lock:
            bucket = self._named.get(caller)
            if bucket is None:
                bucket = TokenBucket(NAMED_AT_ONCE, NAMED_PER_SECOND, now)
                self._named[caller] = bucket
            return not bucket.take(now)

    def _prune(self, now: float) -> None:
        if len(self._cancelled) < self._prune_above:
            return
        for caller, bucket in list(self._cancelled.items()):
            bucket.wait(now)
            if bucket.left >= bucket.burst:
                del self._cancelled[caller]
        self._named = {c: bucket for c, bucket in self._named.items() if c in self._cancelled}
        for caller in [caller for caller, until in self.blocked.items() if until <= now]:
            del self.blocked[caller]
            self._refused.pop(caller, None)
        # Doubled, so that a mesh of many callers is not scanned at each new caller.
        self._prune_above = max(PRUNE_ABOVE, 2 * len(self._cancelled))
