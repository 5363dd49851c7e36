"""Notices within hundredths of a second that this process grows, and never wakes it at rest.

gRPC may take 1 GB a second from a caller, so a look at the clock comes too late, or wakes a process
ten times a second for nothing. A thread sleeps on the clock of the processor time that the process
has used instead, which stands still while the process waits. Linux only.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from aegis_discovery.signals import LogLimiter

_log = logging.getLogger("aegis.server")

USED = 0.01
"""Seconds of processor time between two looks; Linux checks that clock every 1 to 10 ms."""

NOTE_AFTER = 25
"""Looks after which there is a report although the process has not grown."""

GROWN = 4 * 1024 * 1024
"""Bytes of growth that are reported."""

_STATM = b"/proc/self/statm"


class GrowthWatch:
    """One thread that looks, while somebody wants to know. It may be used from any thread."""

    def __init__(self) -> None:
        self._log_limiter = LogLimiter(_log)
        self.after_fork_in_child()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after_fork_in_child)

    def after_fork_in_child(self) -> None:
        """Forgets everything: the thread is not in the child."""
        self._reports: list[Callable[[bool], object]] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, report: Callable[[bool], object]) -> None:
        """Calls a function with True whenever the process has grown, and now and then with False.

        Args:
            report: Called on the thread.
        """
        with self._lock:
            self._reports.append(report)
            if self._thread is None and sys.platform == "linux":
                thread = threading.Thread(target=self._run, name="aegis-growth", daemon=True)
                with contextlib.suppress(RuntimeError):  # the system gives no more threads
                    thread.start()
                    self._thread = thread

    def remove(self, report: Callable[[bool], object]) -> None:
        """Calls a function no more. After the last one, the thread ends when it wakes."""
        with self._lock, contextlib.suppress(ValueError):
            self._reports.remove(report)

    def _run(self) -> None:
        sleep, resident = _sleeper(), _resident_reader()
        least, looks = resident(), 0
        while least and sleep():
            with self._lock:
                reports = [*self._reports]
                if not reports:
                    self._thread = None
                    return
            looks += 1
            least = min(least, now := resident())
            has_grown = now > least + GROWN
            if has_grown or looks >= NOTE_AFTER:
                for report in reports:
                    self._report(report, has_grown)
                looks = 0
            if has_grown:
                least = resident()

    def _report(self, report: Callable[[bool], object], has_grown: bool) -> None:
        try:
            report(has_grown)
        except Exception as error:  # noqa: BLE001 - the next look may be the one that counts
            self._log_limiter.warn("growth", "look", "a look at the memory failed", error=error)


def _sleeper() -> Callable[[], bool]:
    """Returns what waits until the process has used more time; False where it cannot."""
    import ctypes  # the thread starts with the first connection

    class Timespec(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    clock, used = time.CLOCK_PROCESS_CPUTIME_ID, Timespec(0, int(USED * 1e9))
    try:
        wait = ctypes.CDLL(None).clock_nanosleep  # other threads run meanwhile
    except (AttributeError, OSError):
        return lambda: False
    return lambda: wait(clock, 0, ctypes.byref(used), None) in {0, errno.EINTR}


def _resident_reader() -> Callable[[], int]:
    """Returns what reads the resident bytes of the process, 0 where they are unknown.

    `PyDLL` keeps CPython's lock, so a look takes 10 us also where other threads wait for that.
    """
    import ctypes

    page = os.sysconf("SC_PAGE_SIZE")
    text = ctypes.create_string_buffer(128)
    libc: Any = ctypes.PyDLL(None)

    def read() -> int:
        descriptor = libc.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
        if descriptor < 0:
            return 0
        count = libc.read(descriptor, text, len(text))
        libc.close(descriptor)
        return int(text.raw[:count].split()[1]) * page if count > 0 else 0

    return read


growth = GrowthWatch()
"""That of this process."""
