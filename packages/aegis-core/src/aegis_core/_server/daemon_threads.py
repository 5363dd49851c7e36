"""A thread pool that does not delay the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Task = tuple[Future[Any], Callable[[], Any]]


class DaemonThreads:
    """Runs functions on daemon threads, which are started as they are needed.

    Python waits at its end for the threads of `concurrent.futures.ThreadPoolExecutor`, however
    long they work, so a handler that hangs would keep a stopped process alive.

    Args:
        count: The largest number of threads; further functions wait for one.
        name: The prefix of the names of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._started = 0
        self._closed = False

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs a function on a thread.

        Raises:
            RuntimeError: The pool is closed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the handlers' threads are closed")
            self._tasks.put((future, lambda: function(*args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._started < self._count:
                self._started += 1
                name = f"{self._name}-{self._started}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        return future

    def close(self) -> None:
        """Cancels functions that wait, and takes no more; those that run continue."""
        with self._lock:
            self._closed = True
            while (task := self._next(blocks=False)) is not None:
                task[0].cancel()
            for _ in range(self._started):
                self._tasks.put(None)

    def _work(self) -> None:
        while True:
            task = self._next(blocks=False)
            if task is None:
                self._idle.release()
                task = self._next(blocks=True)
            if task is None:
                return
            _execute(*task)
            del task  # what is done must not be kept until the next function

    def _next(self, *, blocks: bool) -> _Task | None:
        try:
            return self._tasks.get(block=blocks)
        except Empty:
            return None


def _execute(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - the future raises it in the call's task
        future.set_exception(error)
    else:
        future.set_result(result)
