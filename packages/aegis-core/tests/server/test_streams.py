"""Many streams are sent on by few threads, and by as many as callers that read nothing need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aegis_core._server.sync import streams

WAIT = 20.0
BEATS = 5


class _Call:
    """A call whose messages are written at once, or never."""

    def __init__(self, *, is_read: bool = True) -> None:
        self.context = self
        self.written = threading.Semaphore(0)
        self.threads: set[str] = set()
        self._may_write = threading.Event()
        if is_read:
            self._may_write.set()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return True

    def send(self, message: object) -> None:
        assert self._may_write.wait(WAIT)
        self.threads.add(threading.current_thread().name)
        self.written.release()

    def cancel(self) -> None:
        self._may_write.set()


class _Heartbeat:
    """Sends a message whenever a time has passed, as all others at the same moments."""

    is_finished = False

    def __init__(self, every: float) -> None:
        self._every = every

    def take(self) -> Iterator[bytes]:
        yield b"alive"

    def delay(self, *, has_changed: bool) -> float:
        return self._every

    def close(self) -> None: ...


@pytest.fixture
def senders() -> Iterator[streams.StreamSenders]:
    made = streams.StreamSenders("test")
    yield made
    made.close()


def open_all(senders: streams.StreamSenders, calls: list[Any], every: float) -> None:
    for call in calls:
        senders.open(call, _Heartbeat(every))


def test_streams_at_rest_are_sent_on_by_one_thread(
    senders: streams.StreamSenders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MORE_AFTER", WAIT)  # a busy machine is not what this is about
    calls = [_Call() for _ in range(8)]
    open_all(senders, calls, 0.05)
    for call in calls:
        for _ in range(BEATS):
            assert call.written.acquire(timeout=WAIT)
    assert {name for call in calls for name in call.threads} == {"test-1"}


def test_callers_that_read_nothing_delay_no_heartbeat_of_others(
    senders: streams.StreamSenders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STUCK_AFTER", WAIT)
    silent = [_Call(is_read=False) for _ in range(40)]
    calls = [_Call() for _ in range(4)]
    open_all(senders, [*silent, *calls], 0.05)
    for call in calls:
        for _ in range(BEATS):
            assert call.written.acquire(timeout=WAIT / 2), "a silent caller holds the only sender"
    for call in silent:
        call.cancel()
