"""When a feed's server sends: at once while little happens, ever more at a time in a flood."""

from __future__ import annotations

HEARTBEAT = 1.0
"""Seconds between two messages of an idle feed."""

BATCH = 0.005
"""Seconds that a server waits for more changes before it sends the first."""

MAX_BATCH = 0.25
"""The most that it waits while changes never stop.

One node that floods the mesh then costs every feed four messages a second, however much it writes.
"""


class FeedPacer:
    """Decides how long to gather changes, and when a heartbeat is due. Pure: time comes in.

    Args:
        now: The time, on the clock of all other calls (monotonic seconds).
    """

    def __init__(self, now: float) -> None:
        self._batch = BATCH
        self._looked_at = now
        self._sent_at = now

    def note_checked(self, now: float, *, sent: bool) -> None:
        """Notes that all changes up to now were looked at, and whether one was to be sent."""
        self._looked_at = now
        if sent:
            self._sent_at = now

    def note_heartbeat(self, now: float) -> None:
        """Notes that a heartbeat was sent."""
        self._sent_at = now

    def until_heartbeat(self, now: float) -> float:
        """Returns the seconds until a heartbeat is due; what is not sent puts none off."""
        return max(0.0, self._sent_at + HEARTBEAT - now)

    def batch_delay(self, now: float) -> float:
        """Returns the seconds to wait for more, where the first change came just now.

        It doubles while changes come sooner than it takes to gather them, and starts over once
        they do not.
        """
        if now - self._looked_at < self._batch:
            self._batch = min(2 * self._batch, MAX_BATCH)
        else:
            self._batch = BATCH
        return self._batch
