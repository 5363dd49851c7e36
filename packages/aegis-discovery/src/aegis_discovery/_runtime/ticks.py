"""The times at which a process does what can wait, so that it wakes up once for all of it."""

from __future__ import annotations

import random

TICK = 1.0
"""Seconds between two ticks."""

_SLACK = 0.05 * TICK
"""How much later than asked a tick may be, so that a timer that fires early does not fire twice."""


class Ticks:
    """Times that are `TICK` apart.

    Args:
        phase: One of these times. It differs between processes: those of one machine must not all
            work at the same moment.
    """

    __slots__ = ("_phase",)

    def __init__(self, phase: float) -> None:
        self._phase = phase

    def after(self, now: float, seconds: float = TICK) -> float:
        """Returns the last tick that is at most `seconds` (and a little) away; later than `now`.

        It does not round periods that are shorter than a tick.
        """
        if seconds < TICK:
            return now + seconds
        latest = now + seconds + _SLACK
        return latest - (latest - self._phase) % TICK


PROCESS_TICKS = Ticks(random.random())
"""The ticks of this process, in monotonic seconds."""
