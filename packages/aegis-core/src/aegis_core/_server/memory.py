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
        self._allocated = 0

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
        self._floor = resident
        self._allocated = allocated


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


def memory_now() -> tuple[int, int]:
    """Returns the resident and the allocated bytes; 0 for what is unknown."""
    return resident_bytes() or 0, allocated_bytes() or 0


def return_freed_memory() -> None:
    """Gives freed memory back, where the C library can. Threads that allocate may wait for it."""
    import ctypes  # few processes ever need it

    with contextlib.suppress(AttributeError, OSError):  # musl and macOS return it themselves
        ctypes.CDLL(None).malloc_trim(0)
