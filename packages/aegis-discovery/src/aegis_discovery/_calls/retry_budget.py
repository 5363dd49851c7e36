"""Which calls may be retried, and how many: pure."""

from __future__ import annotations

import threading
from typing import NamedTuple

from grpc import StatusCode

RATIO = 0.2
"""Retries per call that the budget allows: an outage adds a fifth to the load, and does not
multiply it."""

RESERVE = 10
"""Retries in ten seconds at any load, so that a process that calls rarely may retry too."""

WINDOW = 10.0
"""Seconds over which calls and retries are counted."""


class RetryPolicy(NamedTuple):
    """Which failed calls are retried at other providers.

    Attributes:
        attempts: The most attempts of one call, including the first.
        codes: The statuses that are retried.
    """

    attempts: int = 3
    codes: frozenset[StatusCode] = frozenset({StatusCode.UNAVAILABLE})


DEFAULT_POLICY = RetryPolicy()
"""Two more attempts after UNAVAILABLE, as in Istio."""


class RetryBudget:
    """Limits the retries of a service to a fifth of its calls plus ten, in any ten seconds.

    It keeps two windows of ten seconds; the previous one is weighted by the part of it that is
    still within ten seconds. It costs a call nothing, because it reads the number of calls only
    when a retry is requested.

    Args:
        now: When the service is first used, in monotonic seconds.
    """

    __slots__ = ("_calls", "_lock", "_previous_calls", "_previous_spent", "_since", "_spent")

    def __init__(self, now: float) -> None:
        self._lock = threading.Lock()
        self._since = now
        self._calls = 0
        self._spent = 0
        self._previous_calls = 0.0
        self._previous_spent = 0.0

    def take(self, calls: int, now: float) -> bool:
        """Takes one retry from the budget; returns False if it is spent.

        Args:
            calls: The number of calls to the service so far, without retries.
            now: Monotonic seconds.
        """
        with self._lock:
            if now - self._since >= WINDOW:
                self._start_window(calls, now)
            left = 1 - (now - self._since) / WINDOW
            lately = calls - self._calls + left * self._previous_calls
            spent = self._spent + left * self._previous_spent
            if spent + 1 > RESERVE + RATIO * lately:
                return False
            self._spent += 1
            return True

    def _start_window(self, calls: int, now: float) -> None:
        """Starts a window. A longer pause counts as its average ten seconds."""
        windows = (now - self._since) / WINDOW
        self._previous_calls = (calls - self._calls) / windows
        self._previous_spent = self._spent * max(2 - windows, 0.0)
        self._since, self._calls, self._spent = now, calls, 0
