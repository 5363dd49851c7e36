"""When a feed's server sends: at once after a rare change, in growing batches during a flood."""

from __future__ import annotations

from aegis_discovery._runtime.ticks import PROCESS_TICKS, TICK, Ticks

HEARTBEAT = 2 * TICK
"""Seconds between two messages of an idle feed."""

BATCH = 0.005
"""Seconds that a server waits for more changes before it sends the first."""

MAX_BATCH = 0.25
"""The longest that it waits while changes do not stop.

A node that floods the mesh then costs every feed four messages a second, however much it writes.
"""


def heartbeat_phase(now: float, wall: float, ticks: Ticks = PROCESS_TICKS) -> int:
    """Returns when a watcher wants heartbeats, in milliseconds after a multiple of `HEARTBEAT`.

    It asks for the same phase at all its servers, so that it wakes up once for all of them. The
    wall clock is what machines have in common; where it differs, so does the phase, and that costs
    no more than a wake-up.

    Args:
        now: Monotonic seconds, on the clock of the ticks.
        wall: Unix seconds at the same moment.
        ticks: When the watcher wakes up in any case; every other tick brings the heartbeats.
    """
    return int((wall - now + ticks.phase) % HEARTBEAT * 1000)


def heartbeat_ticks(phase: int | None, now: float, wall: float) -> Ticks:
    """Returns when a server sends the heartbeats of a feed.

    Args:
        phase: What `heartbeat_phase` gave the watcher; None for the ticks of this process.
        now: Monotonic seconds.
        wall: Unix seconds at the same moment.
    """
    if phase is None:
        return PROCESS_TICKS
    return Ticks(now + phase / 1000 - wall % HEARTBEAT, HEARTBEAT)


class FeedPacer:
    """Decides how long to gather changes, and when a heartbeat is due. Pure.

    Args:
        now: The time, on the clock of all other calls (monotonic seconds).
        ticks: When to send heartbeats.
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
