"""Closes the connections of callers that have more calls under way than they may have.

A call that has arrived stays in gRPC's queue when its connection is closed, and is seen in its turn
all the same. So it is not enough to close connections: who floods must not come back at once with
as many calls as a new connection may send before anybody sees whose it is.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable

from aegis_discovery.signals import LogLimiter

from aegis_core._rate_limit import TokenBucket
from aegis_core._server import caller_limits
from aegis_core._server.caller_limits import CallerLimits
from aegis_core._server.caller_sockets import CallerSockets, parse_peer
from aegis_core._server.connection_limits import Peer
from aegis_core._server.held.channelz import ServerCounts
from aegis_core._server.held.unseen_calls import Flood, OpenConnection, UnseenCalls
from aegis_core._server.memory import return_freed_memory

_log = logging.getLogger("aegis.server")

SOME = 200
"""Unseen calls from which on a thread of its own looks how many there are.

What looks only when calls are seen comes too late: of a flood, a busy node sees few. From 300 to
5 600 unseen calls it took 0.2 s.
"""

MANY = 700
"""Unseen calls from which on there is a look whose they are.

A caller may have 1 600 under way. Of resets, 800 arrive in 20 ms.
"""

MANY_AFTER_FLOOD = 100
"""The same for both for a while after a flood, and while the calls of somebody are refused."""

LOOK_EVERY = 0.1
"""Seconds between two looks at how many calls are unseen, at least."""

LOOK_SOON = 0.02
"""The same while many calls arrive."""

BUSY = 0.05
"""Seconds in which a node that is flooded sees as many calls as lie between two looks, or more."""

SHARE, BUSY_SHARE, WATCH_SHARE = 0.002, 0.02, 0.05
"""Of the time, what looks take at most, while many calls arrive, and while some are unseen.

gRPC holds the process while it counts, for 0.2 ms, and 0.03 ms more for each connection.
"""

NEW_PER_SECOND = 1.0
"""Connections that an address may open each second after a flood from it, of 600 calls each, and
none while the calls of the flood are worked off. All others are closed before TLS.

Those of other callers do not count once their handshakes show whose they are.
"""

WORK_OFF = 0.5
"""Seconds for which all new connections wait until the calls of a flood are worked off, before
those of its addresses are closed."""

NEW_AT_ONCE = 3.0
"""The same at once, at an address from which others were connected too; 1 at other addresses."""

JUDGE_EVERY = 0.01
"""Seconds between two looks at whose those connections are. What is no call arrives at 1 GB/s."""

NOTE_EVERY = 0.25
"""Seconds between two notes of what connections have received. What arrived since the note before
the last one may be in calls that are unseen: 1 800 of 16 KB arrive in that time.
"""

RECONCILE_AFTER = 8
"""Looks after which calls that gRPC has rejected are told from unseen ones."""

STOOD_STILL = 2.0
"""Seconds without a turn of the node's event loop after which the node stood still; it has one each
second."""

STALL_COUNTS_FOR = 5.0
"""Seconds after that in which calls may be unseen that have arrived meanwhile."""

_LINE = (
    "%s has %d calls under way to this node at once; its connections are closed, for %.0f s its "
    "calls are refused, and its addresses may open few connections"
)


class FloodGuard:
    """Looks whose calls are unseen, while there are many of them.

    Args:
        unseen: Counts what is seen, and finds floods.
        callers: Blocks callers.
        counts: What gRPC counts of the server.
        sockets: The connections.

    Attributes:
        closed: Connections closed so far.
    """

    def __init__(
        self,
        unseen: UnseenCalls,
        callers: CallerLimits,
        counts: ServerCounts,
        sockets: CallerSockets,
    ) -> None:
        self.closed = 0
        self._unseen = unseen
        self._callers = callers
        self._counts = counts
        self._sockets = sockets
        self._is_crowded = self._is_watching = self._is_judging = False
        self._rejected = 0
        self._asked_at = self._next = self._busy_next = 0.0
        self._flooded_until = 0.0
        self._turn_at = math.inf
        self._stall_counts_until = 0.0
        self._worked_off_at = 0
        self._noted: dict[Peer, int] = {}
        self._noted_before: dict[Peer, int] = {}
        self._noted_at = 0.0
        self._addresses: dict[str, TokenBucket] = {}
        self._admitted: set[Peer] = set()
        self._kept_out: set[str] = set()
        self._met: set[Peer] = set()
        self._gone: set[int] = set()
        self._lock = threading.Lock()
        self._log_limiter = LogLimiter(_log)
        unseen.look = self.look

    def note_accepted(self) -> None:
        """Notes that there are new connections; called by the thread that accepts them.

        Closes those of addresses that open too many, before their handshakes.
        """
        if not self._addresses:
            return
        now = time.monotonic()
        until = now + WORK_OFF
        while not self._is_worked_off() and now < until:
            time.sleep(LOOK_SOON)
            now = time.monotonic()
        with self._lock:
            if now >= self._flooded_until:
                self._addresses.clear()
                self._admitted.clear()
                self._kept_out.clear()
                return
            found = set(self._sockets.find())
            new = [peer for peer in found - self._met if peer.host in self._addresses]
            self._met = found
            if new:
                self._admitted &= found
                self._judge()
            is_open = self._is_worked_off()
            admitted = {peer for peer in new if is_open and self._addresses[peer.host].take(now)}
            self._admitted |= admitted
            self.closed += self._sockets.close({*new} - admitted)
            if admitted and not self._is_judging:
                self._is_judging = _starts(self._judge_admitted)

    def _is_worked_off(self) -> bool:
        # Calls that wait for other reasons keep nobody out.
        return not self._is_crowded or self._unseen.seen >= self._worked_off_at

    def _judge_admitted(self) -> None:
        """Looks whose the new connections are until the handshakes of all have shown it."""
        while True:
            began = time.thread_time()
            with self._lock:
                self._admitted &= set(self._sockets.find())
                self._judge()
                if not self._admitted:
                    self._is_judging = False
                    return
            time.sleep(max(JUDGE_EVERY, (time.thread_time() - began) / WATCH_SHARE))

    def _judge(self) -> None:
        """Counts connections no more that turned out to be of callers that did not flood.

        Those of callers that flood without a call are closed, before much of that has arrived.
        """
        excess = set()
        for one in self._counts.connections_of(self._admitted) if self._admitted else ():
            peer = parse_peer(one.peer)
            if peer not in self._admitted:
                continue
            self._admitted.remove(peer)
            if not self._unseen.is_refused(one):
                bucket = self._addresses[peer.host]
                bucket.left = min(bucket.burst, bucket.left + 1)
            elif self._unseen.caller_of(one) in self._kept_out:
                excess.add(peer)
        self.closed += self._sockets.close(excess) if excess else 0

    def note_turn(self) -> None:
        """Notes that the event loop of the node has a turn, about once a second."""
        now = time.monotonic()
        if self._stands_still(now):
            self._stall_counts_until = now + STALL_COUNTS_FOR
        self._turn_at = now

    def _stands_still(self, now: float) -> bool:
        return now - self._turn_at > STOOD_STILL

    def look(self) -> None:
        """Looks how many calls are unseen, unless it did so a moment ago. For any thread."""
        now = time.monotonic()
        asked, self._asked_at = self._asked_at, now
        if self._is_watching or now < self._busy_next:
            return
        if now < self._next and now - asked >= BUSY and not self._is_expected():
            return
        began = time.thread_time()  # of the processor: it may wait for that, and others run then
        count = self.count()
        self._note_received()
        took = time.thread_time() - began
        self._next = now + max(LOOK_EVERY, took / SHARE)
        self._busy_next = now + max(LOOK_SOON, took / BUSY_SHARE)
        if count <= self._after_flood(SOME):
            return
        # A thread of its own: where many calls arrive, the event loop has its turns late.
        self._is_watching = True
        if not _starts(self._watch):
            self._is_watching = False

    def _watch(self) -> None:
        """Looks until few calls are unseen; closes connections while many are."""
        looks = 0
        try:
            while True:
                began = time.thread_time()
                if (count := self.count()) <= self._after_flood(SOME):
                    return
                looks += 1
                self._note_received()
                self._is_crowded = count > self._after_flood(MANY)
                is_due = self._is_crowded or looks % RECONCILE_AFTER == 0
                if is_due and self._close_floods():
                    return_freed_memory()
                took = time.thread_time() - began
                time.sleep(LOOK_SOON if self._is_crowded else max(LOOK_SOON, took / WATCH_SHARE))
        finally:
            self._is_watching = self._is_crowded = False

    def _after_flood(self, usual: int) -> int:
        return MANY_AFTER_FLOOD if self._is_expected() else usual

    def _is_expected(self) -> bool:
        """Tells whether somebody who flooded may do so again."""
        blocked = self._callers.blocked
        return time.monotonic() < self._flooded_until or (
            bool(blocked) and any(map(self._callers.is_blocked, [*blocked]))
        )

    def count(self) -> int:
        """Returns how many calls are unseen, or more: gRPC has rejected some of them."""
        started = self._counts.started()
        if started is None:
            return 0
        count = started - self._unseen.seen - self._rejected
        if count < 0:
            self._rejected += count
        return count

    def _note_received(self) -> None:
        now = time.monotonic()
        since = now - self._noted_at
        if since < NOTE_EVERY:
            return
        self._noted_at = now
        self._sockets.find()
        noted = self._sockets.all_received()
        self._noted_before = self._noted if since < 2 * NOTE_EVERY else noted
        self._noted = noted

    def _arrived(self, connections: Iterable[OpenConnection]) -> dict[str, int]:
        """Returns what has been received lately, of new connections all."""
        self._sockets.find()
        received, before = self._sockets.all_received(), self._noted_before
        peers = ((one.peer, parse_peer(one.peer)) for one in connections)
        return {
            name: received[peer] - before.get(peer, 0)
            for name, peer in peers
            if peer is not None and peer in received
        }

    def _close_floods(self) -> int:
        connections = list(self._counts.connections(self._gone))
        arrived = self._arrived(connections)
        count = self.count()
        now = time.monotonic()
        has_stood_still = self._stands_still(now) or now < self._stall_counts_until
        floods = self._unseen.floods(connections, has_stood_still=has_stood_still, arrived=arrived)
        if floods:
            self._worked_off_at = self._unseen.seen + count
            closed = {one.number for flood in floods for one in flood.connections}
            others = {one.peer for one in connections if one.number not in closed}
            hosts = {peer.host for peer in map(parse_peer, others) if peer is not None}
            return sum(self._close(flood, hosts) for flood in floods)
        # No more than these can be unseen, but those of connections that are gone.
        self._rejected += max(0, count - sum(one.open for one in connections))
        return 0

    def _close(self, flood: Flood, hosts_of_others: set[str]) -> int:
        caller, seconds = flood.caller, caller_limits.BLOCKED_FOR
        self._log_limiter.warn(caller, "flood", _LINE, caller, flood.calls, seconds)
        return self.close(caller, flood.connections, hosts_of_others)

    def drop(self, connections: Collection[OpenConnection]) -> None:
        """Closes connections of a caller, which may open others. For any thread."""
        self._gone.update(one.number for one in connections)
        with self._lock:
            self.closed += self._sockets.close(_peers_of(connections))

    def close(
        self,
        caller: str,
        connections: Collection[OpenConnection],
        hosts_of_others: set[str],
        *,
        keeps_out: bool = False,
    ) -> int:
        """Closes connections of a caller, and keeps it away for a while. For any thread.

        Args:
            caller: Whose calls are refused from now on.
            connections: Those to close; their addresses may open few in the next seconds.
            hosts_of_others: Addresses from which others are connected.
            keeps_out: Whether to close its later connections, too, as soon as their handshakes show
                whose they are. Else its calls are told why they are refused.

        Returns:
            How many are closed.
        """
        self._callers.block(caller)
        self._gone.update(one.number for one in connections)
        peers = _peers_of(connections)
        with self._lock:
            now = time.monotonic()
            self._flooded_until = now + caller_limits.BLOCKED_FOR
            if keeps_out:
                self._kept_out.add(caller)
            for host in {peer.host for peer in peers} - self._addresses.keys():
                at_once = NEW_AT_ONCE if host in hosts_of_others else 1.0
                self._addresses[host] = TokenBucket(at_once, NEW_PER_SECOND, now)
            self._met = set(self._sockets.find())
            closed = self._sockets.close(peers)
            self.closed += closed
        return closed


def _peers_of(connections: Collection[OpenConnection]) -> set[Peer]:
    return {peer for one in connections if (peer := parse_peer(one.peer)) is not None}


def _starts(target: Callable[[], object]) -> bool:
    """Starts a thread of its own; returns False where the system gives no more of them."""
    try:
        threading.Thread(target=target, name="aegis-floods", daemon=True).start()
    except RuntimeError:  # the next look tries again
        return False
    return True
