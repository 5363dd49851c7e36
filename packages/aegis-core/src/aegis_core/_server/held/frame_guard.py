"""Closes the connections of callers that send what gRPC reads and shows to nobody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

from aegis_discovery.signals import LogLimiter

from aegis_core._server import caller_limits
from aegis_core._server.caller_sockets import CallerSockets, parse_peer
from aegis_core._server.connection_limits import Peer
from aegis_core._server.held.channelz import ServerCounts
from aegis_core._server.held.flood_guard import FloodGuard
from aegis_core._server.held.growth import growth
from aegis_core._server.held.unfinished_messages import UnfinishedMessages
from aegis_core._server.held.unseen_calls import Flood, OpenConnection, UnseenCalls
from aegis_core._server.held.unseen_frames import (
    FAST,
    Received,
    busiest,
    fastest,
    floods,
    from_its_start,
    since,
)
from aegis_core._server.memory import return_freed_memory

_log = logging.getLogger("aegis.server")

FIRST_SPANS = (0.004, 0.008, 0.016)
"""Seconds between counts of what arrives, until it is much. In 4 ms of a flood that is 1 to 4 MB,
or nothing: while gRPC works off what it has read, nothing arrives.
"""

SPANS = (0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
"""Seconds between counts after that, until a flood shows; with calls open it shows later."""

WORKED_OFF = 1.0
"""Seconds after which gRPC has worked off what it had read, and freed it."""

SHARE = 0.05
"""Of the time, what looks take of a processor at most."""

_LINE = (
    "%s sends frames of HTTP/2 that belong to no message, such as GOAWAY, faster than %.0f MB/s; "
    "its connections are closed, for %.0f s its calls are refused, and its addresses may open few "
    "connections"
)


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
        """Looks who sends much, and closes the connections of who floods; takes up to 0.3 s.

        Args:
            has_grown: Whether the process has grown; else what has arrived is noted only.
        """
        if not has_grown:
            self._new()
            return
        if time.monotonic() < self._next:
            return
        began = time.thread_time()
        found = self._find()
        for flood in found:
            self._close(flood)
            self._closed_at = time.monotonic()
        if time.monotonic() < self._closed_at + WORKED_OFF:
            return_freed_memory()
        if found:
            return
        took = time.thread_time() - began
        self._next = time.monotonic() + took / SHARE

    def _new(self) -> dict[Peer, int]:
        """Returns what connections have received since the last look."""
        self._sockets.find()
        noted, self._noted = self._noted, self._sockets.all_received()
        return {peer: count - noted.get(peer, 0) for peer, count in self._noted.items()}

    def _find(self) -> list[Flood]:
        return self._from_their_start() or self._from_now_on()

    def _from_their_start(self) -> list[Flood]:
        """Looks at all that busy connections have received: few have messages that explain it.

        That shows who only floods, at once: a node may still grow by what has arrived before.
        """
        counted = self._counted(busiest(self._new()))
        looks = [from_its_start(one, self._noted[peer]) for peer, one in counted.items()]
        return floods(looks, self._unseen.caller_of, self._unfinished.max_message)

    def _from_now_on(self) -> list[Flood]:
        before = self._counted(self._fastest())
        first, latest = self._sockets.all_received(), before
        for span in SPANS if before else ():
            time.sleep(span)
            more = since(first, self._sockets.all_received())
            # gRPC is asked only if what it has counted so far does not explain the bytes.
            if self._judge(before, latest, more):
                latest = self._counted(before)
                if found := self._judge(before, latest, more):
                    return found
        return []

    def _fastest(self) -> list[Peer]:
        began, first = time.monotonic(), self._sockets.all_received()
        for span in FIRST_SPANS:
            time.sleep(span)
            more = since(first, self._sockets.all_received())
            if found := fastest(more, time.monotonic() - began):
                return found
        return []

    def _counted(self, peers: Collection[Peer]) -> dict[Peer, OpenConnection]:
        found = self._counts.connections_of(peers) if peers else ()
        return {peer: one for one in found if (peer := parse_peer(one.peer)) is not None}

    def _judge(
        self,
        before: Mapping[Peer, OpenConnection],
        after: Mapping[Peer, OpenConnection],
        more: Mapping[Peer, int],
    ) -> list[Flood]:
        looks = [
            Received(before[peer], one, more[peer])
            for peer, one in after.items()
            if peer in more and before[peer].number == one.number
        ]
        return floods(looks, self._unseen.caller_of, self._unfinished.max_message)

    def _close(self, flood: Flood) -> None:
        closed = {parse_peer(one.peer) for one in flood.connections}
        others = {peer.host for peer in self._sockets.find() if peer not in closed}
        self._floods.close(flood.caller, flood.connections, others)
        seconds = caller_limits.BLOCKED_FOR
        self._log_limiter.warn(flood.caller, "frames", _LINE, flood.caller, FAST / 1e6, seconds)
