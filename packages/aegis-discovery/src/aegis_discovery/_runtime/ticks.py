"""The times at which a process does what can wait, so that it wakes up once for all of it."""

from __future__ import annotations

import random

TICK = 1.0
"""Seconds between two ticks."""

_SLACK = 0.05
"""How much later than asked a tick may be (s), so that a timer that fires early fires once."""


class Ticks:
    """Times that are `period` seconds apart.

    Attributes:
        phase: One of these times. It differs between processes: those of one machine must not all
            work at the same moment.
    """

    __slots__ = ("_period", "phase")

    def __init__(self, phase: float, period: float = TICK) -> None:
        self.phase = phase
        self._period = period

    def after(self, now: float, seconds: float = TICK) -> float:
        """Returns the last tick that is at most `seconds` (and a little) away; later than `now`.

        It does not round periods that are shorter than a tick.
        """
        if seconds < self._period:
            return now + seconds
        latest = now + seconds + _SLACK
        return latest - (latest - self.phase) % self._period


PROCESS_TICKS = Ticks(random.random())
"""The ticks of this process, in monotonic seconds."""
