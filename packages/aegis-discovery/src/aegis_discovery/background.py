"""An event loop in a background thread, for blocking APIs that are built on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from aegis_discovery._runtime.daemon_thread import in_daemon_thread
from aegis_discovery._runtime.event_loops import new_event_loop
from aegis_discovery._runtime.fork_guard import register_at_fork, stacks_of_own_size
from aegis_discovery._runtime.loop_timers import Timer, call_later, sleep, timers_outside_loop
from aegis_discovery._runtime.signal_waits import wait_in_main_thread
from aegis_discovery._runtime.sleeping import sleep_until_tick
from aegis_discovery.errors import ClosedError, ForkedError

__all__ = [
    "BackgroundLoop",
    "Timer",
    "call_later",
    "in_daemon_thread",
    "new_event_loop",
    "register_at_fork",
    "sleep",
    "sleep_until_tick",
    "stacks_of_own_size",
    "timers_outside_loop",
]

P = ParamSpec("P")
T = TypeVar("T")


class BackgroundLoop:
    """Runs coroutines for threads that have no event loop.

    The thread is a daemon, so that a process that forgets to close the loop can still exit.

    Args:
        name: The name of the thread.
        make_loop: Makes the event loop; uvloop's where that is installed, by default.
    """

    def __init__(
        self, name: str, make_loop: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
    ) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._closing = False
        self._forked = False
        self._loop = make_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        register_at_fork(self)

    @property
    def closed(self) -> bool:
        """Whether the loop is closed or closing."""
        return self._closing

    def check_fork(self, what: str = "") -> None:
        """Checks that this process started the loop.

        Args:
            what: The object to name in the error; the loop by default.

        Raises:
            ForkedError: This is a forked child, in which the thread does not exist.
        """
        if self._forked:
            raise ForkedError(what or self._name)

    def after_fork_in_child(self) -> None:
        """Refuses all further work, since the loop runs in the parent process only."""
        self._forked = self._closing = True

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine; returns its result, or raises its exception.

        Raises:
            ClosedError: The loop is closed.
            ForkedError: This is a forked child of the process that started the loop.
            RuntimeError: It was called on the loop's own thread, where it would wait for itself.
        """
        try:
            self.check_fork()
            if threading.current_thread() is self._thread:
                raise RuntimeError("blocking call on the loop's own thread; use the asyncio API")
            with self._lock:
                if self._closing:
                    raise ClosedError("background loop")
                future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except (ClosedError, RuntimeError):
            work.close()
            raise
        try:
            if threading.current_thread() is threading.main_thread():
                wait_in_main_thread(future)
            return future.result()
        except BaseException:
            # After Ctrl-C in the waiting thread the work must not run on unnoticed.
            future.cancel()
            raise

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function on the loop's thread and returns its result."""

        async def work() -> T:
            return function(*args, **kwargs)

        return self.run(work())

    def call_soon(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Calls a function on the loop's thread soon, and does not wait for it.

        A signal handler may use it: it takes no lock. A closed loop does not call the function.
        """
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(functools.partial(function, *args, **kwargs))

    def close(self) -> None:
        """Cancels all tasks, ends the loop and joins the thread; no effect in a forked child."""
        if self._forked:
            return
        with self._lock:
            if not self._closing:
                self._closing = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            while tasks := asyncio.all_tasks(self._loop):
                self._loop.run_until_complete(_end(tasks))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Gives tasks a moment to end, then cancels the rest."""
    _, pending = await asyncio.wait(tasks, timeout=0.1)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
