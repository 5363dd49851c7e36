"""Virtual time: what is due when, and who is there to do it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Actor:
    """Somebody who acts in time: stopped for a while, or ended.

    Attributes:
        is_over: Whether it ended; what it had still to do is dropped.
        stopped_until: While it is stopped, all that is due waits, in order.
    """

    is_over = False
    stopped_until = 0.0


class VirtualClock:
    """Does what is due, in order, moving time on from one thing to the next.

    Attributes:
        now: Seconds since the start.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._count = itertools.count()
        # Moment, the moment it was due at first, a counter, who, what: never compared further.
        self._due: list[
            tuple[float, float, int, Actor | None, Callable[..., object], tuple[Any, ...]]
        ] = []

    def after(
        self, delay: float, actor: Actor | None, action: Callable[..., object], *args: Any
    ) -> None:
        """Does something in `delay` seconds, unless the actor ended by then."""
        when = self.now + delay
        heapq.heappush(self._due, (when, when, next(self._count), actor, action, args))

    def at(
        self, when: float, actor: Actor | None, action: Callable[..., object], *args: Any
    ) -> None:
        """As `after`, at a given time."""
        heapq.heappush(self._due, (when, when, next(self._count), actor, action, args))

    def run(self, until: float) -> None:
        """Does all that is due up to a time."""
        due = self._due
        while due and due[0][0] <= until:
            when, first, count, actor, action, args = heapq.heappop(due)
            self.now = when
            if actor is not None:
                if actor.is_over:
                    continue
                if actor.stopped_until > when:
                    item = (actor.stopped_until, first, count, actor, action, args)
                    heapq.heappush(due, item)
                    continue
            action(*args)
        self.now = until
