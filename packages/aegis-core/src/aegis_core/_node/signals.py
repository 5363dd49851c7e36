"""The signals that stop a process, and the messages to its service manager (sd_notify)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

_log = logging.getLogger("aegis.node")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

SAME_SIGNAL = 0.5
"""Seconds within which a signal counts once: a wrapper such as `uv run` may pass on a second one
when the signal goes to the whole process group."""


_counts_once = False


def count_signals_once() -> None:
    """Makes a second signal mean nothing in this process: a worker, which its supervisor kills."""
    global _counts_once
    _counts_once = True


def stop_hint() -> str:
    """Returns what the log says of a second signal; nothing in a worker."""
    return "" if _counts_once else "; a second signal ends it at once"


@contextlib.contextmanager
def stop_signals(
    stop: Callable[[signal.Signals], object],
    loop: asyncio.AbstractEventLoop | None = None,
    *,
    at_once: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Calls `stop` at the first SIGTERM, SIGINT or SIGHUP; a second one ends the process at once.

    A SIGHUP that has a handler, or is ignored as `nohup` does it, is left alone. Only the main
    thread can handle signals; in any other thread this does nothing. The handlers from before are
    restored at the end.

    Args:
        stop: It is called in the event loop or, without one, in a signal handler: between any two
            steps of the main thread. So it may not take a lock there.
        loop: The event loop of this thread, if it has one.
        at_once: Called at the second signal, before it ends the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: tuple[int, float] | None = None

    def handle(number: int, _frame: FrameType | None = None) -> None:
        nonlocal first
        if first is None:
            first = number, time.monotonic()
            stop(signal.Signals(number))
        elif not _counts_once and (
            first[0] != number or time.monotonic() - first[1] >= SAME_SIGNAL
        ):
            at_once()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a terminal that is closed sends it
        before[signal.SIGHUP] = signal.SIG_DFL
    for number in before:
        if loop is None:
            signal.signal(number, handle)
        else:
            loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            if loop is not None:
                loop.remove_signal_handler(number)
            if handler is not None:  # it is None if C code set it
                signal.signal(number, handler)


def notify_manager(state: str) -> None:
    """Tells systemd, or whatever set `NOTIFY_SOCKET`, the state of this process.

    See sd_notify(3). Without `NOTIFY_SOCKET` it does nothing.

    Args:
        state: `READY`, `RELOADING` or `STOPPING`.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace of Linux
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)
            lines = [f"{state}=1"]
            if state == "RELOADING":
                lines.append(f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            manager.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        _log.warning("cannot tell the service manager %s: %s; see NOTIFY_SOCKET", state, error)
