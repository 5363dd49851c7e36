"""How many calls of the user's services run, and whether one more may."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Generic, Protocol, TypeVar

MANY = 256
"""Calls on their way among which those that were given up are looked for."""


class AdmissionRefused(Enum):
    """Why a call was not let in. Nothing of it ran, so that another provider may take it."""

    FULL = "full"
    CLOSED = "closed"


class Call(Protocol):
    """What is known of a call."""

    def done(self) -> bool:
        """Tells whether it is over."""


CallT = TypeVar("CallT", bound=Call)


class AdmissionControl(Generic[CallT]):
    """Lets calls in, up to a limit and until it closes.

    A call is on its way from when it came until it runs: its request may take long. It takes one
    of the places only when it runs, once it is known that its caller may call: others must not
    take the place of those.

    Args:
        limit: The most calls that run at the same time; None for no limit.

    Attributes:
        limit: As given.
        running: Calls that run now.
        arrived: Calls that came so far, let in or not.
        begun: Calls that ran so far.
        shed: Calls that were turned away because the limit was reached.
        late: Calls that were turned away because it was closed.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.running: set[CallT] = set()
        self.arrived = 0
        self.begun = 0
        self.shed = 0
        self.late = 0
        self._most = inf if limit is None else limit
        self._coming: set[CallT] = set()
        self._many = MANY
        self._closed = False

    def __repr__(self) -> str:
        limit = "" if self.limit is None else f"/{self.limit}"
        return f"<AdmissionControl {len(self.running)}{limit} running{' closed' * self._closed}>"

    @property
    def empty(self) -> bool:
        """Whether no call runs or is on its way."""
        return not self.running and all(call.done() for call in self._coming)

    @property
    def closed(self) -> bool:
        """Whether no more calls are let in."""
        return self._closed

    def enter(self, call: CallT) -> AdmissionRefused | None:
        """Lets a call in, or says why not."""
        self.arrived += 1
        if self._closed:
            self.late += 1
            return AdmissionRefused.CLOSED
        if len(self.running) >= self._most:
            self.shed += 1
            return AdmissionRefused.FULL
        self._coming.add(call)
        if len(self._coming) > self._many:
            self._coming = {call for call in self._coming if not call.done()}
            self._many = max(MANY, 2 * len(self._coming))
        return None

    def begin(self, call: CallT) -> bool:
        """Gives a call that came a place to run, until it leaves; tells if there was one."""
        self._coming.discard(call)
        if len(self.running) >= self._most:
            self.shed += 1
            return False
        self.running.add(call)
        self.begun += 1
        return True

    def leave(self, call: CallT) -> None:
        """Notes that a call does not run any more. Any thread may say so."""
        self.running.discard(call)

    def close(self) -> None:
        """Lets no more calls in; those that came go on."""
        self._closed = True
