"""Waits of the main thread during which the handlers of signals run.

The system may give a signal to any thread of the process. Its handler in Python runs in the main
thread only, which a signal to another thread does not wake.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

LOOK_FOR_SIGNALS = 1.0
"""Seconds after which the main thread looks for signals, where none can wake it."""


def wait_in_main_thread(future: concurrent.futures.Future[Any]) -> None:
    """Waits until a future is done. Handlers of signals run meanwhile, and may raise an error."""
    with contextlib.ExitStack() as stack:
        try:
            reader, writer = stack.enter_context(_woken_by_signals())
        except (OSError, ValueError):
            # No descriptor is left, another one is in use, or this interpreter gets no signals.
            while not concurrent.futures.wait([future], LOOK_FOR_SIGNALS).done:
                pass
            return

        def wake(_: object) -> None:
            with contextlib.suppress(OSError):  # it is full, or nobody waits any more
                writer.send(b"\0")

        future.add_done_callback(wake)
        while not future.done():
            reader.recv(1024)


@contextlib.contextmanager
def _woken_by_signals() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yields a connected pair of sockets; the first one receives a byte for each signal.

    Raises:
        OSError: No descriptor is left.
        ValueError: Somebody else is woken, or this is not the main thread.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        before = -1
        try:
            # The handler of a signal may raise as soon as this call returns: then the descriptor,
            # which is closed now and soon another one's, must not stay the one that is written to.
            before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            if before != -1:
                raise ValueError("signals wake another waiter")
            yield reader, writer
        finally:
            signal.set_wakeup_fd(before)
