"""Closes the connections of callers that send what gRPC reads and shows to nobody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from aegis_discovery.signals import LogLimiter

from aegis_core._server import caller_limits
from aegis_core._server.caller_sockets import CallerSockets, parse_peer
from aegis_core._server.connection_limits import Peer
from aegis_core._server.held.channelz import ServerCounts
from aegis_core._server.held.complete_messages import Taken
from aegis_core._server.held.flood_guard import FloodGuard
from aegis_core._server.held.growth import growth
from aegis_core._server.held.unfinished_messages import UnfinishedMessages
from aegis_core._server.held.unseen_calls import Flood, OpenConnection, UnseenCalls
from aegis_core._server.held.unseen_frames import Received, busiest, floods, from_its_start, since
from aegis_core._server.memory import allocated_bytes, return_freed_memory

_log = logging.getLogger("aegis.server")

SPANS = (0.0, 0.004, 0.008, 0.016, *(0.032,) * 5)
"""Seconds between counts until a flood shows. In 4 ms of one, 1 to 4 MB arrive, or nothing: while
gRPC works off what it has read, nothing arrives.
"""

QUIET = 3
"""Counts after which a look ends if little has arrived since the last one."""

ALL = (0, 3, 6)
"""Counts that include all connections, of which 200 take 1 to 3 ms; the others only suspected ones.
"""

STEADY = 32 * 1024 * 1024
"""Bytes that are worth one count although the process has not grown: a node that works frames off
as fast as they arrive has 100 MB of them in the moment in which it does not.
"""

WORKED_OFF = 1.0
"""Seconds after which gRPC has worked off what it had read, and freed it."""

SHARE = 0.05
"""Of the time, what looks take of a processor at most."""

_LINE = (
    "%s sends frames of HTTP/2 that belong to no message, such as GOAWAY, %.0f MB or more; "
    "its connections are closed, for %.0f s its calls are refused, and its addresses may open few "
    "connections"
)

_LINE_IF_CANCELLED = (
    "%s cancels calls, and sends %.0f MB or more beside them that are in no complete message; its "
    "connections are closed"
)


class _First(NamedTuple):
    """A connection at the first look: what gRPC, the system, and the node's code have counted."""

    connection: OpenConnection
    received: int
    taken: Taken


class FrameGuard:
    """Looks who sends what is no message, whenever the process has grown.

    Args:
        unseen: Knows whose connection one is.
        unfinished: Knows how long a message may be.
        floods: Closes the connections of callers, and keeps them away.
        counts: What gRPC counts of the server.
        sockets: The connections.
    """

    def __init__(
        self,
        unseen: UnseenCalls,
        unfinished: UnfinishedMessages[Any],
        floods: FloodGuard,
        counts: ServerCounts,
        sockets: CallerSockets,
    ) -> None:
        self._unseen = unseen
        self._unfinished = unfinished
        self._floods = floods
        self._counts = counts
        self._sockets = sockets
        self._next = 0.0
        self._closed_at = -WORKED_OFF
        self._noted: dict[Peer, int] = {}
        self._log_limiter = LogLimiter(_log)

    async def run(self) -> None:
        """Looks whenever the process has grown, until cancelled."""
        growth.add(self.look)
        try:
            await asyncio.Event().wait()
        finally:
            growth.remove(self.look)

    def look(self, has_grown: bool) -> None:
        """Looks who sends much, and closes the connections of who floods; takes up to 0.2 s.

        Args:
            has_grown: Whether the process has grown; else there is one count, if much has arrived,
                and no second one that would show a flood among messages.
        """
        if not has_grown and not self._receives_much():
            self._note()
            return
        if time.monotonic() < self._next:
            return
        began = time.thread_time()
        found = self._find(SPANS if has_grown else SPANS[:1])
        took = time.thread_time() - began
        for flood in found:
            self._close(flood)
            self._closed_at = time.monotonic()
        self._note()
        if time.monotonic() < self._closed_at + WORKED_OFF:
            return_freed_memory()
        self._next = time.monotonic() + (0 if found else took / SHARE)

    def _note(self) -> dict[Peer, int]:
        self._unfinished.memory.note(allocated_bytes() or 0, time.monotonic())
        self._sockets.find()
        self._noted = self._sockets.all_received()
        return self._noted

    def _receives_much(self) -> bool:
        self._sockets.find()
        total = self._sockets.all_received()
        return sum(since(dict.fromkeys(total, 0) | self._noted, total).values()) > STEADY

    def _find(self, spans: Sequence[float]) -> list[Flood]:
        """Looks at the busiest connections, again and again until one shows a flood.

        All that a connection has received shows that at once, unless it has carried many messages
        before. Then what arrives during the look shows it, beside the messages in it.
        """
        noted = self._noted
        first: dict[Peer, _First] = {}
        try:
            for number, span in enumerate(spans):
                time.sleep(span)
                total = self._total(number, first)
                busy = busiest(since(dict.fromkeys(total, 0) | noted, total))
                counted = self._counted(busy, first)
                found = self._judge(
                    [from_its_start(one, total[peer]) for peer, one in counted.items()]
                ) or self._judge(
                    [
                        self._received(first[peer], one, total[peer])
                        for peer, one in counted.items()
                        if peer in first
                    ]
                )
                if found or (number >= QUIET and not counted):
                    return found
                new = {peer: counted[peer] for peer in counted.keys() - first.keys()}
                taken = {peer: self._suspect(one) for peer, one in new.items()}
                # Counted before what is received is, so that no message is missed.
                now = self._sockets.all_received() if new else {}
                for peer in new.keys() & now.keys():
                    first[peer] = _First(new[peer], now[peer], taken[peer])
        finally:
            self._unfinished.acquit()
        return []

    def _total(self, number: int, suspects: Collection[Peer]) -> dict[Peer, int]:
        if number == 0:
            return self._note()
        if number in ALL or not suspects:
            return self._sockets.all_received()
        return self._sockets.received_from(suspects)

    def _suspect(self, one: OpenConnection) -> Taken:
        self._unfinished.suspect(one.peer)
        return self._taken(one)

    def _taken(self, one: OpenConnection) -> Taken:
        return self._unfinished.taken_on(one.peer, self._unseen.caller_of(one))

    def _received(self, first: _First, one: OpenConnection, total: int) -> Received:
        # A message that is complete meanwhile counts twice rather than not at all.
        reading = self._unfinished.reading(self._unseen.caller_of(one))
        counts = zip(self._taken(one), first.taken, strict=True)
        taken = Taken(*(now - before for now, before in counts))
        return Received(first.connection, one, total - first.received, taken, reading)

    def _counted(
        self, peers: Collection[Peer], known: Mapping[Peer, _First]
    ) -> dict[Peer, OpenConnection]:
        counted = {}
        for peer in [peer for peer in peers if peer in known]:
            one = self._counts.again(known[peer].connection)
            if one is not None:
                counted[peer] = one
        others = [peer for peer in peers if peer not in known]
        for one in self._counts.connections_of(others) if others else ():
            peer_of_one = parse_peer(one.peer)
            if peer_of_one is not None:
                counted[peer_of_one] = one
        return counted

    def _judge(self, looks: list[Received]) -> list[Flood]:
        known = self._unfinished
        return floods(looks, self._unseen.caller_of, known.max_message, known.limit_of)

    def _close(self, flood: Flood) -> None:
        size = flood.calls / 1e6
        if not flood.is_certain:
            self._floods.drop(flood.connections)
            self._log_limiter.warn(
                flood.caller, "cancelled", _LINE_IF_CANCELLED, flood.caller, size
            )
            return
        closed = {parse_peer(one.peer) for one in flood.connections}
        others = {peer.host for peer in self._sockets.find() if peer not in closed}
        self._floods.close(flood.caller, flood.connections, others, keeps_out=True)
        # Few of its connections were looked at, and it may go on over all others.
        gone = {one.number for one in flood.connections}
        rest = self._counts.connections(gone)
        self._floods.drop([one for one in rest if self._unseen.caller_of(one) == flood.caller])
        seconds = caller_limits.BLOCKED_FOR
        self._log_limiter.warn(flood.caller, "frames", _LINE, flood.caller, size, seconds)
