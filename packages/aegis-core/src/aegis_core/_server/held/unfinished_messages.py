"""Bounds the memory of messages of which a part has arrived, in calls with many requests. Pure.

gRPC keeps what has arrived of a message up to the largest one and shows nothing of it before its
end. It cannot be read in turn as single requests are: who waits for the next message of a stream
may wait for hours, and cannot take that back. But the system counts what a connection has received,
so what is not accounted for by complete messages is held.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

CallT = TypeVar("CallT")

FEW = 2
"""Open calls of one caller, times its live workers, that may hold 4 MiB each unwatched: 8 MiB."""

MAX_UNFINISHED = 20 * 1024 * 1024
"""Bytes of unfinished messages of one caller, times its live workers, above which calls are ended.

500 uploads at once in messages of 64 KiB have 16 MB under way, if half of each has arrived.
"""

REFUSED_FOR = 10.0
"""Seconds for which such a caller may open no more than a few."""

LOOK_EVERY = 0.05
"""Seconds between two looks at what connections have received, while somebody has many calls: 10 MB
arrive in between at 200 MB/s."""

LOOK_SOON = 0.01
"""The same once a caller seems to hold half of what it may."""

OVERHEAD = 128
"""Bytes of a message besides its content, at most: gRPC, HTTP/2 and TLS take 36, what its receiver
sends in return another 80."""


class Inflow(Generic[CallT]):
    """One call with many requests.

    Attributes:
        call: The call.
        caller: Who calls.
        peer: Its connection, as gRPC names it.
        taken: Bytes of the messages that were complete, with their overhead.
    """

    __slots__ = ("call", "caller", "peer", "taken")

    def __init__(self, call: CallT, caller: str, peer: str) -> None:
        self.call = call
        self.caller = caller
        self.peer = peer
        self.taken = 0

    def note(self, size: int) -> None:
        """Counts a message that is complete. Each call has one reader, so no lock is needed."""
        self.taken += size + (size >> 5) + OVERHEAD


class Excess(NamedTuple, Generic[CallT]):
    """Calls to end.

    Attributes:
        caller: Who makes them.
        calls: All but a few, the newest ones.
        peers: Connections to close, since they go on to send much.
    """

    caller: str
    calls: list[CallT]
    peers: frozenset[str]


class _Watch:
    """A caller with many calls open.

    Attributes:
        explained: What each connection had received when it was seen first, or what is known not to
            be held any more.
        taken: Bytes of complete messages, of calls that are over and of single requests.
        allocated: The least memory of the process since then; None before the first look.
    """

    def __init__(self) -> None:
        self.explained: dict[str, int] = {}
        self.taken: Counter[str] = Counter()
        self.allocated: int | None = None


class UnfinishedMessages(Generic[CallT]):
    """Knows who has many calls with streams of requests open. It may be used from any thread.

    Args:
        workers_of: Returns how many processes share an identity, and so have its limit together.
        on_watch: Called when a caller has many such calls open.
        clock: Monotonic seconds.

    Attributes:
        is_watching: Whether `excess` must be asked again and again.
        is_near: Whether somebody seemed to hold half of what it may when it was asked last.
    """

    def __init__(
        self,
        workers_of: Callable[[str], int] = lambda _: 1,
        on_watch: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_watching = False
        self.is_near = False
        self._clock = clock
        self._refused_until: dict[str, float] = {}
        self.on_watch = on_watch
        self._workers_of = workers_of
        self._inflows: dict[str, dict[Inflow[CallT], None]] = {}
        self._watches: dict[str, _Watch] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<UnfinishedMessages {len(self)} watching={sorted(self._watches)}>"

    def __len__(self) -> int:
        return sum(map(len, self._inflows.values()))

    def open(self, call: CallT, caller: str, peer: str) -> Inflow[CallT] | None:
        """Returns what counts the messages of a call, which must be closed; None to refuse it."""
        inflow = Inflow(call, caller, peer)
        with self._lock:
            inflows = self._inflows.setdefault(caller, {})
            if len(inflows) >= FEW and self._refused_until and self._is_refused(caller):
                return None
            inflows[inflow] = None
            starts = len(inflows) > FEW and caller not in self._watches
            if starts:
                self._watches[caller] = _Watch()
                self.is_watching = True
        if starts:
            self.on_watch()
        return inflow

    def close(self, inflow: Inflow[CallT]) -> None:
        """Counts a call as over."""
        with self._lock:
            inflows = self._inflows.get(inflow.caller, {})
            if inflows.pop(inflow, inflow) is inflow:
                return
            watch = self._watches.get(inflow.caller)
            if watch is not None:
                watch.taken[inflow.peer] += inflow.taken
            if len(inflows) <= FEW:
                self._watches.pop(inflow.caller, None)
                self.is_watching = bool(self._watches)
            if not inflows:
                del self._inflows[inflow.caller]

    def note_request(self, caller: str, peer: str, size: int) -> None:
        """Counts the one request of another call of a caller."""
        with self._lock:
            watch = self._watches.get(caller)
            if watch is not None:
                watch.taken[peer] += size + (size >> 5) + 4 * OVERHEAD

    @property
    def peers(self) -> frozenset[str]:
        """The connections of callers with many calls."""
        with self._lock:
            return frozenset(
                inflow.peer for caller in self._watches for inflow in self._inflows[caller]
            )

    def excess(
        self, received: Mapping[str, int], allocated: Callable[[], int | None]
    ) -> list[Excess[CallT]]:
        """Returns what to end.

        Where the memory of the process did not grow, what seems to be held is not: a caller gave
        up in the middle of messages, or received much, which it has to acknowledge.

        Args:
            received: The bytes that each connection has received.
            allocated: Returns the memory that the process has allocated; None if that is unknown.
        """
        found = []
        with self._lock:
            self.is_near = False
            for caller, watch in self._watches.items():
                if watch.allocated is None:
                    watch.allocated = allocated() or 0
                unexplained = self._unexplained(caller, watch, received)
                held, limit = sum(unexplained.values()), self._limit(caller)
                self.is_near = self.is_near or held > limit / 2
                if held <= limit:
                    continue
                now = allocated() or 0
                before, watch.allocated = watch.allocated, min(watch.allocated, now)
                for peer, more in unexplained.items():
                    watch.explained[peer] += more
                if now - before < limit / 2:
                    continue
                self._refused_until[caller] = self._clock() + REFUSED_FOR
                peers = {peer for peer, more in unexplained.items() if more > 2 * limit}
                calls = [inflow.call for inflow in [*self._inflows[caller]][FEW:]]
                found.append(Excess(caller, calls, frozenset(peers)))
        return found

    def _is_refused(self, caller: str) -> bool:
        now = self._clock()
        self._refused_until = {c: until for c, until in self._refused_until.items() if until > now}
        return caller in self._refused_until

    def _limit(self, caller: str) -> int:
        return MAX_UNFINISHED * self._workers_of(caller)

    def _unexplained(
        self, caller: str, watch: _Watch, received: Mapping[str, int]
    ) -> dict[str, int]:
        taken = Counter(watch.taken)
        for inflow in self._inflows[caller]:
            taken[inflow.peer] += inflow.taken
        unexplained = {}
        for peer, count in received.items():
            if peer in taken:
                explained = watch.explained.setdefault(peer, count - taken[peer])
                # What is taken now and was received before the first look must not count twice.
                if count - taken[peer] < explained:
                    explained = watch.explained[peer] = count - taken[peer]
                unexplained[peer] = count - taken[peer] - explained
        return unexplained
