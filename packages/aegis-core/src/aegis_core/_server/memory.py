"""Keeps the memory of this process close to what it uses, and gives back what callers made it take.

glibc keeps what was freed between blocks that are in use. After 2 000 connections of one caller a
node had 180 MB that nothing used, and kept them for good; `malloc_trim` takes 0.1 s to return them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from aegis_discovery.background import sleep_until_tick

LOOK_EVERY = 1.0
"""Seconds between two looks at how much memory this process has."""

FIRST_RETURN = 5.0
"""Seconds from the start to the first return: compiling modules leaves up to 5 MB, joining 1 MB."""

RETURN_EVERY = 30.0
"""Seconds between two returns of freed memory, while this process does not grow."""

MUCH = 24 * 1024 * 1024
"""Bytes by which it may grow until freed memory is returned at once.

A member can send frames that gRPC reads and drops, such as GOAWAY, at 300 MB a second: what they
took is freed at once, in so many pieces that a node had 150 MB more.
"""

PAUSE = 0.25
"""Least seconds between two returns while it goes on to grow."""

MAX_SHARE = 0.1
"""The share of the time that returns may take."""

SLACK = 8 * 1024 * 1024
"""Bytes of growth that are worth a look, which takes milliseconds."""

_ARENAS, _KEPT_AT_TOP, _MAPPED_FROM = -8, -1, -3
"""Parameters of `mallopt`: M_ARENA_MAX, M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""

ALLOCATOR = {_ARENAS: 1, _KEPT_AT_TOP: 16 * 1024 * 1024, _MAPPED_FROM: 32 * 1024 * 1024}
"""One arena, which keeps 16 MiB free at its end; larger blocks than 32 MiB are maps of their own.

The last is where glibc itself arrives once such a block was freed. With one arena and glibc's own
limits, a request of 3 MB took 1.3 to 1.8 times the processor time, since the end of the arena went
back and forth; with these it takes 0.9 times as much as with many arenas.
"""

_MALLINFO = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)
_STATM = "/proc/self/statm"


class FreedMemory:
    """Decides when memory is to be given back. Pure; `resident` are bytes that the process has.

    The first look is always worth it: imports leave a megabyte that nothing uses.
    """

    def __init__(self) -> None:
        self._floor = 0
        self._allocated = 0
        self._least: int | None = None

    def has_grown(self, resident: int) -> bool:
        """Tells whether the process has much more than at the first look, or the last return."""
        self._least = min(resident, self._least or resident)
        return resident > self._least + MUCH

    def may_be_returned(self, resident: int, allocated: int = 0) -> bool:
        """Tells whether some of the memory of the process may be unused.

        It has grown, or less is allocated than once was since the last return: that one may have
        been in the middle of a flood.
        """
        self._floor = min(self._floor, resident)
        self._allocated = max(self._allocated, allocated)
        return resident > self._floor + SLACK or allocated < self._allocated - SLACK

    def note_returned(self, resident: int, allocated: int = 0) -> None:
        """Records what remains and is in use."""
        self._floor = self._least = resident
        self._allocated = allocated


async def watch_memory() -> None:
    """Returns freed memory now and then, and soon while this process grows, until cancelled."""
    freed, due = FreedMemory(), time.monotonic() + FIRST_RETURN
    while True:
        await sleep_until_tick(LOOK_EVERY)
        resident = resident_bytes()
        if resident is None:
            continue  # this system does not tell
        if time.monotonic() < due and not freed.has_grown(resident):
            continue
        while freed.may_be_returned(*memory_now()):
            began = time.monotonic()
            await asyncio.to_thread(return_freed_memory)
            freed.note_returned(*memory_now())
            await asyncio.sleep(max(PAUSE, (time.monotonic() - began) / MAX_SHARE))
        due = time.monotonic() + RETURN_EVERY


def share_arena() -> None:
    """Lets all threads allocate from one arena, where the C library is glibc.

    Else threads have arenas of their own, up to eight for each processor, and each arena keeps what
    was freed: 100 requests of 4 MB made a node take 55 to 60 MB, of which it used 22, and 33 to 35
    with one arena. It concerns arenas of later threads. What the user has set by the environment,
    such as `MALLOC_ARENA_MAX`, stays as it is.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ):
        return
    import ctypes

    with contextlib.suppress(AttributeError, OSError):  # musl and macOS have no arenas
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in ALLOCATOR.items():
            mallopt(name, value)


def resident_bytes() -> int | None:
    """Returns the memory of this process, where the system shows it."""
    # Without a file object, which costs three times as much, each second.
    try:
        descriptor = os.open(_STATM, os.O_RDONLY)
    except OSError:
        return None
    try:
        return int(os.read(descriptor, 128).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)


def allocated_bytes() -> int | None:
    """Returns what the C library has allocated, gRPC's buffers included, where it tells that."""
    mallinfo = _mallinfo()
    if mallinfo is None:
        return None
    info = mallinfo()
    return int(info.uordblks) + int(info.hblkhd)


@cache
def _mallinfo() -> Callable[[], Any] | None:
    import ctypes  # few processes ever need it

    class Mallinfo(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_size_t) for name in _MALLINFO)

    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2  # glibc 2.33
    except (AttributeError, OSError):
        return None
    mallinfo2.restype = Mallinfo
    found: Callable[[], Any] = mallinfo2
    return found


def memory_now() -> tuple[int, int]:
    """Returns the resident and the allocated bytes; 0 for what is unknown."""
    return resident_bytes() or 0, allocated_bytes() or 0


def return_freed_memory() -> None:
    """Gives freed memory back, where the C library can. Threads that allocate may wait for it."""
    import ctypes  # few processes ever need it

    with contextlib.suppress(AttributeError, OSError):  # musl and macOS return it themselves
        ctypes.CDLL(None).malloc_trim(0)
