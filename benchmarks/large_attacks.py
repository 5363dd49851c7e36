"""What one member can send in whole messages of the largest size, and in several ways at once."""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import frame_attacks
import slow_attacks
from attacks import Attack, on_threads
from frames import (
    DATA,
    END_STREAM,
    MAX_FRAME,
    RST_STREAM,
    WINDOW_UPDATE,
    Connection,
    frame,
    message,
)
from workload import path

LARGE = 3_900_000
"""Bytes of a whole message."""

CALLS = 300
"""Calls with one that are open at once."""

STREAMS, UNSENT = 600, 2
"""The same of streams that are left open, and how many of them are sent to at once."""


def large_requests(attack: Attack, until: float) -> int:
    """Sends whole requests of 4 MB to a handler that takes 50 ms, as fast as they are read."""
    body = message(b" " * LARGE + b"0.05")
    return _send(attack, until, "Sleep", body, END_STREAM, calls=CALLS, unsent=CALLS)


def kept_messages(attack: Attack, until: float) -> int:
    """Sends one whole message of 4 MB in each of many streams, whose handlers wait for the next."""
    body = message(b" " * LARGE)
    return _send(attack, until, "Upload", body, 0, calls=STREAMS, unsent=UNSENT)


def _send(
    attack: Attack, until: float, method: str, body: bytes, end: int, *, calls: int, unsent: int
) -> int:
    sent = 0
    while time.monotonic() < until:
        with suppress(OSError):
            connection = attack.connect()
            connection.await_settings()
            connection.socket.settimeout(0.5)
            one = _Sender(connection, path(method), body, end)
            while time.monotonic() < until:
                sent += one.turn(calls, unsent)
    return sent


class _Sender:
    """Sends one message in each call of a connection, as much as the windows of a server allow.

    Args:
        connection: The connection.
        method: What to call.
        body: The message.
        end: What the last frame of a message says.
    """

    def __init__(self, connection: Connection, method: str, body: bytes, end: int) -> None:
        self._connection = connection
        self._method = method
        self._body = memoryview(body)
        self._end = end
        self._left: dict[int, memoryview] = {}
        self._windows: Counter[int] = Counter()

    def turn(self, calls: int, unsent: int) -> int:
        """Opens calls and sends; returns how many messages are complete since the last turn."""
        connection, left, windows, complete = self._connection, self._left, self._windows, 0
        while len(windows) < calls and len(left) < unsent and connection.window:
            stream = connection.open(self._method)
            left[stream], windows[stream] = self._body, connection.stream_window
        for stream in [*left]:
            size = min(windows[stream], len(left[stream]), connection.window, MAX_FRAME)
            if size:
                part, left[stream] = left[stream][:size], left[stream][size:]
                connection.send(frame(DATA, stream, bytes(part), 0 if left[stream] else self._end))
                windows[stream] -= size
                connection.window -= size
                if not left[stream]:
                    del left[stream]
                    complete += 1
        while select.select([connection.socket], [], [], 0)[0]:
            for got in connection.receive():
                if got.kind == WINDOW_UPDATE and got.stream in windows:
                    windows[got.stream] += int.from_bytes(got.payload, "big")
                elif got.ends_stream or got.kind == RST_STREAM:
                    left.pop(got.stream, None)
                    windows.pop(got.stream, None)
        return complete


def together(*attacks: Callable[[Attack, float], int]) -> Callable[[Attack, float], int]:
    """Returns what runs attacks at the same time."""

    def run(attack: Attack, until: float) -> int:
        return on_threads(*(partial(one, attack, until) for one in attacks))

    return run


_answers, _frames = slow_attacks.unread_answers, frame_attacks.unknown_frames
_messages = slow_attacks.KINDS["messages without an end"]

KINDS: dict[str, Callable[[Attack, float], int]] = {
    "large requests": large_requests,
    "kept messages": kept_messages,
    "answers and messages": together(_answers, _messages),
    "answers and requests": together(_answers, Attack.unfinished_requests),
    "answers and kept messages": together(_answers, kept_messages),
    "answers and large requests": together(_answers, large_requests),
    "answers and frames": together(_answers, _frames),
    "large and kept messages": together(large_requests, kept_messages),
    "kept and part messages": together(kept_messages, _messages),
    "five ways": together(
        _answers, _messages, Attack.unfinished_requests, kept_messages, large_requests
    ),
}
