"""Gives memory back to the system that callers made this process take.

glibc keeps what was freed between blocks that are in use. After 2 000 connections of one caller a
node had 180 MB that nothing used, and kept them for good; `malloc_trim` takes 0.1 s to return them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SLACK = 8 * 1024 * 1024
"""Bytes of growth that are worth a look, which takes milliseconds."""

_MALLINFO = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)
_STATM = Path("/proc/self/statm")


class FreedMemory:
    """Decides when memory is to be given back. Pure; `resident` are bytes that the process has.

    The first look is always worth it: imports leave a megabyte that nothing uses.
    """

    def __init__(self) -> None:
        self._floor = 0

    def may_be_returned(self, resident: int) -> bool:
        """Tells whether the process has grown so much that some of it may be unused."""
        self._floor = min(self._floor, resident)
        return resident > self._floor + SLACK

    def note_returned(self, resident: int) -> None:
        """Records what remains: it is in use, so only growth above it is worth another look."""
        self._floor = resident


def resident_bytes() -> int | None:
    """Returns the memory of this process, where the system shows it."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def allocated_bytes() -> int | None:
    """Returns what the C library has allocated, gRPC's buffers included, where it tells that."""
    import ctypes  # few processes ever need it

    class Mallinfo(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_size_t) for name in _MALLINFO)

    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2  # glibc 2.33
    except (AttributeError, OSError):
        return None
    mallinfo2.restype = Mallinfo
    info = mallinfo2()
    return int(info.uordblks) + int(info.hblkhd)


def return_freed_memory() -> None:
    """Gives freed memory back, where the C library can. Threads that allocate may wait for it."""
    import ctypes  # few processes ever need it

    with contextlib.suppress(AttributeError, OSError):  # musl and macOS return it themselves
        ctypes.CDLL(None).malloc_trim(0)
