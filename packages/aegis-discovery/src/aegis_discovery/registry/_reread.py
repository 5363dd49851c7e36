"""When to read a registry anew because something in it was refused that may be good later. Pure."""

from __future__ import annotations

FIRST, LAST = 1, 128
"""Heartbeats after which everything is read anew: for the first time, and at most."""


class Reread:
    """Decides on each heartbeat; ever more rarely, until nothing is refused any more."""

    def __init__(self) -> None:
        self._after = FIRST
        self._heartbeats = 0

    def is_due(self, is_refused: bool) -> bool:
        """Tells whether to read everything anew."""
        if not is_refused:
            self._after, self._heartbeats = FIRST, 0
            return False
        self._heartbeats += 1
        if self._heartbeats < self._after:
            return False
        self._after, self._heartbeats = min(2 * self._after, LAST), 0
        return True
