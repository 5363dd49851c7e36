"""Limits how often similar lines are logged: a faulty or hostile source must not fill the log."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Hashable

PERIOD = 60.0
"""Seconds between two similar lines about one source."""

MAX_KINDS = 16
"""Kinds of reasons remembered for each source, since some reasons quote what the source sent."""

MAX_SOURCES = 1024
"""Sources that are remembered; the oldest is forgotten first."""

_END_OF_KIND = r"[0-9'\"]"


class _Entry:
    __slots__ = ("suppressed", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.suppressed = 0


class LogLimiter:
    """Logs each kind of line about a source once in a period, and counts the lines between.

    It may be used from any thread.

    Args:
        log: The logger that receives the lines.
        period: Seconds between two similar lines; `math.inf` logs each kind only once.
        max_sources: Sources that are remembered.
        counts: Whether a line also says how many similar lines were suppressed before it.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        log: logging.Logger,
        *,
        period: float = PERIOD,
        max_sources: int = MAX_SOURCES,
        counts: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._period = period
        self._max_sources = max_sources
        self._counts = counts
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[Hashable, dict[str, _Entry]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._entries.values()))

    def warn(
        self,
        source: Hashable,
        reason: str,
        message: str,
        *args: object,
        error: BaseException | None = None,
        now: float | None = None,
    ) -> None:
        """Logs a warning, unless a similar line was logged within the period.

        Args:
            source: What the line is about, such as a node id that a certificate proved. A peer
                must not be able to invent many sources.
            reason: Its text up to the first digit or quotation mark is the kind of the line.
            message: The line, as for `logging`.
            args: The arguments of the message.
            error: The exception whose traceback is logged with the line.
            now: The time where the caller has it, instead of the clock's.
        """
        now = self._clock() if now is None else now
        with self._lock:
            kinds = self._entries.get(source) or self._add(source, {})
            kind = re.split(_END_OF_KIND, reason, maxsplit=1)[0][:80]
            if kind not in kinds and len(kinds) >= MAX_KINDS:
                kind = ""
            entry = kinds.setdefault(kind, _Entry(now))
            if now < entry.until:
                entry.suppressed += 1
                return
            suppressed, entry.suppressed = entry.suppressed, 0
            entry.until = now + self._period
        if suppressed and self._counts:
            message += " (%d similar lines were suppressed)"
            args = (*args, suppressed)
        self._log.warning(message, *args, exc_info=error)

    def log_change(
        self,
        level: int,
        source: Hashable,
        reason: str,
        message: str,
        *args: object,
        error: BaseException | None = None,
    ) -> bool:
        """Logs a line and returns True, unless the last one of the source had the same reason."""
        with self._lock:
            if self._entries.get(source, {}).keys() == {reason}:
                return False
            self._add(source, {reason: _Entry(math.inf)})
        self._log.log(level, message, *args, exc_info=error)
        return True

    def forget(self, source: Hashable) -> None:
        """Forgets a source, so that the next line about it is logged."""
        with self._lock:
            self._entries.pop(source, None)

    def clear(self) -> None:
        """Forgets all sources."""
        with self._lock:
            self._entries.clear()

    def _add(self, source: Hashable, kinds: dict[str, _Entry]) -> dict[str, _Entry]:
        if source not in self._entries and len(self._entries) >= self._max_sources:
            del self._entries[next(iter(self._entries))]
        self._entries[source] = kinds
        return kinds
