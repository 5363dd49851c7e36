"""Which calls may be made again, and how many: pure."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from grpc import StatusCode

RATIO = 0.2
"""Retries per call that the budget gives: an outage makes a fifth more load of it, not a
multiple."""

RESERVE = 10
"""Retries in ten seconds whatever the load, so that those who call rarely may retry too."""

WINDOW = 10.0
"""Seconds over which calls and retries are counted."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which failed calls are made again, elsewhere.

    Attributes:
        attempts: The most attempts of one call, the first one included.
        codes: The statuses that are worth another attempt.
    """

    attempts: int = 3
    codes: frozenset[StatusCode] = frozenset({StatusCode.UNAVAILABLE})


DEFAULT_POLICY = RetryPolicy()
"""Two more attempts after UNAVAILABLE, as Istio's."""


class RetryBudget:
    """Bounds the retries of a service: of its calls, a fifth plus ten in any ten seconds.

    It counts by two windows of ten seconds, the past one weighed by how much of it is left, and
    costs a call nothing: it looks at the number of calls only when a retry is asked for.

    Args:
        now: When the service is first used, in monotonic seconds.
    """

    __slots__ = ("_calls", "_earlier_calls", "_earlier_spent", "_lock", "_since", "_spent")

    def __init__(self, now: float) -> None:
        self._lock = threading.Lock()
        self._since = now
        self._calls = 0
        self._spent = 0
        self._earlier_calls = 0.0
        self._earlier_spent = 0.0

    def take(self, calls: int, now: float) -> bool:
        """Takes one retry, if there is one.

        Args:
            calls: How many calls the service has had in all, retries not counted.
            now: Monotonic seconds.
        """
        with self._lock:
            if now - self._since >= WINDOW:
                self._turn(calls, now)
            left = 1 - (now - self._since) / WINDOW
            lately = calls - self._calls + left * self._earlier_calls
            spent = self._spent + left * self._earlier_spent
            if spent + 1 > RESERVE + RATIO * lately:
                return False
            self._spent += 1
            return True

    def _turn(self, calls: int, now: float) -> None:
        """Begins a window; of a longer time, in which no retry was asked for, ten seconds count."""
        windows = (now - self._since) / WINDOW
        self._earlier_calls = (calls - self._calls) / windows
        self._earlier_spent = self._spent * max(2 - windows, 0.0)
        self._since, self._calls, self._spent = now, calls, 0
