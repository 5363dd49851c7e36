"""When to answer an accusation of this node, and which accusers to name in the log. Pure."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Collection

from aegis_certs import owner_of
from aegis_discovery.records import Verdict
from aegis_discovery.signals import LogLimiter

_log = logging.getLogger("aegis.membership")

REFUTE_EVERY = 1.0
"""Seconds between two answers to an observer of this node."""

MAX_PAUSE = 60.0
"""The most seconds between two answers to any other accuser.

After as many seconds without an answer, its pauses start over.
"""

MAX_ANSWERS = 10
"""Answers within `LOG_EVERY` above which an observer is named.

An honest observer with a bad connection accuses less and less often, and needs three or four.
"""

OUTVOTED_FOR = 5.0
"""Seconds for which an observer may maintain what was answered and most others do not say.

After a link that came and went, observers clear its node within two or three seconds of each other.
"""

LOG_EVERY = 60.0
"""Seconds between two lines in the log about one accuser."""


class _Answers:
    """The answers to one accuser."""

    __slots__ = ("last", "pause", "times")

    def __init__(self) -> None:
        self.pause = 0.0
        self.last = -math.inf
        self.times: deque[float] = deque(maxlen=MAX_ANSWERS + 1)


class Refutation:
    """Remembers how often each accuser was answered; all workers of an identity are one accuser.

    An answer is a new record, which travels to every node. So an accuser whose verdicts do not
    count is answered after longer and longer pauses, or it could flood the mesh.
    """

    def __init__(self) -> None:
        self._answers: dict[str, _Answers] = {}
        self._outvoted_since: dict[str, float] = {}
        self._log_limiter = LogLimiter(_log, period=LOG_EVERY, counts=False)

    def is_due(self, accuser: str, now: float, *, is_observer: bool) -> bool:
        """Tells whether to answer an accusation now.

        An accuser that became an observer counts from then on: its longer pause does not apply.
        """
        answers = self._answers.get(owner_of(accuser))
        if answers is None:
            return True
        pause = min(answers.pause, REFUTE_EVERY) if is_observer else answers.pause
        return now >= answers.last + pause

    def answered(self, verdict: Verdict, now: float, *, is_observer: bool) -> None:
        """Notes an answer; names an accuser that made too many necessary."""
        answers = self._answers.setdefault(owner_of(verdict.accuser), _Answers())
        if now - answers.last - answers.pause >= MAX_PAUSE:
            answers.pause = 0.0
            answers.times.clear()
        answers.times.append(now)
        if is_observer:
            answers.pause = REFUTE_EVERY
            if len(answers.times) > MAX_ANSWERS and now - answers.times[0] < LOG_EVERY:
                line = "%s says that %s is %s, again and again: it lies, or cannot reach it"
                self._warn(line, verdict, now)
        else:
            # The other side of a healed partition accuses once, and accepts the answer.
            if len(answers.times) > 1:
                line = "%s says that %s is %s, but is not its observer; the verdict does not count"
                self._warn(line, verdict, now)
            answers.pause = min(2 * answers.pause or REFUTE_EVERY, MAX_PAUSE)
        answers.last = now

    def outvoted(self, verdicts: Collection[Verdict], now: float) -> None:
        """Takes all answered verdicts that a minority maintains; names accusers that go on so."""
        since = self._outvoted_since
        self._outvoted_since = {v.accuser: since.get(v.accuser, now) for v in verdicts}
        for verdict in verdicts:
            if now - self._outvoted_since[verdict.accuser] >= OUTVOTED_FOR:
                line = (
                    "%s maintains that %s is %s, though most of its observers do not: "
                    "it lies, or cannot reach it"
                )
                self._warn(line, verdict, now)

    def forget(self, accuser: str) -> None:
        self._answers.pop(owner_of(accuser), None)
        self._log_limiter.forget(owner_of(accuser))

    def _warn(self, line: str, verdict: Verdict, now: float) -> None:
        accuser = verdict.accuser
        # One kind for all lines: an accuser is named once a minute, whatever it does.
        self._log_limiter.warn(
            owner_of(accuser), "", line, accuser, verdict.subject, verdict.opinion, now=now
        )
