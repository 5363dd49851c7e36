"""Exponential backoff with jitter."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Doubles the delay with each attempt, up to a limit; jitter keeps many clients out of step.

    Args:
        first: Seconds before the second attempt.
        limit: The most seconds between two attempts.
        uniform: Draws the jitter.
    """

    def __init__(
        self,
        first: float = 0.1,
        limit: float = 2.0,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first = first
        self._limit = limit
        self._uniform = uniform
        self._next = first

    def reset(self) -> None:
        """Starts again at the first delay, after a success."""
        self._next = self._first

    def next(self) -> float:
        """Returns the seconds to wait before the next attempt."""
        delay = self._next * self._uniform(0.5, 1.0)
        self._next = min(self._next * 2, self._limit)
        return delay
