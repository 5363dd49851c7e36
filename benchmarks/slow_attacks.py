"""What one member can hold or send slowly at a node, beside the floods of `attacks.py`.

Each attack runs until its time is over, as those do.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from attacks import BATCH, RATE, Attack, on_threads
from frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_FRAME,
    PRIORITY,
    SETTINGS,
    Connection,
    frame,
    message,
    request_headers,
)
from workload import path

SLOW = 200
"""Connections that send a byte at a time."""

STREAMS = 600
"""Calls of a connection that it opens at once: as many as a node allows."""

UNREAD_CONNECTIONS = 16
JUNK = frame(PRIORITY, 1, b"\0\0\0\0\x10") * 10
SHORT = 512
"""Bytes of a part with junk behind it."""

MANY, AT_ONCE = 40, 100
"""Connections, and calls of each that are open at once."""

ANSWER = b"x" * 15_000
WATCH = "/aegis.mesh.v1.Mesh/Watch"
THREADS = 8

NO_WINDOW = struct.pack(">HI", 4, 0)
"""A setting: no stream may send."""


def slow_headers(attack: Attack, until: float) -> int:
    """Sends the headers of a call byte by byte."""
    head = frame(HEADERS, 1, request_headers(path("Echo"), attack.node_id), END_HEADERS)
    return _trickle(attack, until, head)


def slow_data(attack: Attack, until: float) -> int:
    """Sends a request byte by byte, each in a frame of its own."""
    head = frame(HEADERS, 1, request_headers(path("Echo"), attack.node_id), END_HEADERS)
    parts = [frame(DATA, 1, bytes([byte])) for byte in message(b"x" * 10_000)]
    return _trickle(attack, until, head, parts)


def _trickle(attack: Attack, until: float, head: bytes, parts: list[bytes] | None = None) -> int:
    """Sends one thing on each of many connections, a piece at a time."""
    pieces = [head, *parts] if parts else [bytes([byte]) for byte in head]
    sent = 0
    at: dict[Connection, int] = {}
    while time.monotonic() < until:
        while len(at) < SLOW and time.monotonic() < until:
            with suppress(OSError):
                at[attack.connect()] = 0
        for connection, number in list(at.items()):
            try:
                connection.send(pieces[number])
                sent += 1
                at[connection] = number + 1
                if number + 1 == len(pieces):
                    del at[connection]
            except OSError:
                del at[connection]
        time.sleep(0.1)
    return sent


def many_headers(attack: Attack, until: float, *, acknowledges: bool = True) -> int:
    """Calls with 20 000 headers of one byte, in frames of the largest size."""
    block = request_headers(path("Echo"), attack.node_id)
    more = (b"\x00\x01x\x01y" * (MAX_FRAME // 5))[:MAX_FRAME]
    more = more[: len(more) // 5 * 5]

    def batch(connection: Connection) -> bytes:
        connection.acknowledges = acknowledges
        frames = []
        for _ in range(BATCH):
            stream = connection.next_stream()
            frames.append(frame(HEADERS, stream, block))
            frames += [frame(CONTINUATION, stream, more)] * 6
            frames.append(frame(CONTINUATION, stream, b"", END_HEADERS))
        return b"".join(frames)

    return attack.flood(until, batch, RATE)


def method_names(attack: Attack, until: float) -> int:
    """Calls methods that do not exist, each with another name."""
    number = 0

    def batch(connection: Connection) -> bytes:
        nonlocal number
        frames = []
        for _ in range(BATCH):
            number += 1
            stream = connection.next_stream()
            block = request_headers(path(f"No{number}-{'n' * 80}"), attack.node_id)
            frames.append(frame(HEADERS, stream, block, END_HEADERS))
            frames.append(frame(DATA, stream, message(b""), END_STREAM))
        return b"".join(frames)

    return attack.flood(until, batch, 4 * RATE)


def unread_answers(attack: Attack, until: float) -> int:
    """Makes calls with answers on several connections, and lets none be sent.

    Requests and answers are as long as a request may be that the node has not begun to read, at
    most 15 KB.
    """
    sent = 0
    connections: list[Connection] = []
    while time.monotonic() < until:
        with suppress(OSError):
            while len(connections) < UNREAD_CONNECTIONS and time.monotonic() < until:
                connection = attack.connect()
                connection.send(frame(SETTINGS, 0, NO_WINDOW))
                connections.append(connection)
                connection.await_settings()
                request = ANSWER[: connection.stream_window - 5]
                for _ in range(STREAMS):
                    while connection.window < len(request) + 5:
                        _read(connection, 0.2)
                    connection.call(path("Echo"), request)
                    connection.window -= len(request) + 5
                    sent += 1
        for connection in connections:
            with suppress(OSError):
                _read(connection, 0)
        time.sleep(0.1)
    return sent


def calls_over_many_connections(attack: Attack, until: float) -> int:
    """Keeps calls open on many connections, and makes another one for each that ends."""
    block, data = request_headers(path("Echo"), attack.node_id), message(b"x")
    sent = 0
    held: dict[socket.socket, Connection] = {}

    def call(connection: Connection, count: int) -> None:
        nonlocal sent
        streams = [connection.next_stream() for _ in range(count)]
        frames = (
            frame(HEADERS, stream, block, END_HEADERS) + frame(DATA, stream, data, END_STREAM)
            for stream in streams
        )
        connection.send(b"".join(frames))
        sent += count

    while time.monotonic() < until:
        with suppress(OSError):
            if len(held) < MANY:
                connection = attack.connect()
                held[connection.socket] = connection
                call(connection, AT_ONCE)
        for one in select.select([*held], [], [], 0.001)[0]:
            try:
                call(held[one], sum(got.ends_stream for got in held[one].receive()))
            except OSError:
                held.pop(one).close()
    return sent


def unread_streams(attack: Attack, until: float) -> int:
    """Opens downloads, and lets nothing be sent."""
    return _unread(attack, until, path("Download"), b"1000000")


def unread_feeds(attack: Attack, until: float) -> int:
    """Watches the mesh, and lets nothing be sent."""
    from aegis_discovery import DEFAULT_MESH
    from aegis_discovery.proto import mesh_pb2

    request = mesh_pb2.WatchRequest(mesh=DEFAULT_MESH).SerializeToString()
    return _unread(attack, until, WATCH, request)


def _unread(attack: Attack, until: float, method: str, request: bytes) -> int:
    sent = 0
    while time.monotonic() < until:
        with suppress(OSError):
            connection = attack.connect()
            connection.send(frame(SETTINGS, 0, NO_WINDOW))
            while time.monotonic() < until:
                connection.call(method, request)
                sent += 1
                _read(connection, 0.01)
    return sent


def _read(connection: Connection, timeout: float) -> None:
    while select.select([connection.socket], [], [], timeout)[0] or connection.socket.pending():
        for _ in connection.receive():
            pass
        timeout = 0


def half_closed(attack: Attack, until: float) -> int:
    """Ends its own half of connections that have a call open."""
    opened = 0
    while time.monotonic() < until:
        with suppress(OSError):
            connection = attack.connect()
            connection.open(path("Upload"))
            connection.socket.shutdown(socket.SHUT_WR)
            opened += 1
    return opened


def handshakes(attack: Attack, until: float) -> int:
    """Connects with TLS and closes, again and again, on several threads."""

    def connect() -> None:
        attack.connect().close()

    return _repeat(connect, until)


def abandoned_handshakes(attack: Attack, until: float) -> int:
    """Begins TLS handshakes, as a stranger, and falls silent."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = attack.context.wrap_bio(incoming, outgoing, server_hostname=attack.node_id)
    with suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    first = outgoing.read()
    host, port = attack.address.rsplit(":", 1)
    held: list[socket.socket] = []

    def begin() -> None:
        one = socket.create_connection((host, int(port)), 5)
        one.sendall(first)
        held.append(one)
        if len(held) > 2_000:
            held.pop(0).close()

    begun = _repeat(begin, until)
    for one in held:
        one.close()
    return begun


def _repeat(work: Callable[[], None], until: float) -> int:
    def repeat() -> int:
        count = 0
        while time.monotonic() < until:
            with suppress(OSError):
                work()
                count += 1
        return count

    return on_threads(*[repeat] * THREADS)


KINDS: dict[str, Callable[[Attack, float], int]] = {
    "calls over many connections": calls_over_many_connections,
    "messages without an end": lambda a, until: a.unfinished_requests(until, "Upload"),
    "messages, one connection": lambda a, until: a.unfinished_requests(
        until, "Upload", connections=1
    ),
    "messages with junk between": lambda a, until: a.unfinished_requests(
        until, "Upload", junk=JUNK, part=SHORT
    ),
    "requests with junk between": lambda a, until: a.unfinished_requests(
        until, junk=JUNK, part=SHORT
    ),
    "unread answers": unread_answers,
    "unread streams": unread_streams,
    "unread feeds": unread_feeds,
    "slow headers": slow_headers,
    "slow requests": slow_data,
    "many headers": many_headers,
    "many headers, no ACK": lambda a, until: many_headers(a, until, acknowledges=False),
    "method names": method_names,
    "half-closed": half_closed,
    "handshakes": handshakes,
    "abandoned handshakes": abandoned_handshakes,
}
