"""An event loop in a thread of its own, for the blocking faces of what is built on asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from aegis_discovery._runtime.fork_guard import register_at_fork
from aegis_discovery.errors import ClosedError, ForkedError

__all__ = ["BackgroundLoop", "register_at_fork"]

P = ParamSpec("P")
T = TypeVar("T")


class BackgroundLoop:
    """Runs coroutines for threads that have no event loop.

    The thread is a daemon: a process that forgets to close still ends.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._closing = False
        self._forked = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        register_at_fork(self)

    @property
    def closed(self) -> bool:
        """Whether the loop has ended, or is about to."""
        return self._closing

    def check_fork(self, what: str = "") -> None:
        """Makes sure that this is the process of the loop.

        Args:
            what: What belongs to the loop, for the error.

        Raises:
            ForkedError: If it is a forked child, which has no such thread.
        """
        if self._forked:
            raise ForkedError(what or self._name)

    def after_fork_in_child(self) -> None:
        """Refuses whatever comes from now on; the loop goes on in another process."""
        self._forked = self._closing = True

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end and returns its result, or raises what it raised.

        Raises:
            ClosedError: If the loop was closed.
            ForkedError: If this is a forked child of the loop's process.
            RuntimeError: If called on the loop's own thread, where it would wait for itself.
        """
        if self._forked:
            work.close()
        self.check_fork()
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a blocking call on the event loop's own thread; use the async API")
        with self._lock:
            if self._closing:
                work.close()
                raise ClosedError("background loop")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C in the waiting thread must not leave the work running unseen.
            future.cancel()
            raise

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a plain function on the loop's thread and returns its result."""

        async def work() -> T:
            return function(*args, **kwargs)

        return self.run(work())

    def close(self) -> None:
        """Cancels what runs, ends the loop and joins the thread; does nothing in a forked child."""
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
    """Lets tasks that are about to end do so, and cancels the others."""
    _, pending = await asyncio.wait(tasks, timeout=0.1)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
