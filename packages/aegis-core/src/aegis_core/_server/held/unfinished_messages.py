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
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Generic, NamedTuple, Protocol, TypeVar

from aegis_core._server.held.complete_messages import OVERHEAD, Inflow, Taken
from aegis_core._server.held.first_look import EarlierMemory
from aegis_core._server.held.running_requests import USUAL_MESSAGE

CallT = TypeVar("CallT")

FEW = 2
"""Open calls of one caller, times its live workers, that may hold 4 MiB each unwatched: 8 MiB."""

MAX_UNFINISHED = 16 * 1024 * 1024
"""Bytes of unfinished messages of one caller, times its live workers, above which calls are ended.

500 uploads at once in messages of 64 KiB have 16 MB under way, if half of each has arrived.
"""

MUCH = 1.5
"""How many times as much is held when the connections of such a caller are closed at once, since it
sends faster than its calls can be ended one by one."""

REFUSED_FOR = 10.0
"""Seconds for which such a caller may open no more than a few."""

GOES_ON = 100
"""Further calls of it in that time, times its live workers, after which all its calls are refused:
on 16 connections the beginnings of those that are refused took 30 MB."""

GROWTH = 1.75
"""How many times what a caller may hold the process may grow while it holds more than half of that:
a call that waits takes as much besides its request as within it, and many are not seen yet."""

DELIVERED = 2
"""How many times as much as of unfinished messages handlers may have been given: of each open call
the newest message, since its handler may keep that until the next. 500 uploads in messages of 64
KiB have 33 MB."""

FEW_CONNECTIONS = 4
"""Connections with such calls, times the live workers of the caller, above which it loses them at
once: to end its calls one by one took 0.1 s. A process has one connection to a node for its calls.
"""

MANY_SPREAD = 100
"""Calls of such a caller, with those that are not seen yet, from which on the process may grow by
no more than it may hold. Of fewer large requests, handlers may hold as much.
"""

MANY_CALLS = 200
"""Such calls of a caller from which on that counts. What the handlers of fewer large requests take,
and all that the process does besides, would look like it.
"""

UNJUDGED = 2
"""Requests that an asyncio node reads before it knows whose they are, and so not in turn. An honest
caller may have them beside the others; on more than a few connections it has none."""

UNREAD = 16 * 1024
"""Bytes of a request that nobody reads, and which may be held in addition."""

LOOK_EVERY = 0.05
"""Seconds between two looks at what connections have received, while somebody has many calls: 10 MB
arrive in between at 200 MB/s."""

LOOK_SOON = 0.01
"""The same once a caller seems to hold half of what it may."""


class Excess(NamedTuple, Generic[CallT]):
    """Calls to end.

    Attributes:
        caller: Who makes them.
        calls: All that wait for a request, and all but a few with many requests, the newest ones.
        peers: Connections to close, since much more has arrived than may be held.
        is_blocked: Whether all calls of the caller are to be refused for a while: it holds more
            than it can by the requests of an honest one.
    """

    caller: str
    calls: list[CallT]
    peers: frozenset[str]
    is_blocked: bool


class Waiting(Protocol[CallT]):
    """The requests of calls that have one, while they have not arrived."""

    def count(self, caller: str) -> int: ...

    def started(self, caller: str) -> int: ...

    def peers(self, caller: str) -> set[str]: ...

    def calls(self, caller: str) -> list[CallT]: ...


class _Watch:
    """A caller with many calls open.

    Attributes:
        explained: What each connection had received when it was seen first, or what is known not to
            be held any more.
        taken: Bytes of complete messages, of calls that are over and of single requests.
        allocated: The least memory of the process since then, or shortly before; None before the
            first look.
    """

    def __init__(self) -> None:
        self.explained: dict[str, int] = {}
        self.taken: Counter[str] = Counter()
        self.allocated: int | None = None


class UnfinishedMessages(Generic[CallT]):
    """Knows who has many calls open that may hold much. It may be used from any thread.

    Args:
        workers_of: Returns how many processes share an identity, and so have its limit together.
        on_watch: Called when a caller has many such calls open.
        clock: Monotonic seconds.

    Attributes:
        on_more: Called when a caller that is watched opens another such call.
        is_counting: Whether single requests must be noted.
        is_watching: Whether `excess` must be asked again and again.
        is_near: Whether somebody seemed to hold half of what it may when it was asked last.
        waiting: The calls with one request each, which are read in turn.
        unjudged: Returns how many calls are read whose callers nobody has judged yet.
        max_message: Bytes of the largest message.
        memory: What the process had before.
    """

    waiting: Waiting[CallT] | None = None
    max_message = USUAL_MESSAGE

    def __init__(
        self,
        workers_of: Callable[[str], int] = lambda _: 1,
        on_watch: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_counting = self.is_watching = False
        self.is_near = False
        self._clock = clock
        self._refused_until: dict[str, float] = {}
        self._refused: Counter[str] = Counter()
        self.memory = EarlierMemory()
        self.on_watch = on_watch
        self.on_more: Callable[[], object] = lambda: None
        self.unjudged: Callable[[], int] = lambda: 0
        self._workers_of = workers_of
        self._inflows: dict[str, dict[Inflow[CallT], None]] = {}
        self._watches: dict[str, _Watch] = {}
        self._suspects: dict[str, Taken] = {}
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
                self._refused[caller] += 1
                return None
            inflows[inflow] = None
            are_many = len(inflows) > FEW
        if are_many:
            self.watch(caller)
        return inflow

    def watch(self, caller: str) -> None:
        """Looks at what a caller holds, until it has few calls open that may hold much."""
        if caller in self._watches:
            self.on_more()
            return
        with self._lock:
            starts = caller not in self._watches
            if starts:
                self._watches[caller] = _Watch()
                self.is_counting = self.is_watching = True
        if starts:
            self.on_watch()

    def goes_on(self, caller: str) -> bool:
        """Tells whether a caller opens call after call although these are refused."""
        return self._refused[caller] > GOES_ON * self._workers_of(caller)

    def close(self, inflow: Inflow[CallT]) -> None:
        """Counts a call as over."""
        with self._lock:
            inflows = self._inflows.get(inflow.caller, {})
            if inflows.pop(inflow, inflow) is inflow:
                return
            watch = self._watches.get(inflow.caller)
            if watch is not None:
                watch.taken[inflow.peer] += inflow.taken
            if inflow.peer in self._suspects:
                self._take(inflow.peer, 0, inflow.messages, inflow.taken)
            self._stop_if_few(inflow.caller)
            if not inflows:
                del self._inflows[inflow.caller]

    def _stop_if_few(self, caller: str) -> bool:
        if len(self._inflows.get(caller, ())) > FEW or self._count(caller) > FEW:
            return False
        self._watches.pop(caller, None)
        self.is_watching = bool(self._watches)
        self.is_counting = self.is_watching or bool(self._suspects)
        return True

    def _count(self, caller: str) -> int:
        return self.waiting.count(caller) if self.waiting is not None else 0

    def note_request(self, caller: str, peer: Callable[[], str], size: int) -> None:
        """Counts the one request of another call, if its caller is watched or suspected.

        Args:
            caller: Who calls; empty if its calls are refused.
            peer: Returns its connection, as gRPC names it.
            size: Bytes of the request.
        """
        if not self.is_counting:
            return
        with self._lock:
            watch = self._watches.get(caller)
            if watch is None and not self._suspects:
                return
            name, taken = peer(), size + (size >> 5) + 4 * OVERHEAD
            if watch is not None:
                watch.taken[name] += taken
            if name in self._suspects:
                self._take(name, 1, 1, taken)

    def _take(self, peer: str, requests: int, messages: int, size: int) -> None:
        self._suspects[peer] = self._suspects[peer].plus(requests, messages, size)

    def suspect(self, peer: str) -> None:
        """Counts what is complete on a connection, which `taken_on` returns, until `acquit`."""
        with self._lock:
            self._suspects[peer] = Taken()
            self.is_counting = True

    def acquit(self) -> None:
        """Suspects no connection any more."""
        with self._lock:
            self._suspects.clear()
            self.is_counting = self.is_watching

    def taken_on(self, peer: str, caller: str) -> Taken:
        """Returns what is complete on a suspected connection, and was before on its open calls."""
        with self._lock:
            taken = self._suspects.get(peer, Taken())
            for inflow in self._inflows.get(caller, ()):
                if inflow.peer == peer:
                    taken = taken.plus(0, inflow.messages, inflow.taken)
            return taken

    def reading(self, caller: str) -> int:
        """Returns how many messages of a caller may have arrived in part, above 64 KiB each."""
        requests = self.waiting.started(caller) if self.waiting is not None else 0
        with self._lock:
            return requests + self.unjudged() + len(self._inflows.get(caller, ()))

    def peers_of(self, caller: str) -> set[str]:
        """Returns the connections with calls of a caller that may hold much."""
        with self._lock:
            return self._peers_of(caller)

    def _peers_of(self, caller: str) -> set[str]:
        peers = {inflow.peer for inflow in self._inflows.get(caller, ())}
        return peers | self.waiting.peers(caller) if self.waiting is not None else peers

    @property
    def peers(self) -> frozenset[str]:
        """The connections of callers with many calls."""
        with self._lock:
            return frozenset().union(*map(self._peers_of, self._watches))

    def never_seen(self, peers: Collection[str]) -> set[str]:
        """Returns those connections that were in no look since their callers are watched."""
        with self._lock:
            return {*peers}.difference(*(watch.explained for watch in self._watches.values()))

    def excess(
        self,
        received: Mapping[str, int],
        allocated: Callable[[], int | None],
        explained: Mapping[str, int] = MappingProxyType({}),
        unseen: Callable[[], int] = lambda: 0,
    ) -> list[Excess[CallT]]:
        """Returns what to end.

        Where the memory of the process did not grow, what seems to be held is not: a caller gave
        up in the middle of messages, or received much, which it has to acknowledge.

        Args:
            received: The bytes that each connection has received.
            allocated: Returns the memory that the process has allocated; None if that is unknown.
            explained: The most that each connection had received before and does not hold, where
                that is known; else what is there at the first look counts as known.
            unseen: Returns how many calls no code of the node has seen yet.
        """
        found = []
        with self._lock:
            self.is_near = False
            for caller, watch in [*self._watches.items()]:
                if self._stop_if_few(caller):
                    continue
                if watch.allocated is None:
                    watch.allocated = self.memory.least(allocated() or 0)
                unexplained = self._unexplained(caller, watch, received, explained)
                spreads = len(unexplained) > FEW_CONNECTIONS * self._workers_of(caller)
                unjudged = 0 if spreads else min(self.unjudged(), UNJUDGED) * self.max_message
                held, limit = sum(unexplained.values()) - unjudged, self.limit_of(caller)
                delivered = sum(inflow.newest for inflow in self._inflows.get(caller, ()))
                is_half = held > limit / 2
                is_near = is_half or delivered > limit
                self.is_near = self.is_near or is_near
                if not is_near:
                    continue
                now = allocated() or 0
                grown = now - watch.allocated
                count = self._count(caller) + len(self._inflows.get(caller, ()))
                if spreads:
                    grew = grown > limit and count + unseen() >= MANY_SPREAD
                else:
                    grew = grown > GROWTH * limit and count >= MANY_CALLS
                grew = (grew and is_half) or (grown > limit and delivered > DELIVERED * limit)
                if held <= limit and not grew:
                    continue
                watch.allocated = min(watch.allocated, now)
                for peer, more in unexplained.items():
                    watch.explained[peer] += more
                if grown < limit / 2:
                    continue
                self._refused_until[caller] = self._clock() + REFUSED_FOR
                self._refused.pop(caller, None)
                inflows = [*self._inflows.get(caller, ())]
                calls = [inflow.call for inflow in inflows[FEW:]]
                if self.waiting is not None:
                    calls += self.waiting.calls(caller)
                is_blocked = spreads or len(calls) > 2 * len(inflows)
                closes = is_blocked or held > MUCH * limit
                peers = frozenset(unexplained) if closes else frozenset()
                found.append(Excess(caller, calls, peers, is_blocked))
        return found

    def _is_refused(self, caller: str) -> bool:
        now = self._clock()
        self._refused_until = {c: until for c, until in self._refused_until.items() if until > now}
        self._refused = Counter({c: self._refused[c] for c in self._refused_until})
        return caller in self._refused_until

    def limit_of(self, caller: str) -> int:
        """Returns how many bytes of unfinished messages a caller may have."""
        share = max(1.0, self.max_message / USUAL_MESSAGE)
        return int(MAX_UNFINISHED * share) * self._workers_of(caller) + UNREAD * self._count(caller)

    def _unexplained(
        self, caller: str, watch: _Watch, received: Mapping[str, int], most: Mapping[str, int]
    ) -> dict[str, int]:
        taken = Counter(dict.fromkeys(self._peers_of(caller), 0))
        taken.update(watch.taken)
        for inflow in self._inflows.get(caller, ()):
            taken[inflow.peer] += inflow.taken
        unexplained = {}
        for peer, count in received.items():
            if peer in taken:
                at_first = count - taken[peer]
                at_first = min(at_first, most.get(peer, at_first))
                explained = watch.explained.setdefault(peer, at_first)
                # What is taken now and was received before the first look must not count twice.
                if count - taken[peer] < explained:
                    explained = watch.explained[peer] = count - taken[peer]
                unexplained[peer] = count - taken[peer] - explained
        return unexplained
