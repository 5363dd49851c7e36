"""Threads that do not delay the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
ItemT = TypeVar("ItemT")

_Task = tuple[Future[Any], Callable[[], Any]]


class WorkerThreads(Generic[ItemT]):
    """Works off a queue with daemon threads, which are started as they are needed.

    Python waits at its end for the threads of `concurrent.futures.ThreadPoolExecutor`, however
    long they work, so a handler that hangs would keep a stopped process alive.

    Args:
        count: The largest number of threads; further items wait for one.
        name: The prefix of the names of the threads.
        work: Works off an item; it must not raise.
    """

    def __init__(self, count: int, name: str, work: Callable[[ItemT], object]) -> None:
        self._count = count
        self._name = name
        self._work_off = work
        self._items: SimpleQueue[ItemT | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._started = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Items that wait for a thread."""
        return self._items.qsize()

    def put(self, item: ItemT) -> bool:
        """Adds an item; returns False if the threads are closed, which take no more."""
        with self._lock:
            if self._closed:
                return False
            self._items.put(item)
            self._unfinished += 1
            self._start_if_needed()
            return True

    def resize(self, change: int) -> None:
        """Allows so many threads more, or less; threads too many end after their items."""
        with self._lock:
            self._count += change
            for _ in range(change):
                self._start_if_needed()

    def close(self) -> list[ItemT]:
        """Takes no more items, and returns those that wait; the threads end when they are done."""
        waiting = []
        with self._lock:
            self._closed = True
            while True:
                try:
                    item = self._items.get_nowait()
                except Empty:
                    break
                if item is not None:
                    waiting.append(item)
            for _ in range(self._started):
                self._items.put(None)
        return waiting

    def _start_if_needed(self) -> None:
        # Each item that is not finished needs a thread; a count of idle threads would race.
        if self._started < min(self._unfinished, self._count):
            self._started += 1
            name = f"{self._name}-{self._started}"
            threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            self._work_off(item)
            del item  # what is done must not be kept until the next item
            with self._lock:
                self._unfinished -= 1
                if self._started > self._count:
                    self._started -= 1
                    return


class DaemonThreads:
    """Runs functions on daemon threads.

    Args:
        count: The largest number of threads; further functions wait for one.
        name: The prefix of the names of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._threads = WorkerThreads[_Task](count, name, _execute)

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs a function on a thread.

        Raises:
            RuntimeError: The pool is closed.
        """
        future: Future[T] = Future()
        if not self._threads.put((future, lambda: function(*args, **kwargs))):
            raise RuntimeError("the handlers' threads are closed")
        return future

    def close(self) -> None:
        """Cancels functions that wait, and takes no more; those that run continue."""
        for future, _ in self._threads.close():
            future.cancel()


def _execute(task: _Task) -> None:
    future, function = task
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - the future raises it in the call's task
        future.set_exception(error)
        del task, future, function  # else the error refers to this frame, and this frame to it
    else:
        future.set_result(result)
