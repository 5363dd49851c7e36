"""Limits how many requests of one caller are read, or held by handlers, at once. Does no I/O.

gRPC keeps what has arrived of a request that it was asked to read, up to the largest message, and
shows nothing of it before its end: 900 calls whose requests lacked the last byte took 1.9 GB. Of a
request that nobody reads it takes 16 KiB (`grpc.http2.lookahead_bytes`), and its sender waits. So
do those of a caller of which handlers have a lot already.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Sized
from typing import Generic, TypeVar

from aegis_core._server.held.running_requests import COPIES, RunningRequests

CallT = TypeVar("CallT")

MAX_READS = 4
"""Requests of one caller that are read at once, times its live workers: 20 MiB of the largest ones.

What handlers have takes places, too: one for each 4 MiB, or whatever the largest message may have.
Requests of 1 MiB or more take more of them than smaller ones, since gRPC copies them.

Small requests arrive with their calls, so those of an honest caller do not wait for each other. The
last place goes to a method that has no other, so they do not wait for large ones of another method;
if handlers have all places, there is one more for such methods.
"""

UNJUDGED = 1
"""Places that requests take before it is known whose they are. They take it from everybody, and
nobody says when they end, so it is not more."""

TURN = 5.0
"""Seconds that a read may take while other calls of its caller wait: 4 MiB need 7 Mbit/s."""


class _Read:
    """A request that is read, or waits for that.

    Attributes:
        method: What is called.
        start: Starts it; returns False if the call is over.
        peer: Returns the connection, as gRPC names it.
        since: When it was started; None while it waits.
        peer_name: What `peer` has returned.
    """

    __slots__ = ("method", "peer", "peer_name", "since", "start")

    def __init__(
        self,
        method: str | None,
        start: Callable[[], bool],
        peer: Callable[[], str],
        since: float | None,
    ) -> None:
        self.method = method
        self.start = start
        self.peer = peer
        self.since = since
        self.peer_name: str | None = None


class RequestReads(Generic[CallT]):
    """Lets the requests of a caller be read in turn. It may be used from any thread.

    Args:
        workers_of: Returns how many processes share an identity, and so have its limit together.
        held: Callers whose requests wait, such as those that do not read their answers.
        blocked: Callers whose requests are not waited for any more.
        clock: Monotonic seconds.

    Attributes:
        on_many: Called with a caller of which more than a few requests have not arrived.
        running: The requests that handlers have.
        unjudged: Calls whose requests are read before anybody knows whose they are.
    """

    def __init__(
        self,
        workers_of: Callable[[str], int] = lambda _: 1,
        held: Container[str] = (),
        blocked: Container[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers_of = workers_of
        self._held = held
        self._blocked = blocked
        self.on_many: Callable[[str], object] = lambda _: None
        self.running = RunningRequests[CallT](MAX_READS, workers_of)
        self._busy = self.running.busy
        self.unjudged: Sized = ()
        self._waiting = Counter[str]()
        self._clock = clock
        self._reads: dict[str, dict[CallT, _Read]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<RequestReads {len(self)}>"

    def __len__(self) -> int:
        return sum(map(len, self._reads.values()))

    def count(self, caller: str) -> int:
        """Returns how many requests of a caller have not arrived."""
        return len(self._reads.get(caller, ()))

    def started(self, caller: str) -> int:
        """Returns how many of them are read now."""
        with self._lock:
            return sum(read.since is not None for read in self._reads.get(caller, {}).values())

    def peers(self, caller: str) -> set[str]:
        """Returns the connections on which requests of a caller have not arrived."""
        with self._lock:
            reads = [*self._reads.get(caller, {}).values()]
        for read in reads:
            if read.peer_name is None:
                read.peer_name = read.peer()
        return {read.peer_name for read in reads if read.peer_name is not None}

    def calls(self, caller: str) -> list[CallT]:
        """Returns the calls of a caller whose requests have not arrived."""
        with self._lock:
            return [*self._reads.get(caller, ())]

    def begin(
        self,
        caller: str,
        call: CallT,
        method: str | None,
        start: Callable[[], bool],
        peer: Callable[[], str],
    ) -> None:
        """Starts the read of a request, now or when others of the caller have ended.

        Args:
            caller: Who calls.
            call: The call. Every begun one must be ended.
            method: What it calls; None for the methods of the node itself, which count as one.
            start: Starts the read; returns False if the call is over.
            peer: Returns the connection, as gRPC names it.
        """
        with self._lock:
            reads = self._reads.get(caller)
            if reads is None:
                reads = self._reads[caller] = {}
            are_few = len(reads) < MAX_READS - 1
            has_turn = are_few and not (
                self.unjudged or caller in self._held or caller in self._busy
            )
            if not has_turn:
                left, started = self._room(caller, reads)
                has_turn = self._fits(method, left, started)
                if not has_turn:
                    self._waiting[caller] += 1
            reads[call] = _Read(method, start, peer, self._clock() if has_turn else None)
        if not are_few:
            self.on_many(caller)
        if has_turn and not start():
            self.end(caller, call)

    def end(self, caller: str, call: CallT) -> None:
        """Counts a read as ended, whether it was started or not, and starts the newest one.

        The newest one, because old ones may be of requests that do not arrive.
        """
        following = self._next(caller, call)
        while following is not None:
            call, start = following
            if start():
                return
            following = self._next(caller, call)

    def release(self, caller: str, call: CallT) -> None:
        """Counts the request of a call as held by no handler any more; starts what has a turn."""
        self.running.remove(caller, call)
        if caller in self._reads:
            self.resume(caller)
        if not self._waiting.get(caller):
            self.running.settle(caller)

    def resume(self, caller: str) -> None:
        """Starts what waits and has a turn, when a caller is not held any more."""
        while (following := self._take(caller)) is not None:
            call, start = following
            if not start():
                self.end(caller, call)

    def overstayed(self) -> list[CallT]:
        """Returns calls whose requests take long to arrive, while others of their caller wait.

        And all of callers that are blocked: what these hold on other connections.
        """
        now = self._clock()
        with self._lock:
            return [
                call
                for caller, reads in self._reads.items()
                if caller in self._blocked
                or (len(reads) >= MAX_READS and any(r.since is None for r in reads.values()))
                for call, read in reads.items()
                if caller in self._blocked or (read.since is not None and now - read.since >= TURN)
            ]

    def _room(self, caller: str, reads: dict[CallT, _Read]) -> tuple[float, list[str | None]]:
        """Returns how many places are left, and the methods that have the others."""
        if caller in self._held:
            return 0, []
        taken, of_running = self.running.places(caller)
        taken += min(len(self.unjudged), UNJUDGED)
        if not taken and len(reads) < MAX_READS - 1:
            return MAX_READS - len(reads), []
        started = [read.method for read in reads.values() if read.since is not None]
        left = MAX_READS * self._workers_of(caller) - sum(map(self._places_of, started)) - taken
        return (left if started else max(left, 1)), started + of_running

    def _places_of(self, method: str | None) -> float:
        return COPIES if method in self.running.very_large else 1

    def _fits(self, method: str | None, left: float, others: Container[str | None]) -> bool:
        return left - self._places_of(method) >= (method in others)

    def _next(self, caller: str, ended: CallT) -> tuple[CallT, Callable[[], bool]] | None:
        with self._lock:
            reads = self._reads.get(caller)
            if not reads:
                return None
            read = reads.pop(ended, None)
            if not reads:
                del self._reads[caller]
            if read is None:
                return None
            if read.since is None:
                self._waits_no_more(caller)
                return None
            return self._following(caller, reads) if reads else None

    def _take(self, caller: str) -> tuple[CallT, Callable[[], bool]] | None:
        with self._lock:
            return self._following(caller, self._reads.get(caller, {}))

    def _following(
        self, caller: str, reads: dict[CallT, _Read]
    ) -> tuple[CallT, Callable[[], bool]] | None:
        left, started = self._room(caller, reads)
        for call, read in reversed(reads.items()) if left > 0 else ():
            if read.since is None and self._fits(read.method, left, started):
                read.since = self._clock()
                self._waits_no_more(caller)
                return call, read.start
        return None

    def _waits_no_more(self, caller: str) -> None:
        self._waiting[caller] -= 1
        if not self._waiting[caller]:
            del self._waiting[caller]
            if caller in self._busy:
                self.running.settle(caller)
