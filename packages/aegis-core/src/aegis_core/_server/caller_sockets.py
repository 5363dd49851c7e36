"""Finds and closes connections of callers. gRPC for Python has no call for it.

The descriptors of a process show in `/dev/fd`, on Linux and macOS. Elsewhere nothing is found.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
import sys
import time
from collections.abc import Collection, Container, Iterator
from urllib.parse import unquote

from aegis_core._server.connection_limits import Peer

_DESCRIPTORS = "/dev/fd"
_INFO = struct.Struct("=120xQQ")
_SO_COOKIE = 57

FREED_AFTER = 1.0
"""Seconds after which gRPC has freed a closed connection without calls that go on."""

ACKNOWLEDGES = 128
"""Bytes sent to a caller for which one byte that it sends may be WINDOW_UPDATE frames, or PING: one
of 300 where a small window is opened anew after every 16 KiB, with TLS.
"""


@functools.lru_cache(maxsize=4096)  # of many connections, gRPC names each in each list
def parse_peer(text: str) -> Peer | None:
    """Reads what gRPC calls a peer, such as `ipv4:10.0.0.1:5000` or `ipv6:%5B::1%5D:5000`."""
    kind, _, address = text.partition(":")
    host, _, port = address.rpartition(":")
    if kind not in {"ipv4", "ipv6"} or not port.isdigit():
        return None
    return _peer(unquote(host).strip("[]"), int(port))


def _peer(host: str, port: int) -> Peer:
    # A socket for both versions of IP shows those of version 4 in this way; gRPC does not.
    return Peer(host.partition("%")[0].removeprefix("::ffff:"), port)


class CallerSockets:
    """The connections that a server of this process has accepted.

    Args:
        port: Where the server listens.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._known: dict[tuple[int, int], Peer | None] = {}
        self._cookies: dict[int, bytes] = {}
        self._closed: dict[tuple[int, int], float] = {}
        self._listeners: list[int] = []

    @property
    def closing(self) -> int:
        """How many of those closed in the last second gRPC still had at the last `find`.

        What it has for longer, it has until calls end that go on although they are cancelled.
        """
        since = time.monotonic() - FREED_AFTER
        return sum(closed_at > since for closed_at in self._closed.values())

    def find(self) -> list[Peer]:
        """Returns the other ends of all open connections."""
        known, found = self._known, dict[tuple[int, int], Peer | None]()
        for descriptor in _descriptors():
            try:
                # The number of a socket, which no other one has, tells reused descriptors apart.
                key = descriptor, os.fstat(descriptor).st_ino
            except OSError:
                continue
            found[key] = known[key] if key in known else self._look(descriptor)
        self._known = found  # other threads may go through the old one
        for key in self._closed.keys() - found.keys():
            self._closed.pop(key, None)  # another thread may look too
        return [peer for peer in found.values() if peer is not None]

    def shorten_queue(self, length: int) -> None:
        """Limits how many connections wait to be accepted; gRPC has no option for it."""
        found = []
        for descriptor in self._listeners or _descriptors():
            with _opened(descriptor) as listener:
                if listener is not None and _listens(listener, self._port):
                    # A second listen(2) changes the length of the queue and nothing else.
                    listener.listen(length)
                    found.append(descriptor)
        self._listeners = found

    def close(self, peers: Collection[Peer]) -> int:
        """Closes connections, as their other ends could; returns how many."""
        closed = 0
        for key, peer in list(self._known.items()):
            if peer not in peers:
                continue
            with _opened(key[0]) as connection:
                # Looked up again: the descriptor may be another connection by now.
                if connection is None or self._peer_of(connection) != peer:
                    continue
                if _reset(connection):
                    closed += 1
                    if key in self._known:  # another thread may have looked meanwhile
                        self._known[key] = None  # gRPC keeps it open for a while
                        self._closed[key] = time.monotonic()
        return closed

    def received(self, peers: Collection[str]) -> dict[str, int]:
        """Returns how many bytes have arrived on connections, where the system counts that.

        Without those by which other ends may have acknowledged what was sent to them.

        Of known connections, without letting other threads run: in a flood, the one that asks would
        wait for its next turn in Python, for up to 0.1 s, while megabytes arrive.

        Args:
            peers: The connections, as gRPC names them.
        """
        wanted = {parse_peer(peer): peer for peer in peers}
        wanted.pop(None, None)
        if not wanted.keys() <= set(self._known.values()):
            self.find()
        counts = self.received_from(wanted)
        return {wanted[peer]: count for peer, count in counts.items()}

    def all_received(self) -> dict[Peer, int]:
        """Returns the same of all connections that `find` has found. Each takes 4 us."""
        return self.received_from(set(self._known.values()))

    def received_from(self, peers: Container[Peer | None]) -> dict[Peer, int]:
        """Returns the same of some of these connections, by their other ends."""
        counts = {}
        for (descriptor, _), peer in self._known.items():
            state = _receive_state(descriptor) if peer is not None and peer in peers else None
            if peer is not None and state is not None:
                cookie, count = state
                if count is not None and self._cookies.get(descriptor) == cookie:
                    counts[peer] = count
        return counts

    def _look(self, descriptor: int) -> Peer | None:
        with _opened(descriptor) as connection:
            peer = None if connection is None else self._peer_of(connection)
            state = None if peer is None else _receive_state(descriptor)
            if state is not None:
                self._cookies[descriptor] = state[0]
            return peer

    def _peer_of(self, connection: socket.socket) -> Peer | None:
        try:
            if connection.family not in {socket.AF_INET, socket.AF_INET6}:
                return None
            if connection.getsockname()[1] != self._port:
                return None
            return _peer(*connection.getpeername()[:2])
        except OSError:  # it is not connected
            return None


def _listens(candidate: socket.socket, port: int) -> bool:
    try:
        return (
            candidate.family in {socket.AF_INET, socket.AF_INET6}
            and candidate.getsockname()[1] == port
            and bool(candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        )
    except OSError:
        return False


def _reset(connection: socket.socket) -> bool:
    """Ends a connection at once, and drops what it has received; returns whether it was open.

    After a shutdown alone, gRPC would still serve what has arrived: 100 000 calls in 5 MB.
    """
    import ctypes  # few processes ever need it

    # Linux: to connect to an address of no family dissolves a connection, connect(2).
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).connect(connection.fileno(), bytes(16), 16)
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return sys.platform == "linux"
    return True


def _receive_state(descriptor: int) -> tuple[bytes, int | None] | None:
    """Returns what tells a TCP socket from all others, and what it has received, as in `received`.

    CPython holds its lock for each of these calls, unlike for those that open a second descriptor.
    """
    # Linux: the last two fields of this part of struct tcp_info are tcpi_bytes_acked and
    # tcpi_bytes_received, since 4.1; SO_COOKIE since 4.12.
    option = getattr(socket, "TCP_INFO", None)
    if option is None or sys.platform != "linux":
        return None
    try:
        # With a family it asks the system for none; which one does not matter here.
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    except OSError:  # it is closed
        return None
    try:
        cookie = connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
        info = connection.getsockopt(socket.IPPROTO_TCP, option, _INFO.size)
    except OSError:  # it is no socket of TCP
        return None
    finally:
        connection.detach()  # it is gRPC's, which closes it
    if len(info) < _INFO.size:
        return cookie, None
    acknowledged, received = _INFO.unpack(info)
    return cookie, max(0, received - acknowledged // ACKNOWLEDGES)


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir(_DESCRIPTORS)]
    except OSError:  # there is no such directory, or no descriptor is left for this look
        return []


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[socket.socket | None]:
    """Opens a descriptor a second time, if it is a socket: the first one is gRPC's."""
    try:
        second = os.dup(descriptor)
    except OSError:
        yield None
        return
    try:
        connection = socket.socket(fileno=second)
    except OSError:  # it is no socket
        os.close(second)
        yield None
        return
    with connection:
        yield connection
