"""Virtual time: a queue of actions in the order of their times."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Entity:
    """Something that acts in virtual time.

    Attributes:
        has_ended: Whether it ended; its pending actions are dropped.
        paused_until: The end of its pause; its pending actions wait until then, in order.
    """

    has_ended = False
    paused_until = 0.0


class VirtualClock:
    """Runs actions in the order of their times, and moves the time from each to the next.

    Attributes:
        now: Seconds since the start.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._count = itertools.count()
        # Time, the time before any pause, a counter (so that no more is compared), entity, action.
        self._due: list[
            tuple[float, float, int, Entity | None, Callable[..., object], tuple[Any, ...]]
        ] = []

    def after(
        self, delay: float, entity: Entity | None, action: Callable[..., object], *args: Any
    ) -> None:
        """Runs an action in `delay` seconds, unless the entity has ended by then."""
        self.at(self.now + delay, entity, action, *args)

    def at(
        self, when: float, entity: Entity | None, action: Callable[..., object], *args: Any
    ) -> None:
        """Runs an action at a given time, as `after` does."""
        heapq.heappush(self._due, (when, when, next(self._count), entity, action, args))

    def run(self, until: float) -> None:
        due = self._due
        while due and due[0][0] <= until:
            when, first, count, entity, action, args = heapq.heappop(due)
            self.now = when
            if entity is not None:
                if entity.has_ended:
                    continue
                if entity.paused_until > when:
                    item = (entity.paused_until, first, count, entity, action, args)
                    heapq.heappush(due, item)
                    continue
            action(*args)
        self.now = until
