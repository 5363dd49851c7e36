"""Timers that an event loop does not have itself.

While a loop of asyncio has a timer, each of its turns costs more: it looks at its timers, and the
system arms one of its own. A call to a `grpc.aio` server takes eight turns, so a single timer that
waits costs 5 to 7 % of each call (gRPC 1.85, Python 3.11). On Linux a file descriptor of the system
(`timerfd`) can wait in their place; it costs nothing until it is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import itertools
import math
import os
import struct
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

PRUNE_ABOVE = 64
"""Timers above which cancelled ones are removed before their time, once they are half of all."""


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None: ...


def call_later(seconds: float, callback: Callable[[], object]) -> Timer:
    """Calls back in the running event loop, with a timer of its own or of a descriptor."""
    loop = asyncio.get_running_loop()
    timers = _timers.get(loop)
    if timers is None:
        return loop.call_later(seconds, callback)
    return timers.call_at(time.monotonic() + seconds, callback)


async def sleep(seconds: float) -> None:
    """Sleeps as `asyncio.sleep` does, with a timer as in `call_later`."""
    over = asyncio.get_running_loop().create_future()
    timer = call_later(seconds, lambda: None if over.done() else over.set_result(None))
    try:
        await over
    finally:
        timer.cancel()


@contextlib.asynccontextmanager
async def timeout(seconds: float) -> AsyncIterator[None]:
    """Limits the time of a block as `asyncio.timeout` does, with a timer as in `call_later`.

    Raises:
        TimeoutError: The time was over.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        timer = call_later(seconds, lambda: limit.reschedule(loop.time()))
        try:
            yield
        finally:
            timer.cancel()


@contextlib.contextmanager
def timers_outside_loop() -> Iterator[None]:
    """Lets `call_later` and `sleep` use a descriptor in the running loop, until the block ends.

    It has no effect without `timerfd`, and in loops of uvloop, whose timers cost nothing.
    """
    loop = asyncio.get_running_loop()
    timers = _timers.get(loop)
    if timers is None:
        descriptor = _new_descriptor() if isinstance(loop, asyncio.BaseEventLoop) else None
        if descriptor is None:
            yield
            return
        timers = _timers[loop] = DescriptorTimers(loop, descriptor)
    timers.users += 1
    try:
        yield
    finally:
        timers.users -= 1
        if not timers.users:
            del _timers[loop]
            timers.close()


class _Timer:
    __slots__ = ("_timers", "callback")

    def __init__(self, timers: DescriptorTimers, callback: Callable[[], object]) -> None:
        self._timers = timers
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._timers.cancelled += 1


class DescriptorTimers:
    """The timers of an event loop that wait on one descriptor. Use it in that loop.

    Args:
        loop: The event loop.
        descriptor: A `timerfd`, which is closed at the end.

    Attributes:
        users: How many need it.
        cancelled: How many timers were cancelled and not removed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self.users = 0
        self.cancelled = 0
        self._loop = loop
        self._descriptor = descriptor
        self._close_descriptor = weakref.finalize(self, os.close, descriptor)
        self._due: list[tuple[float, int, _Timer]] = []
        self._numbers = itertools.count()
        self._armed_for = math.inf
        loop.add_reader(descriptor, self._call)

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Calls back at a time in monotonic seconds."""
        if len(self._due) > PRUNE_ABOVE and 2 * self.cancelled > len(self._due):
            self._due = [entry for entry in self._due if entry[2].callback is not None]
            heapq.heapify(self._due)
            self.cancelled = 0
        timer = _Timer(self, callback)
        heapq.heappush(self._due, (when, next(self._numbers), timer))
        if when < self._armed_for:
            self._arm(when)
        return timer

    def close(self) -> None:
        """Closes the descriptor; the loop itself calls back what is left."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.remove_reader(self._descriptor)
        self._close_descriptor()
        ahead = self._loop.time() - time.monotonic()
        for when, _, timer in self._due:
            if timer.callback is not None and not self._loop.is_closed():
                self._loop.call_at(when + ahead, _call, timer)
        self._due = []

    def _arm(self, when: float) -> None:
        self._armed_for = when
        seconds, rest = divmod(max(when, 1e-9), 1)  # 0 would disarm it
        # struct itimerspec: no repetition, and the time.
        time_of = struct.pack("@4l", 0, 0, int(seconds), min(int(rest * 1e9) + 1, 999_999_999))
        _libc().timerfd_settime(self._descriptor, _TFD_TIMER_ABSTIME, time_of, None)

    def _call(self) -> None:
        with _ARMED_ANEW:
            os.read(self._descriptor, 8)
        self._armed_for = math.inf
        now, due = time.monotonic(), []
        while self._due and self._due[0][0] <= now:
            due.append(heapq.heappop(self._due)[2])
        if self._due:
            self._arm(self._due[0][0])
        for timer in due:
            if timer.callback is None:
                self.cancelled -= 1
                continue
            try:
                _call(timer)  # now: a turn of the loop for each would cost more than most of them
            except Exception as error:  # noqa: BLE001 - the others are due all the same
                message = "a timer failed"
                self._loop.call_exception_handler({"message": message, "exception": error})


def _call(timer: _Timer) -> None:
    callback, timer.callback = timer.callback, None
    if callback is not None:
        callback()


_timers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, DescriptorTimers] = (
    weakref.WeakKeyDictionary()
)
_TFD_TIMER_ABSTIME = 1
_ARMED_ANEW = contextlib.suppress(BlockingIOError)  # after the loop was told that it is due


@functools.cache
def _libc() -> Any:
    import ctypes  # few processes need it

    return ctypes.CDLL(None)


def _new_descriptor() -> int | None:
    """Returns a descriptor that can wait for a monotonic time; None where there is none."""
    if sys.platform != "linux" or struct.calcsize("@l") != 8:
        return None
    with contextlib.suppress(OSError, AttributeError):
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        descriptor: int = _libc().timerfd_create(time.CLOCK_MONOTONIC, flags)
        return descriptor if descriptor >= 0 else None
    return None
