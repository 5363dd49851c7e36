"""Sends on many open streams with few threads.

A stream has no thread while nothing is sent on it. One thread begins to send what is due. gRPC says
later that a message is written, so that a caller that reads nothing holds no thread. With gRPC's
public API alone, a send blocks until the message is written, and such a caller holds a sender. In
both cases its stream is cancelled after a while.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

from aegis_core._server.daemon_threads import WorkerThreads
from aegis_core._server.rejections import Rejection
from aegis_core._server.sync.calls import ServerCall

_log = logging.getLogger("aegis.server")

SENDERS = 1
"""Threads that send and wait while all callers read: several would be woken for the same work."""

MAX_SENDERS = 256
"""Threads that send at most; so many callers that read nothing delay the others."""

MORE_AFTER = 0.02
"""Seconds after which the number of threads is doubled, if there are always streams that wait."""

STUCK_AFTER = 10.0
"""Seconds after which a message that is not written ends its stream: its reader is long failed."""

CHECK_STUCK_EVERY = 1.0

LATE_BY = 0.01
"""Seconds that a message may be late, so that the clock is not woken just before it wakes."""


class Source(Protocol):
    """What is sent on a stream, and when."""

    is_finished: bool
    """Whether the stream ends, with OK, after what `take` returned last."""

    def take(self) -> Iterator[Any]:
        """Yields what is to be sent now."""

    def delay(self, *, has_changed: bool) -> float:
        """Returns the seconds until the next `take`; for ever if nothing is due."""

    def close(self) -> None:
        """Releases what the stream holds. It must not block."""


class _Stream:
    __slots__ = (
        *("ahead", "at", "call", "has_changed", "is_busy", "is_over", "messages", "sending_since"),
        "source",
    )

    def __init__(self, call: ServerCall, source: Source) -> None:
        self.call = call
        self.source = source
        self.messages: Iterator[Any] = iter(())
        self.ahead: Any = None
        self.at = math.inf
        self.has_changed = False
        self.is_busy = False
        self.is_over = False
        self.sending_since: float | None = None


class StreamSenders:
    """Sends what the sources of open streams have, when it is due or when something changed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._senders = WorkerThreads[_Stream](SENDERS, name, self._send)
        self._count = SENDERS
        self._waiting_since: float | None = None
        self._streams: set[_Stream] = set()
        self._due: list[tuple[float, int, _Stream]] = []
        self._going_on: deque[_Stream] = deque()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._wakeup = threading.Event()
        self._wakes_at = math.inf
        self._has_changed = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def open(self, call: ServerCall, source: Source) -> None:
        """Begins to send on the stream of a call, whose handler must send nothing itself."""
        stream = _Stream(call, source)
        with self._lock:
            self._streams.add(stream)
            self._schedule(stream, 0.0)
            if self._thread is None:
                name = f"{self._name}-clock"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
        if not call.context.add_callback(lambda: self._over(stream)):
            self._over(stream)

    def wake(self) -> None:
        """Asks all sources soon. It never blocks."""
        if not self._has_changed:
            self._has_changed = True
            self._wakeup.set()

    def close(self) -> None:
        """Sends nothing more."""
        self._is_closed = True
        self._wakeup.set()
        self._senders.close()

    def _over(self, stream: _Stream) -> None:
        # On gRPC's serving thread, which must not wait.
        with self._lock:
            if stream.is_over:
                return
            stream.is_over = True
            self._streams.discard(stream)
        stream.source.close()

    def _schedule(self, stream: _Stream, at: float) -> None:
        stream.at = at
        if at < math.inf:
            heapq.heappush(self._due, (at, next(self._numbers), stream))
            if at < self._wakes_at - LATE_BY:
                self._wakes_at = at
                self._wakeup.set()

    def _run(self) -> None:
        checked_at = time.monotonic()
        while not self._is_closed:
            rest = min(CHECK_STUCK_EVERY, max(0.0, self._wakes_at - time.monotonic()))
            self._wakeup.wait(rest if self._streams else None)
            self._wakeup.clear()
            now = time.monotonic()
            with self._lock:
                if self._has_changed:
                    self._has_changed = False
                    self._mark_changed(now)
                ready = self._take_due(now)
                stuck = []
                if now - checked_at >= CHECK_STUCK_EVERY:
                    checked_at = now
                    stuck = [stream for stream in self._streams if _is_stuck(stream, now)]
                next_at = self._due[0][0] if self._due else math.inf
                self._wakes_at = min(next_at, now + CHECK_STUCK_EVERY)
            for stream in ready:
                if stream.call.begin_send is None:
                    self._senders.put(stream)
                else:
                    stream.messages = stream.source.take()
                    self._begin_send(stream)
            for _ in range(len(self._going_on)):
                self._begin_send(self._going_on.popleft())
            for stream in stuck:
                stream.call.context.cancel()
            self._adapt_senders(now)

    def _adapt_senders(self, now: float) -> None:
        """Adds senders while streams wait for one, and removes them once no stream is stuck."""
        if self._count == SENDERS and not self._senders.waiting:
            self._waiting_since = None
            return
        busy = sum(stream.is_busy for stream in self._streams.copy())
        # A moment ago all streams that are due were given to the senders.
        if busy <= self._count or not self._senders.waiting:
            self._waiting_since = None
            if self._count > SENDERS and not busy:
                self._senders.resize(SENDERS - self._count)
                self._count = SENDERS
            return
        if self._waiting_since is None:
            self._waiting_since = now
        elif now - self._waiting_since >= MORE_AFTER:
            more = min(self._count, MAX_SENDERS - self._count)
            self._senders.resize(more)
            self._count += more
            self._waiting_since = now
        self._wakes_at = min(self._wakes_at, now + MORE_AFTER)

    def _mark_changed(self, now: float) -> None:
        for stream in self._streams:
            if not stream.has_changed:
                stream.has_changed = True
                if not stream.is_busy:
                    self._schedule(stream, now + stream.source.delay(has_changed=True))

    def _take_due(self, now: float) -> list[_Stream]:
        ready = []
        while self._due and self._due[0][0] <= now:
            at, _, stream = heapq.heappop(self._due)
            if at == stream.at and not stream.is_over and not stream.is_busy:
                stream.is_busy = True
                # Read before the changes: changes during the sending go with the next messages.
                stream.has_changed = False
                ready.append(stream)
        return ready

    def _begin_send(self, stream: _Stream) -> None:
        """Begins to send the next message. `_sent` follows once it is written."""
        try:
            message, stream.ahead = stream.ahead, None
            if message is None:
                message = next(stream.messages, None)
            if message is None:
                self._rest(stream)
                return
            # So that this thread need not be woken when the last one is written.
            stream.ahead = next(stream.messages, None)
            stream.sending_since = time.monotonic()
            begin_send = stream.call.begin_send
            assert begin_send is not None  # noqa: S101 - else a sender sends
            begin_send(message, partial(self._sent, stream))
        except Exception:  # noqa: BLE001 - whatever it is, the others must go on
            self._fail(stream)

    def _sent(self, stream: _Stream) -> None:
        # On gRPC's serving thread, which must not wait, and which an error would end.
        try:
            if stream.is_over:
                return
            if stream.ahead is None:
                self._rest(stream)
            else:
                self._going_on.append(stream)
                self._wakeup.set()
        except Exception:  # noqa: BLE001 - as above
            self._fail(stream)

    def _send(self, stream: _Stream) -> None:
        """Sends what is due, and waits until it is written."""
        stream.sending_since = time.monotonic()
        try:
            for message in stream.source.take():
                stream.call.send(message)
                if stream.is_over:
                    return
                stream.sending_since = time.monotonic()
            self._rest(stream)
        except Exception:  # noqa: BLE001 - whatever it is, the others must go on
            self._fail(stream)

    def _rest(self, stream: _Stream) -> None:
        """Ends the stream, or lets it wait until something is due again."""
        if stream.source.is_finished:
            stream.call.complete()
            self._over(stream)
            return
        stream.sending_since = None
        with self._lock:
            stream.is_busy = False
            delay = stream.source.delay(has_changed=stream.has_changed)
            self._schedule(stream, time.monotonic() + delay)

    def _fail(self, stream: _Stream) -> None:
        _log.exception("a stream failed")
        stream.call.end(Rejection("INTERNAL", "this node failed; its log says why"))


def _is_stuck(stream: _Stream, now: float) -> bool:
    since = stream.sending_since
    return since is not None and now - since >= STUCK_AFTER
