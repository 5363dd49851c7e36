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

    A call is here from when it came until it is over. It takes one of the places only when it
    runs, once it is known that its caller may call: others must not take the place of those.

    Args:
        limit: The most calls that run at the same time; None for no limit.

    Attributes:
        limit: As given.
        arrived: Calls that came so far, let in or not.
        begun: Calls that ran so far.
        shed: Calls that were turned away because the limit was reached.
        late: Calls that were turned away because it was closed.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.arrived = 0
        self.begun = 0
        self.shed = 0
        self.late = 0
        self._here: set[Hashable] = set()
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
    def empty(self) -> bool:
        """Whether no call is here."""
        return not self._here

    @property
    def closed(self) -> bool:
        """Whether no more calls are let in."""
        return self._closed

    def enter(self, call: Hashable) -> TurnedAway | None:
        """Lets a call in, or says why not."""
        self.arrived += 1
        if self._closed:
            self.late += 1
            return TurnedAway.CLOSED
        if self._is_full():
            return TurnedAway.FULL
        self._here.add(call)
        return None

    def begin(self, call: Hashable) -> bool:
        """Gives a call that is here a place to run; tells if there was one."""
        if self._is_full():
            return False
        self._running.add(call)
        self.begun += 1
        return True

    def leave(self, call: Hashable) -> None:
        """Notes that a call is over; once or more often."""
        self._here.discard(call)
        self._running.discard(call)

    def close(self) -> None:
        """Lets no more calls in; those that are here go on."""
        self._closed = True

    def _is_full(self) -> bool:
        """Tells whether one more call is too many, and counts it then."""
        full = self.limit is not None and len(self._running) >= self.limit
        self.shed += full
        return full
