"""When a feed's server sends: at once after a rare change, in growing batches during a flood."""

from __future__ import annotations

from aegis_discovery._runtime.ticks import PROCESS_TICKS, TICK, Ticks

HEARTBEAT = TICK
"""Seconds between two messages of an idle feed."""

BATCH = 0.005
"""Seconds that a server waits for more changes before it sends the first."""

MAX_BATCH = 0.25
"""The longest that it waits while changes do not stop.

A node that floods the mesh then costs every feed four messages a second, however much it writes.
"""


class FeedPacer:
    """Decides how long to gather changes, and when a heartbeat is due. Pure.

    Args:
        now: The time, on the clock of all other calls (monotonic seconds).
        ticks: When to send heartbeats. All feeds of a process send them at the same time.
    """

    def __init__(self, now: float, ticks: Ticks = PROCESS_TICKS) -> None:
        self._ticks = ticks
        self._batch = BATCH
        self._checked_at = now
        self._sent_at = now

    def note_checked(self, now: float, *, sent: bool) -> None:
        """Records that all changes up to now were checked, and whether any of them was sent."""
        self._checked_at = now
        if sent:
            self._sent_at = now

    def note_heartbeat(self, now: float) -> None:
        """Records that a heartbeat was sent."""
        self._sent_at = now

    def until_heartbeat(self, now: float) -> float:
        """Returns the seconds until a heartbeat is due; only what is sent defers it."""
        return max(0.0, self._ticks.after(self._sent_at, HEARTBEAT) - now)

    def batch_delay(self, now: float) -> float:
        """Returns the seconds to wait for more changes, if the first was made just now.

        The delay doubles while changes are made faster than they are gathered, and is reset
        afterwards.
        """
        if now - self._checked_at < self._batch:
            self._batch = min(2 * self._batch, MAX_BATCH)
        else:
            self._batch = BATCH
        return self._batch
