"""Decides which connections are closed: gRPC limits neither those of a caller nor idle ones. Pure.

An open connection costs a node 75 to 90 KB, and up to 145 KB once much has arrived on it, whatever
that was (gRPC 1.85). Whose it is shows when its handshake is over; before that, it costs up to 68
KB, and counts by the address at its other end.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, Protocol

FEW = 128
"""Open connections that are not looked at more closely."""

FEW_UNKNOWN = 32
"""Those of which nobody knows whose they are, and nobody asks."""

MAX_CONNECTIONS = 128
"""Connections of one caller, times its live workers; the newest ones are closed. 18 MB.

Of 256, on each of which 15 KB arrived again and again, a node took 88 MB.
"""

MAX_SILENT = 256
"""Connections from one address whose callers are unknown; the oldest ones are closed. 17 MB.

More than one caller may have, since many may connect from there at once. A flood closes the oldest
ones, so that a new one has as much time for its handshake as the flood leaves to it.
"""


class Peer(NamedTuple):
    """The other end of a connection."""

    host: str
    port: int


class Guard(Protocol):
    """Closes connections. It may be used from any thread."""

    def note_call(self, peer: str, caller: str) -> None: ...

    def note_long_headers(self, peer: str) -> None: ...

    def condemn(self, peer: str) -> None: ...

    def close(self, peers: Collection[str]) -> None: ...


class _Connection:
    __slots__ = ("caller", "is_old")

    def __init__(self, *, is_old: bool = False) -> None:
        self.caller: str | None = None
        self.is_old = is_old


class ConnectionLimits:
    """Remembers who calls on which connection, while there are many. It may be used by any thread.

    Args:
        workers_of: Returns how many processes share an identity, and so have its limits together.

    Attributes:
        is_watching: Whether it must be told who calls: there are more than a few connections, or
            there may be soon.
    """

    def __init__(self, workers_of: Callable[[str], int] = lambda _: 1) -> None:
        self.is_watching = False
        self._workers_of = workers_of
        self._connections: dict[Peer, _Connection] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<ConnectionLimits {len(self._connections)} watched>"

    def note_call(self, peer: Peer, caller: str) -> bool:
        """Records who makes calls on a connection; returns whether that was not known."""
        with self._lock:
            # A call may be faster than the look at the connections.
            connection = self._connections.get(peer) or self._add(peer)
            is_new, connection.caller = connection.caller != caller, caller
            return is_new

    def unknown(self, open_now: Collection[Peer]) -> list[Peer]:
        """Returns the open connections of which nobody knows whose they are, if these are many."""
        if len(open_now) <= FEW:
            return []
        with self._lock:
            known = self._connections
            found = [p for p in open_now if (one := known.get(p)) is None or one.caller is None]
        return found if len(found) > FEW_UNKNOWN else []

    def excess(self, open_now: Collection[Peer]) -> list[tuple[Peer, str | None]]:
        """Returns which of the open connections to close, with their callers where these show."""
        peers = set(open_now)
        with self._lock:
            if len(peers) <= FEW:
                self.is_watching = False
                # Calls are not recorded now, so nothing will be known of these.
                known = self._connections
                self._connections = {
                    peer: known.get(peer) or _Connection(is_old=True) for peer in peers
                }
                return []
            self.is_watching = True
            for peer in self._connections.keys() - peers:
                del self._connections[peer]
            for peer in open_now:
                if peer not in self._connections:
                    self._add(peer)
            return [*self._silent(), *self._too_many()]

    def _add(self, peer: Peer) -> _Connection:
        connection = self._connections[peer] = _Connection()
        return connection

    def _silent(self) -> Iterator[tuple[Peer, None]]:
        counts: Counter[str] = Counter()
        for peer, connection in reversed(self._connections.items()):  # the newest one first
            if connection.caller is None and not connection.is_old:
                counts[peer.host] += 1
                if counts[peer.host] > MAX_SILENT:
                    yield peer, None

    def _too_many(self) -> Iterator[tuple[Peer, str]]:
        counts: Counter[str] = Counter()
        for peer, connection in self._connections.items():  # the oldest one first
            caller = connection.caller
            if caller is not None:
                counts[caller] += 1
                count = counts[caller]
                if count > MAX_CONNECTIONS and count > MAX_CONNECTIONS * self._workers_of(caller):
                    yield peer, caller
