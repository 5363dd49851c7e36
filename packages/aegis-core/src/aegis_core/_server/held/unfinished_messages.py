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
from typing import Generic, TypeVar

from aegis_core._server.held.complete_messages import OVERHEAD, Inflow, Taken
from aegis_core._server.held.first_look import EarlierMemory
from aegis_core._server.held.running_requests import USUAL_MESSAGE
from aegis_core._server.held.watches import Excess, Refusals, Waiting, Watch, largest

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

KEPT = 2.0
"""How many times as much as of unfinished messages the newest messages of its open calls may have,
which handlers may keep until the next: 500 uploads in messages of 64 KiB, or five in messages of 4
MiB, since gRPC copies those. It is less by what else the caller has under way, above `BESIDE`, but
not less than half.
"""

BESIDE = 0.25
"""The same for what it has in unfinished messages, requests and answers."""

FULL = 0.9
"""Share of that above which it may open no further such call."""

LEFT = 0.75
"""Share of that which it has after the calls with the largest newest messages are ended."""

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
        elsewhere: Returns the bytes that a caller has in requests and answers.
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
        self._refusals = Refusals(REFUSED_FOR, clock)
        self.memory = EarlierMemory()
        self.on_watch = on_watch
        self.on_more: Callable[[], object] = lambda: None
        self.unjudged: Callable[[], int] = lambda: 0
        self.elsewhere: Callable[[str], int] = lambda _: 0
        self._full: set[str] = set()
        self._ended: Counter[str] = Counter()
        self._workers_of = workers_of
        self._inflows: dict[str, dict[Inflow[CallT], None]] = {}
        self._watches: dict[str, Watch] = {}
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
            if len(inflows) >= FEW and (caller in self._full or self._refusals.meets(caller)):
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
                self._watches[caller] = Watch()
                self.is_counting = self.is_watching = True
        if starts:
            self.on_watch()

    def goes_on(self, caller: str) -> bool:
        """Tells whether a caller opens call after call although these are refused."""
        return self._refusals.count(caller) > GOES_ON * self._workers_of(caller)

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
        self._full.discard(caller)
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
            self._ended.clear()
            self.is_counting = self.is_watching

    def taken_on(self, peer: str, caller: str) -> Taken:
        """Returns what is complete on a suspected connection, and was before on its open calls."""
        with self._lock:
            taken = self._suspects.get(peer, Taken())
            for inflow in self._inflows.get(caller, ()):
                if inflow.peer == peer:
                    taken = taken.plus(0, inflow.messages, inflow.taken)
            return taken

    def kept_by(self, caller: str) -> int:
        """Returns the bytes of the newest messages of a caller's open calls at the last look."""
        watch = self._watches.get(caller)
        return 0 if watch is None else watch.kept

    def reading(self, caller: str) -> int:
        """Returns how many messages of a caller may have arrived in part, above 64 KiB each."""
        requests = self.waiting.started(caller) if self.waiting is not None else 0
        with self._lock:
            calls = len(self._inflows.get(caller, ())) + self._ended[caller]
            return requests + self.unjudged() + calls

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
                excess = self._excess_of(caller, watch, unexplained, allocated, unseen)
                if excess is not None:
                    found.append(excess)
                    # What has arrived of them belongs to messages all the same.
                    self._ended[caller] += len(excess.calls) if self._suspects else 0
        return found

    def _excess_of(
        self,
        caller: str,
        watch: Watch,
        unexplained: Mapping[str, int],
        allocated: Callable[[], int | None],
        unseen: Callable[[], int],
    ) -> Excess[CallT] | None:
        inflows = [*self._inflows.get(caller, ())]
        spreads = len(unexplained) > FEW_CONNECTIONS * self._workers_of(caller)
        unjudged = 0 if spreads else min(self.unjudged(), UNJUDGED) * self.max_message
        held, limit = max(0, sum(unexplained.values()) - unjudged), self.limit_of(caller)
        kept = sum(inflow.kept for inflow in inflows)
        beside = max(0, held + self.elsewhere(caller) - BESIDE * limit)
        room = max(KEPT * limit - beside, KEPT * limit / 2)
        watch.kept = kept
        is_half = held > limit / 2
        is_near = is_half or kept > room / 2
        self.is_near = self.is_near or is_near
        self._full.discard(caller)
        if not is_near:
            return None
        now = allocated() or 0
        grown = now - (watch.allocated or 0)
        if grown > limit and kept > FULL * room:
            self._full.add(caller)
        count = self._count(caller) + len(inflows)
        if spreads:
            grew = grown > limit and count + unseen() >= MANY_SPREAD
        else:
            grew = grown > GROWTH * limit and count >= MANY_CALLS
        keeps_much = grown > limit and kept > MUCH * room
        if held <= limit and not (grew and is_half) and not keeps_much:
            if grown > limit and kept > room:
                return Excess(caller, largest(inflows, kept - LEFT * room), is_refused=False)
            return None
        watch.allocated = min(watch.allocated or 0, now)
        for peer, more in unexplained.items():
            watch.explained[peer] += more
        if grown < limit / 2:
            return None
        calls = [inflow.call for inflow in inflows[FEW:]]
        if self.waiting is not None:
            calls += self.waiting.calls(caller)
        is_blocked = spreads or len(calls) > 2 * len(inflows)
        self._refusals.begin(caller)
        closes = is_blocked or keeps_much or held > MUCH * limit
        peers = frozenset(unexplained) if closes else frozenset()
        return Excess(caller, calls, peers, is_blocked)

    def limit_of(self, caller: str) -> int:
        """Returns how many bytes of unfinished messages a caller may have."""
        share = max(1.0, self.max_message / USUAL_MESSAGE)
        return int(MAX_UNFINISHED * share) * self._workers_of(caller) + UNREAD * self._count(caller)

    def _unexplained(
        self, caller: str, watch: Watch, received: Mapping[str, int], most: Mapping[str, int]
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
