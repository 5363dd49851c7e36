"""Admission control: how many calls of the user's services run, and whether one more may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Generic, Protocol, TypeVar

MANY = 2
"""Pending calls above which their requests do not arrive: with 256 calls at once, whose requests
come with them, no more are pending when 98 of 100 calls arrive."""

PRUNE_ABOVE = 256
"""Number of pending calls above which those that were given up are removed at once."""

PRUNE_EVERY = 0.1
"""Seconds between two looks for them, while many are pending."""

GIVEN_UP = 128
"""Calls that were given up while they were pending, after which more of them are expected."""

CROWDED_FOR = 10.0
"""Seconds for which they are expected."""


class AdmissionRefused(Enum):
    """Why a call was not admitted. Nothing of it ran, so another provider may take it."""

    FULL = "full"
    CLOSED = "closed"


class Call(Protocol):
    """A call, such as the task that serves it."""

    def done(self) -> bool: ...


CallT = TypeVar("CallT", bound=Call)


class PendingCalls(set[CallT]):
    """Calls that have arrived and do not run yet. It may be used from any thread.

    It is a set, since each call is added and discarded once. Call `prune` after an `add` that makes
    it longer than `MANY`.

    Args:
        clock: Monotonic seconds.

    Attributes:
        crowded_until: Until when more calls are expected to be given up; 0 if none were yet.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._prune_above = PRUNE_ABOVE
        self._clock = clock
        self.crowded_until = 0.0
        self._given_up = 0
        self._pruned_at = clock()

    @property
    def is_crowded(self) -> bool:
        """Whether callers send no requests, or give their calls up before they run.

        Then it is worth the cost to judge a caller before its request arrives.
        """
        if len(self) > MANY:
            return True
        return self.crowded_until > 0 and self._clock() < self.crowded_until

    def prune(self) -> None:
        """Removes calls that are over, unless it did so a moment ago."""
        now = self._clock()
        if len(self) <= self._prune_above and now - self._pruned_at < PRUNE_EVERY:
            return
        self._pruned_at = now
        before = len(self)
        self.difference_update([call for call in self.copy() if call.done()])
        self._prune_above = max(PRUNE_ABOVE, 2 * len(self))
        self._given_up += before - len(self)
        if self._given_up > GIVEN_UP:
            self._given_up = 0
            self.crowded_until = now + CROWDED_FOR


class AdmissionControl(Generic[CallT]):
    """Admits calls, up to a limit and until it is closed. It may be used from any thread.

    A call is pending from its arrival until it runs, because its request may take long to arrive.
    It counts against the limit only when it runs, after its caller was authorized: callers that
    are not authorized must not use up the limit.

    Only the limit has a lock: CPython switches threads between calls, not within `+= 1`, and not
    within one operation of a set.

    Args:
        limit: How many calls may run at the same time; None for no limit.

    Attributes:
        running: Calls that run now.
        arrived: Calls that arrived so far, admitted or not.
        begun: Calls that ran so far.
        shed: Calls that were shed because the limit was reached.
        arrived_after_close: Calls that arrived after it was closed.
        waiting: Admitted calls that do not run yet.
        closed: Whether new calls are rejected.
        may_refuse: Whether `arrive` may: it has a limit, or is closed.
    """

    __slots__ = (
        "_lock",
        "arrived",
        "arrived_after_close",
        "begun",
        "closed",
        "limit",
        "may_refuse",
        "running",
        "shed",
        "waiting",
    )

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.may_refuse = limit is not None
        self.running: set[CallT] = set()
        self.arrived = 0
        self.begun = 0
        self.shed = 0
        self.arrived_after_close = 0
        self.waiting = PendingCalls[CallT]()
        self.closed = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        limit = "" if self.limit is None else f"/{self.limit}"
        return f"<AdmissionControl {len(self.running)}{limit} running{' closed' * self.closed}>"

    @property
    def empty(self) -> bool:
        # In this order: a call begins to run before it leaves those that wait.
        return all(call.done() for call in self.waiting.copy()) and not self.running

    @property
    def pending(self) -> frozenset[CallT]:
        """Admitted calls that do not run yet."""
        return frozenset(self.waiting)

    def arrive(self) -> AdmissionRefused | None:
        """Counts a call that arrives; returns why it is not admitted, or None."""
        self.arrived += 1
        if self.closed:
            self.arrived_after_close += 1
            return AdmissionRefused.CLOSED
        if self.limit is not None and len(self.running) >= self.limit:
            self.shed += 1
            return AdmissionRefused.FULL
        return None

    def await_begin(self, call: CallT) -> None:
        """Counts an admitted call as pending until it runs or is done."""
        self.waiting.add(call)
        if len(self.waiting) > MANY:
            self.waiting.prune()

    def begin(self, call: CallT) -> bool:
        """Counts an admitted call as running until it ends; returns whether the limit allows it."""
        if self.limit is None:
            self.running.add(call)
        elif not self._take_place(call, self.limit):
            self.waiting.discard(call)
            return False
        self.waiting.discard(call)
        self.begun += 1
        return True

    def _take_place(self, call: CallT, limit: int) -> bool:
        with self._lock:
            if len(self.running) >= limit:
                self.shed += 1
                return False
            self.running.add(call)
            return True

    def end(self, call: CallT) -> None:
        """Counts a call as neither running nor pending any more."""
        self.running.discard(call)
        # Pruned late, 256 calls of one caller could hold 2 MB of headers each.
        self.waiting.discard(call)

    def close(self) -> None:
        """Rejects new calls from now on; admitted calls continue."""
        self.closed = self.may_refuse = True
