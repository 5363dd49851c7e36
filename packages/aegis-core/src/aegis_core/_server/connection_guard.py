"""Closes connections that are one too many, and ends calls that hold much memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from itertools import islice
from typing import Generic

from aegis_discovery.signals import LogLimiter

from aegis_core._server.call_checks import CallChecks, CallT
from aegis_core._server.caller_sockets import FREED_AFTER, CallerSockets, parse_peer
from aegis_core._server.connection_limits import ConnectionLimits, Peer
from aegis_core._server.held import unfinished_messages
from aegis_core._server.held.channelz import ServerCounts
from aegis_core._server.held.first_look import most_explained
from aegis_core._server.held.long_headers import LongHeaders
from aegis_core._server.held.unfinished_messages import REFUSED_FOR
from aegis_core._server.held.unseen_calls import UnseenCalls
from aegis_core._server.held.watches import Excess
from aegis_core._server.memory import allocated_bytes, return_freed_memory
from aegis_core._server.rejections import UNFINISHED, Rejection

_log = logging.getLogger("aegis.server")

LOOK_EVERY = 0.02
"""Seconds between two looks at the connections, while new ones are opened."""

LOOK_AFTER = 16
"""New connections after which there is a look, while there are few."""

ACCEPTED_UNSEEN = 64
"""New connections after which gRPC accepts no more until there was a look.

gRPC accepts all that have arrived before it begins their handshakes. Of strangers who connected
4 000 times a second, 16 000 connections of 10 KB waited for that.
"""

MAX_CLOSING = 32
"""Closed connections that gRPC may still have; while it has more, no new ones are let in.

As long as some wait to be accepted, gRPC accepts them first. So it had up to 1 500 closed ones at
once, of up to 68 KB.
"""

MAX_ASKED = 64
"""Connections that gRPC is asked about in one look; each takes 0.4 ms."""

QUEUE = 64
"""Connections that may wait to be accepted; of others the system drops the first packet, which they
repeat after a second. gRPC asks for as many as the system allows, 4 096 on Linux.
"""

SHUT = 1
"""The same while none are let in. Some systems take 0 for as many as they allow."""

RETURN_EVERY = 0.25
"""Seconds between two returns of memory to the system, while connections are closed.

At 1 s, strangers that connect again and again made a node take 57 MB in between, at 0.25 s 42 MB.
"""

PAUSE = 0.02
"""Seconds between two closed connections of callers that flood."""

MAX_OLD = 4_096
"""Connections that are remembered to have carried many messages, so that nobody asks again."""

_UNFINISHED = (
    "%s sends parts of messages in many calls; %d of them are ended, and for %.0f s it may open "
    "few such calls, or none at all if it goes on"
)

_MUCH_AT_ONCE = "%s has much in the messages of few calls; %d of them are ended"


class ConnectionGuard:
    """Looks at the connections of a server when many are opened, and never without a reason.

    Args:
        limits: Decides which connections are closed.
        sockets: The connections.
        counts: What gRPC knows of them.
        unseen: Knows whose connection one is.

    Attributes:
        limits: The same limits.
        closed: Connections closed so far.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        sockets: CallerSockets,
        counts: ServerCounts,
        unseen: UnseenCalls,
    ) -> None:
        self.limits = limits
        self.closed = 0
        self._sockets = sockets
        self._counts = counts
        self._unseen = unseen
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._is_due = False
        self._accepted = 0
        self._queue: int | None = None
        self._closed_at = 0.0
        self._long_headers = LongHeaders()
        self._long_from: Peer | None = None
        self._lock = threading.Lock()
        self._log_limiter = LogLimiter(_log)

    def note_accepted(self) -> None:
        """Counts a new connection; called by the thread that accepts them, before its handshake."""
        self._long_headers.wait()
        self._long_from = None  # it may have the port of a closed one
        self._accepted += 1
        if self.limits.is_watching or self._accepted >= LOOK_AFTER:
            self.limits.is_watching = True  # the look may be late, and knows only what was noted
            self._look_soon()
        if self._accepted >= ACCEPTED_UNSEEN:
            self._look()  # here, so that no more are accepted meanwhile

    def note_call(self, peer: str, caller: str) -> None:
        """Records who makes calls on a connection; called by any thread."""
        parsed = parse_peer(peer)
        if parsed is not None and self.limits.note_call(parsed, caller):
            self._look_soon()

    def note_long_headers(self, peer: str) -> None:
        """Closes a connection that sends what gRPC would refuse later; called by any thread.

        New connections wait until such calls are worked off.
        """
        parsed = parse_peer(peer)
        self._long_headers.note()
        if parsed is None or parsed == self._long_from:
            return
        with self._lock:
            self._long_from = parsed
            self._sockets.find()
            self.closed += self._sockets.close({parsed})

    def condemn(self, peer: str) -> None:
        """Closes a connection now; called by any thread.

        A thread that has its turn later would let thousands of calls more in.
        """
        parsed, now = parse_peer(peer), time.monotonic()
        if (
            parsed is None
            or now - self._closed_at < PAUSE
            or not self._lock.acquire(blocking=False)
        ):
            return
        try:
            self._closed_at = now
            self._sockets.find()
            self.closed += self._sockets.close({parsed})
        finally:
            self._lock.release()
        self._look_soon()

    def close(self, peers: Collection[str]) -> None:
        """Closes connections now; called by any thread.

        Args:
            peers: The connections, as gRPC names them.
        """
        if peers:
            with self._lock:
                self._sockets.find()
                wanted = {peer for peer in map(parse_peer, peers) if peer}
                self.closed += self._sockets.close(wanted)
            self._look_soon()

    async def run(self) -> None:
        """Closes connections until cancelled."""
        await asyncio.to_thread(self._let_in)
        closed, closed_at, returned_at = 0, -FREED_AFTER, 0.0
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._is_due = False
            began = time.monotonic()
            await asyncio.to_thread(self._look)
            if self.closed > closed:
                closed, closed_at = self.closed, began
            if began - closed_at < FREED_AFTER + RETURN_EVERY:
                # What they held is in pieces, and new connections would take other memory.
                if began - returned_at >= RETURN_EVERY:
                    returned_at = began
                    await asyncio.to_thread(return_freed_memory)
                self._loop.call_later(RETURN_EVERY, self._look_soon)
            await asyncio.sleep(began + LOOK_EVERY - time.monotonic())

    def _look(self) -> None:
        with self._lock:
            self._accepted = 0
            found = self._sockets.find()
            self._ask(self.limits.unknown(found))
            excess = self.limits.excess(found)
            self.closed += self._sockets.close({peer for peer, _ in excess})
            self._let_in()
        counts = Counter(caller or peer.host for peer, caller in excess)
        for source, count in counts.items():
            line = "%s holds too many connections to this node; %d are closed"
            self._log_limiter.warn(source, "connections", line, source, count)

    def _let_in(self) -> None:
        """Lets new connections in, unless gRPC has to free too many closed ones first."""
        is_shut = self._sockets.closing > MAX_CLOSING
        length = SHUT if is_shut else QUEUE
        if length != self._queue:
            self._queue = length
            self._sockets.shorten_queue(length)
        if is_shut:
            self._look_soon()

    def _ask(self, unknown: Collection[Peer]) -> None:
        """Asks gRPC whose connections are, of those whose handshakes are over."""
        if unknown:
            found = islice(self._counts.connections_of(unknown), MAX_ASKED)
            for one in reversed([*found]):  # the oldest one first
                if peer := parse_peer(one.peer):
                    self.limits.note_call(peer, self._unseen.caller_of(one))

    def _look_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, the server has stopped
                self._loop.call_soon_threadsafe(self._wake.set)


class MessageGuard(Generic[CallT]):
    """Ends calls whose unfinished messages hold memory.

    It looks while a caller has more than a few calls open that may hold much, and never else.

    Args:
        checks: Knows these callers.
        sockets: The connections.
        end: Ends a call; called on the event loop.
        unseen: Returns how many calls no code of the node has seen yet.
        counts: What gRPC counts of the server.
    """

    def __init__(
        self,
        checks: CallChecks[CallT],
        sockets: CallerSockets,
        end: Callable[[CallT, Rejection], object],
        unseen: Callable[[], int],
        counts: ServerCounts,
    ) -> None:
        self._checks = checks
        self._counts = counts
        self._old: set[Peer] = set()
        self._unseen = unseen
        self._sockets = sockets
        self._end = end
        self._open_before: frozenset[Peer] = frozenset()
        self._found: list[Excess[CallT]] = []
        self._looked_at = 0.0
        self._is_over = False
        self._due = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._lock = threading.Lock()
        self._log_limiter = LogLimiter(_log)

    async def run(self) -> None:
        """Ends such calls until cancelled."""
        unfinished = self._checks.unfinished
        unfinished.on_watch, unfinished.on_more = self._look_first, self._look_at_call
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while unfinished.is_watching or self._found:
                    if self._end_all(await asyncio.to_thread(self._watch)):
                        await asyncio.to_thread(return_freed_memory)
        finally:
            self._is_over = True
            self._due.set()

    def _look_first(self) -> None:
        if self._lock.acquire(blocking=False):
            try:  # before more arrives: what there is at the first look counts as known
                self._open_before = frozenset(self._sockets.find())
                self._old &= self._open_before
                self._excess()
            finally:
                self._lock.release()
        self._look_on()

    def _look_on(self) -> None:
        self._due.set()
        with contextlib.suppress(RuntimeError):  # the loop is closed, the server has stopped
            self._loop.call_soon_threadsafe(self._wake.set)

    def _watch(self) -> list[Excess[CallT]]:
        """Looks again and again, until there is something to end or nobody to watch.

        On one thread: the event loop of an asyncio node that is flooded has its turns late.
        """
        unfinished, messages = self._checks.unfinished, unfinished_messages
        while not self._is_over:
            with self._lock:
                self._look()
                found, self._found = self._found, []
            if found or not unfinished.is_watching:
                return found
            self._due.wait(messages.LOOK_SOON if unfinished.is_near else messages.LOOK_EVERY)
            self._due.clear()
        return []

    def _look_at_call(self) -> None:
        """Looks on the thread that a call of a watched caller has reached, unless one just did.

        That thread runs now. One that looks now and then waits for a processor and for its turn in
        Python, in a flood up to 0.2 s, in which 36 MB arrived.
        """
        if time.monotonic() - self._looked_at < unfinished_messages.LOOK_SOON:
            return
        if self._lock.acquire(blocking=False):
            try:
                if self._look():
                    self._look_on()
            finally:
                self._lock.release()

    def _excess(self) -> list[Excess[CallT]]:
        unfinished = self._checks.unfinished
        received = self._sockets.received(unfinished.peers)
        explained = self._explained(unfinished.never_seen(received))
        found = unfinished.excess(received, allocated_bytes, explained, self._unseen)
        self._looked_at = time.monotonic()
        return found

    def _explained(self, peers: Collection[str]) -> dict[str, int]:
        """Returns the most that connections do not hold of what they have received.

        Who is watched may hold all that arrived on those that were opened since then.
        """
        names = {parsed: peer for peer in peers if (parsed := parse_peer(peer)) is not None}
        explained = {names[peer]: 0 for peer in names.keys() - self._open_before}
        asked = names.keys() & self._open_before - self._old
        for one in self._counts.connections_of(asked) if asked else ():
            most = most_explained(one, self._checks.unfinished.max_message)
            peer = parse_peer(one.peer)
            if peer is None or peer not in asked:
                continue
            if most is not None:
                explained[names[peer]] = most
            elif len(self._old) < MAX_OLD:
                self._old.add(peer)
        return explained

    def _look(self) -> bool:
        found = self._excess()
        for excess in found:
            # At once: the event loop may have its turn later, and they send on.
            if excess.is_blocked:
                self._checks.callers.block(excess.caller)
            if self._checks.guard is not None:
                self._checks.guard.close(excess.peers)
        self._found += found
        return bool(found)

    def _end_all(self, found: list[Excess[CallT]]) -> bool:
        """Ends calls; returns whether there were any.

        Nothing here holds them then: with each would go its newest message.
        """
        for caller, calls, _, _, is_refused in found:
            if is_refused:
                parts = caller, len(calls), REFUSED_FOR
                self._log_limiter.warn(caller, "unfinished", _UNFINISHED, *parts)
            else:
                self._log_limiter.warn(caller, "much", _MUCH_AT_ONCE, caller, len(calls))
            self._checks.count_over_limit(len(calls))
            for call in calls:
                self._end(call, UNFINISHED)
        return bool(found)
