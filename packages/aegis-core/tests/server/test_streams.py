"""Many streams are sent on by few threads: one, or as many as callers that read nothing need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aegis_core._server.sync import streams

WAIT = 20.0
BEATS = 5


class _Call:
    """A call whose messages are written at once, or never; a send waits for that."""

    begin_send: Callable[[object, Callable[[], object]], None] | None = None

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


class _DirectCall(_Call):
    """The same without a wait, as where gRPC is as expected."""

    def __init__(self, *, is_read: bool = True) -> None:
        super().__init__(is_read=is_read)
        self._is_read = is_read
        self.messages: list[object] = []

    def begin_send(self, message: object, sent: Callable[[], object]) -> None:
        self.threads.add(threading.current_thread().name)
        self.messages.append(message)
        if self._is_read:
            self.written.release()
            threading.Thread(target=sent).start()  # as gRPC's serving thread


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


class _Changes:
    """Sends some messages at once, whenever something changed, and then ends."""

    is_finished = False

    def take(self) -> Iterator[int]:
        yield from range(BEATS)
        self.is_finished = True

    def delay(self, *, has_changed: bool) -> float:
        return 0.0 if has_changed else WAIT

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


def test_where_no_send_waits_the_clock_sends_itself_and_no_other_thread_is_woken(
    senders: streams.StreamSenders,
) -> None:
    calls = [_DirectCall() for _ in range(8)]
    open_all(senders, calls, 0.05)
    for call in calls:
        for _ in range(BEATS):
            assert call.written.acquire(timeout=WAIT)
    assert {name for call in calls for name in call.threads} == {"test-clock"}


def test_a_message_is_sent_once_the_one_before_it_is_written_and_the_status_after_the_last(
    senders: streams.StreamSenders,
) -> None:
    ended = threading.Event()

    class Call(_DirectCall):
        def complete(self) -> None:
            ended.set()

    call: Any = Call()
    senders.open(call, _Changes())
    assert ended.wait(WAIT)
    assert call.messages == list(range(BEATS))


def test_a_stream_that_is_not_written_gets_no_second_message_and_is_cancelled(
    senders: streams.StreamSenders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STUCK_AFTER", 0.05)
    monkeypatch.setattr(streams, "CHECK_STUCK_EVERY", 0.05)
    cancelled = threading.Event()

    class Call(_DirectCall):
        def cancel(self) -> None:
            cancelled.set()

    call: Any = Call(is_read=False)
    senders.open(call, _Changes())
    assert cancelled.wait(WAIT)
    assert call.messages == [0]


@pytest.mark.parametrize("kind", [_Call, _DirectCall])
def test_callers_that_read_nothing_delay_no_heartbeat_of_others(
    kind: type[_Call], senders: streams.StreamSenders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STUCK_AFTER", WAIT)
    silent = [kind(is_read=False) for _ in range(40)]
    calls = [kind() for _ in range(4)]
    open_all(senders, [*silent, *calls], 0.05)
    for call in calls:
        for _ in range(BEATS):
            assert call.written.acquire(timeout=WAIT / 2), "a silent caller holds the only sender"
    for call in silent:
        call.cancel()
