"""What is known of callers whose messages hold memory, and what to end of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from aegis_core._server.held.complete_messages import Inflow

CallT = TypeVar("CallT")


class Excess(NamedTuple, Generic[CallT]):
    """Calls to end.

    Attributes:
        caller: Who makes them.
        calls: All that wait for a request, and all but a few with many requests, the newest ones;
            or, if it is not refused, those with the largest newest messages.
        peers: Connections to close, since much more has arrived than may be held.
        is_blocked: Whether all calls of the caller are to be refused for a while: it holds more
            than it can by the requests of an honest one.
        is_refused: Whether it may open few such calls for a while. Else it may as soon as it holds
            less.
    """

    caller: str
    calls: list[CallT]
    peers: frozenset[str] = frozenset()
    is_blocked: bool = False
    is_refused: bool = True


def largest(inflows: list[Inflow[CallT]], excess: float) -> list[CallT]:
    """Returns the calls with the largest newest messages, of these the newest calls first.

    Args:
        inflows: The calls, the oldest one first.
        excess: Bytes that they have together, or more. They count as free from now on.
    """
    calls, by_size = [], sorted(inflows, key=lambda inflow: inflow.kept)
    while excess > 0 and by_size:
        inflow = by_size.pop()
        excess -= inflow.kept
        inflow.newest = 0
        calls.append(inflow.call)
    return calls


class Waiting(Protocol[CallT]):
    """The requests of calls that have one, while they have not arrived."""

    def count(self, caller: str) -> int: ...

    def started(self, caller: str) -> int: ...

    def peers(self, caller: str) -> set[str]: ...

    def calls(self, caller: str) -> list[CallT]: ...


class Watch:
    """A caller with many calls open.

    Attributes:
        explained: What each connection had received when it was seen first, or what is known not to
            be held any more.
        taken: Bytes of complete messages, of calls that are over and of single requests.
        allocated: The least memory of the process since then, or shortly before; None before the
            first look.
        kept: Bytes of newest messages at the last look.
    """

    def __init__(self) -> None:
        self.explained: dict[str, int] = {}
        self.taken: Counter[str] = Counter()
        self.allocated: int | None = None
        self.kept = 0


class Refusals:
    """Who may open no more than a few calls for a while, and who tries all the same.

    Args:
        seconds: For how long.
        clock: Monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._until: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    def begin(self, caller: str) -> None:
        """Refuses the further calls of a caller from now on."""
        self._until[caller] = self._clock() + self._seconds
        self._counts.pop(caller, None)

    def meets(self, caller: str) -> bool:
        """Counts a call, and tells whether it is to be refused."""
        if not self._until:
            return False
        now = self._clock()
        self._until = {name: until for name, until in self._until.items() if until > now}
        self._counts = Counter({name: self._counts[name] for name in self._until})
        if caller not in self._until:
            return False
        self._counts[caller] += 1
        return True

    def count(self, caller: str) -> int:
        """Returns how many calls of a caller were refused since `begin`."""
        return self._counts[caller]
