"""When to answer those that say this node is not there, and whom to name for it. Pure."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from aegis_discovery.logs import LogLimiter
from aegis_discovery.records import Verdict

_log = logging.getLogger("aegis.membership")

REFUTE_EVERY = 1.0
"""Seconds between two answers to one that watches us."""

MAX_PAUSE = 60.0
"""The most seconds between two answers to one that does not.

Also the seconds without any, after which it is met as if it had never accused.
"""

TOO_OFTEN = 10
"""Answers within `COMPLAIN_EVERY` that even one that watches us may make necessary.

An honest one whose connection is bad leaves us in peace ever longer, and needs three or four.
"""

OUTLASTED = 5.0
"""Seconds for which one may hold what was answered, and most others do not say, unnamed.

After a link that came and went, observers are content with its node within two seconds or three of
each other.
"""

COMPLAIN_EVERY = 60.0
"""Seconds between two lines in the log about one accuser."""


@dataclass(slots=True)
class _Given:
    """The answers to one accuser."""

    pause: float = 0.0
    last: float = -math.inf
    at: deque[float] = field(default_factory=lambda: deque(maxlen=TOO_OFTEN + 1))


class Refutation:
    """Remembers how often each accuser was answered.

    An answer is a new record, which everybody has to hear of: so one that accuses at will, and
    does not count anyway, is answered after ever longer pauses.
    """

    def __init__(self) -> None:
        self._given: dict[str, _Given] = {}
        self._outlasted_since: dict[str, float] = {}
        self._log_limiter = LogLimiter(_log, period=COMPLAIN_EVERY, counts=False)

    def is_due(self, accuser: str, now: float, *, is_observer: bool) -> bool:
        """Tells whether an accusation is to be answered now, or later if it still stands then.

        One that came to watch us counts from now on, so it does not wait as the stranger it was.
        """
        given = self._given.get(accuser)
        if given is None:
            return True
        pause = min(given.pause, REFUTE_EVERY) if is_observer else given.pause
        return now >= given.last + pause

    def give(self, verdict: Verdict, now: float, *, is_observer: bool) -> None:
        """Notes an answer to an accusation; warns of an accuser that has needed too many."""
        given = self._given.setdefault(verdict.accuser, _Given())
        if now - given.last - given.pause >= MAX_PAUSE:
            given.pause = 0.0
            given.at.clear()
        given.at.append(now)
        if is_observer:
            given.pause = REFUTE_EVERY
            if len(given.at) > TOO_OFTEN and now - given.at[0] < COMPLAIN_EVERY:
                self._warn(
                    "%s says that %s is %s, again and again, whatever it is answered: "
                    "it lies, or cannot reach it",
                    verdict,
                    now,
                )
        else:
            # The other side of a healed partition accuses once, and believes the answer.
            if len(given.at) > 1:
                self._warn(
                    "%s says that %s is %s, and is none of those who watch it; "
                    "it counts for nothing",
                    verdict,
                    now,
                )
            given.pause = min(2 * given.pause or REFUTE_EVERY, MAX_PAUSE)
        given.last = now

    def outlasted(self, verdicts: Collection[Verdict], now: float) -> None:
        """Takes all verdicts that hold whatever is answered; warns of accusers that go on so."""
        since = self._outlasted_since
        self._outlasted_since = {v.accuser: since.get(v.accuser, now) for v in verdicts}
        for verdict in verdicts:
            if now - self._outlasted_since[verdict.accuser] >= OUTLASTED:
                self._warn(
                    "%s holds that %s is %s, whatever it is answered, and most of those who watch "
                    "it do not: it lies, or cannot reach it",
                    verdict,
                    now,
                )

    def forget(self, accuser: str) -> None:
        """Forgets one that is gone."""
        self._given.pop(accuser, None)
        self._log_limiter.forget(accuser)

    def _warn(self, line: str, verdict: Verdict, now: float) -> None:
        accuser = verdict.accuser
        # One kind for all lines: an accuser is named once a minute, whatever it does.
        self._log_limiter.warn(
            accuser, "", line, accuser, verdict.subject, verdict.opinion, now=now
        )
