"""Notices an event loop that stood still, and one that is behind all the time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from aegis_discovery.background import sleep
from aegis_discovery.feed import PROCESS_TICKS
from aegis_discovery.signals import LogLimiter

_log = logging.getLogger("aegis.node")

CHECK_EVERY = 1.0
"""Seconds between two checks; a stall may be this much longer than the log says."""

MIN_STALL = 1.0
"""Seconds by which a check must be late.

A stall of two seconds, the shortest for which others can suspect this node, is always named.
"""


STARVED = 0.5
"""Seconds by which a check of a starved event loop is late: a call takes a dozen turns of it."""

LATE_CHECKS = 3
"""Late checks in a row after which an event loop is starved. One stall makes one late check."""

TIMELY_CHECKS = 5
"""Timely checks in a row after which it is not any more, so that callers do not return at once."""


class Starvation:
    """Decides whether an event loop is starved, by how late its checks are. Pure.

    Attributes:
        is_starved: Whether it is.
        lag: Seconds by which the latest check was late.
    """

    def __init__(self) -> None:
        self.is_starved = False
        self.lag = 0.0
        self._in_a_row = 0

    def note_check(self, late_by: float) -> bool:
        """Records a check; returns whether it changed `is_starved`."""
        self.lag = late_by
        is_late = late_by >= STARVED
        if is_late is self.is_starved:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if self._in_a_row < (LATE_CHECKS if is_late else TIMELY_CHECKS):
            return False
        self.is_starved, self._in_a_row = is_late, 0
        return True


async def watch_loop(node_id: str, on_check: Callable[[float], object]) -> None:
    """Logs stalls of this event loop after their end, once a minute; runs until cancelled.

    Other nodes suspect a node that sends no heartbeats, and nothing else in its own log shows why.

    Args:
        node_id: The node.
        on_check: Called at once, and then about once a second, with the seconds by which that is
            late.
    """
    limiter = LogLimiter(_log)
    on_check(0.0)  # so that a loop that stands still right after the start is noticed too
    while True:
        due = PROCESS_TICKS.after(time.monotonic(), CHECK_EVERY)
        await sleep(due - time.monotonic())
        stall = max(0.0, time.monotonic() - due)
        on_check(stall)
        if stall >= MIN_STALL:
            limiter.warn(
                node_id,
                "stall",
                "the event loop of %s stood still for at least %.1f s, so others may have "
                "suspected it; handlers must not block it: give blocking work to "
                "asyncio.to_thread, or make the handler a plain function",
                node_id,
                stall,
            )
