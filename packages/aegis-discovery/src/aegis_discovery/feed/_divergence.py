"""When both ends of an idle feed hold different records for so long that it must be reopened."""

from __future__ import annotations

DIVERGED_AFTER = 3
"""Heartbeats in a row with another digest after which a feed is reopened for the first time."""

MAX_DIVERGED_AFTER = 300
"""The same at most, when reopening did not help."""


class Divergence:
    """Counts a server's heartbeats with another digest; a lasting difference counts less often."""

    def __init__(self) -> None:
        self._different = 0
        self._equal = 0
        self._after = DIVERGED_AFTER

    def reset(self) -> None:
        """Notes a message that is no heartbeat."""
        self._different = 0

    def heartbeat(self, *, is_equal: bool) -> bool:
        """Notes a heartbeat; returns whether both sides have diverged."""
        if is_equal:
            self._different = 0
            # A single equal digest costs a liar nothing, so as many are needed as differed.
            self._equal += 1
            if self._equal >= self._after:
                self._after = DIVERGED_AFTER
            return False
        self._equal = 0
        self._different += 1
        if self._different < self._after:
            return False
        self._different = 0
        self._after = min(2 * self._after, MAX_DIVERGED_AFTER)
        return True
