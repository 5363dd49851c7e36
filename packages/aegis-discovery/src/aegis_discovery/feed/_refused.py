"""When a feed is opened again because a document was refused that may be good later. Pure."""

from __future__ import annotations

from aegis_discovery.errors import InvalidDocumentError

RETRY_AFTER = 3
"""Heartbeats after which a feed is reopened for the first time."""

MAX_RETRY_AFTER = 300
"""The same at most, when reopening did not help."""


class RefusedDocuments:
    """Remembers whether a clock that was wrong may have cost this process a document.

    A document arrives once in a feed, and again when the feed is opened anew.
    """

    def __init__(self) -> None:
        self._is_waiting = False
        self._heartbeats = 0
        self._retry_after = RETRY_AFTER

    def note(self, error: InvalidDocumentError) -> None:
        """Notes that a document was refused."""
        self._is_waiting |= error.is_temporary

    def is_retry_due(self) -> bool:
        """Whether to reopen the feed, asked after each heartbeat; ever more rarely."""
        if not self._is_waiting:
            return False
        self._heartbeats += 1
        if self._heartbeats < self._retry_after:
            return False
        self._is_waiting, self._heartbeats = False, 0
        self._retry_after = min(2 * self._retry_after, MAX_RETRY_AFTER)
        return True
