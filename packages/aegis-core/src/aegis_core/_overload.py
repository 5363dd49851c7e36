"""How many calls of the user's services run, and whether one more may."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum


class TurnedAway(Enum):
    """Why a call was not let in. Nothing of it ran, so that another provider may take it."""

    FULL = "full"
    CLOSED = "closed"


class Intake:
    """Lets calls in, up to a limit and until it closes.

    Args:
        limit: The most calls that run at the same time; None for no limit.

    Attributes:
        limit: As given.
        begun: Calls that were let in so far.
        shed: Calls that were turned away because the limit was reached.
        late: Calls that were turned away because it was closed.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.begun = 0
        self.shed = 0
        self.late = 0
        self._running: set[Hashable] = set()
        self._closed = False

    def __repr__(self) -> str:
        limit = "" if self.limit is None else f"/{self.limit}"
        return f"<Intake {self.running}{limit} running{' closed' * self._closed}>"

    @property
    def running(self) -> int:
        """Calls that run now."""
        return len(self._running)

    @property
    def arrived(self) -> int:
        """Calls that came so far, let in or not."""
        return self.begun + self.shed + self.late

    @property
    def closed(self) -> bool:
        """Whether no more calls are let in."""
        return self._closed

    def enter(self, call: Hashable) -> TurnedAway | None:
        """Lets a call in, or says why not."""
        if self._closed:
            self.late += 1
            return TurnedAway.CLOSED
        if self.limit is not None and len(self._running) >= self.limit:
            self.shed += 1
            return TurnedAway.FULL
        self._running.add(call)
        self.begun += 1
        return None

    def leave(self, call: Hashable) -> None:
        """Notes that a call is over; once or more often."""
        self._running.discard(call)

    def close(self) -> None:
        """Lets no more calls in; those that run go on."""
        self._closed = True
