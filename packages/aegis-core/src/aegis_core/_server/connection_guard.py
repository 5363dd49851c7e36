"""Closes connections that are one too many, or whose caller floods."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter

from aegis_discovery.logs import LogLimiter

from aegis_core._server.caller_sockets import CallerSockets, parse_peer
from aegis_core._server.connection_limits import ConnectionLimits, Peer

_log = logging.getLogger("aegis.server")

LOOK_EVERY = 0.1
"""Seconds between two looks at the connections, while new ones are opened."""

LOOK_AFTER = 16
"""New connections after which there is a look, while there are few."""

PAUSE = 0.02
"""The same while a caller floods whose connections are closed."""

MAX_CONDEMNED = 1024
"""Connections that are closed at once, at most."""


class ConnectionGuard:
    """Looks at the connections of a server when many are opened, and never without a reason.

    Args:
        limits: Decides which connections are closed.
        sockets: The connections.

    Attributes:
        limits: The same limits.
        closed: Connections closed so far.
    """

    def __init__(self, limits: ConnectionLimits, sockets: CallerSockets) -> None:
        self.limits = limits
        self.closed = 0
        self._sockets = sockets
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._is_due = False
        self._accepted = 0
        self._condemned: set[Peer] = set()
        self._log_limiter = LogLimiter(_log)

    def note_accepted(self) -> None:
        """Counts a new connection; called by any thread."""
        self._accepted += 1
        if self.limits.is_watching or self._accepted >= LOOK_AFTER:
            self._accepted = 0
            self.limits.is_watching = True  # the look may be late, and knows only what was noted
            self._look_soon()

    def note_call(self, peer: str, caller: str) -> None:
        """Records who makes calls on a connection; called by any thread."""
        parsed = parse_peer(peer)
        if parsed is not None and self.limits.note_call(parsed, caller):
            self._look_soon()

    def condemn(self, peer: str) -> None:
        """Closes a connection soon; called by any thread."""
        parsed = parse_peer(peer)
        if parsed is not None and len(self._condemned) < MAX_CONDEMNED:
            self._condemned.add(parsed)
            self._look_soon()

    async def run(self) -> None:
        """Closes connections until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._is_due = False
            began = time.monotonic()
            await asyncio.to_thread(self._look)
            pause = PAUSE if self._condemned else LOOK_EVERY
            await asyncio.sleep(began + pause - time.monotonic())

    def _look(self) -> None:
        condemned, self._condemned = self._condemned, set()
        found = self._sockets.find()
        excess = self.limits.excess(found)
        self.closed += self._sockets.close({*condemned, *(peer for peer, _ in excess)})
        counts = Counter(caller or peer.host for peer, caller in excess)
        for source, count in counts.items():
            line = "%s holds too many connections to this node; %d are closed"
            self._log_limiter.warn(source, "connections", line, source, count)

    def _look_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, the server has stopped
                self._loop.call_soon_threadsafe(self._wake.set)
