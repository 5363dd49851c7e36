"""Says the same thing of the same node once a minute: who sends rubbish must not fill the log."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

EVERY = 60.0
"""Seconds between two lines about one source for one kind of reason."""

MAX_KINDS = 16
"""Kinds that are told apart for one source: some reasons quote what the source made up."""

MAX_SOURCES = 1024
"""Sources that are remembered; the one that was first complained of is forgotten first."""

_FIXED = re.compile(r"[^0-9'\"]{0,80}")


@dataclass(slots=True)
class _Said:
    until: float
    unsaid: int = 0


class LogLimiter:
    """Warns of what a source does, each kind once a minute, with how often that was meanwhile.

    Args:
        log: Where the lines go.
        clock: Monotonic seconds.
    """

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._said: dict[str, dict[str, _Said]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._said.values()))

    def warn(
        self,
        source: str,
        reason: str,
        message: str,
        *args: object,
        error: BaseException | None = None,
    ) -> None:
        """Logs a line, unless one like it was logged within the minute.

        Args:
            source: The node id that a certificate proved, so that nobody makes up many.
            reason: What is wrong; its words up to the first figure or quotation are its kind.
            message: The line, as for `logging`.
            args: What goes into it.
            error: The fault whose traceback is logged along with it.
        """
        now = self._clock()
        said = self._of(source, _kind(reason), now)
        if now < said.until:
            said.unsaid += 1
            return
        said.until = now + EVERY
        if said.unsaid:
            message += " (and %d more like it since the last such line)"
            args = (*args, said.unsaid)
            said.unsaid = 0
        self._log.warning(message, *args, exc_info=error)

    def _of(self, source: str, kind: str, now: float) -> _Said:
        kinds = self._said.get(source)
        if kinds is None:
            if len(self._said) >= MAX_SOURCES:
                del self._said[next(iter(self._said))]
            kinds = self._said[source] = {}
        if kind not in kinds and len(kinds) >= MAX_KINDS:
            kind = ""
        return kinds.setdefault(kind, _Said(now))


def _kind(reason: str) -> str:
    found = _FIXED.match(reason)
    return found.group() if found else ""
