"""Sync calls that wait until a provider of their service is in use."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from time import monotonic
from typing import Any, Self

import grpc

from aegis_discovery._calls.attempt import time_left
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.router import Router
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery._calls.sync.no_providers import NoProvidersRpcError
from aegis_discovery._calls.waiting import Wait


def wait_for_endpoint(
    router: Router[grpc.Channel], deadline: float | None, *, once: bool = False
) -> Endpoint[grpc.Channel]:
    """Blocks until there is an endpoint for the call; see `Wait`.

    Raises:
        NoProvidersRpcError: If none came before the deadline, or the channel was closed.
    """
    woken = threading.Event()
    wait = Wait(router, monotonic(), deadline, once=once)
    with router.waiting(woken.set):
        while (endpoint := wait.try_pick(monotonic())) is None:
            woken.wait(wait.time_left(monotonic()))
            woken.clear()
    return endpoint


class Starter:
    """Lets the waiting calls of a pool go on that block no thread of their own.

    One thread does it for all of them, and exists only while there are any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A call that its user dropped does not wait any more.
        self._pauses: weakref.WeakSet[Pause] = weakref.WeakSet()
        self._services: dict[ServiceEndpoints[grpc.Channel], ExitStack] = {}
        self._thread: threading.Thread | None = None
        self._wakes: queue.SimpleQueue[Pause | None] = queue.SimpleQueue()

    def wake(self) -> None:
        """Tries all calls again; takes no lock, so that `__del__` may use it."""
        self._wakes.put(None)

    def add(self, pause: Pause, router: Router[grpc.Channel]) -> None:
        with self._lock:
            self._pauses.add(pause)
            if router.service not in self._services:
                self._services[router.service] = stack = ExitStack()
                stack.enter_context(router.waiting(self.wake))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="aegis-waiting", daemon=True)
                self._thread.start()
        self._wakes.put(pause)

    def _run(self) -> None:
        new: set[Pause | None] = set()
        while self._try(new):
            new.clear()
            with suppress(queue.Empty):
                new.add(self._wakes.get(timeout=self._time_left()))
                while True:
                    new.add(self._wakes.get_nowait())

    def _try(self, new: set[Pause | None]) -> bool:
        """Lets the new calls go on that can, or all if anything else happened.

        Returns whether any still waits.
        """
        with self._lock:
            is_only_new = new and None not in new
            pauses = [pause for pause in (new if is_only_new else self._pauses) if pause]
        waiting = {pause for pause in pauses if not pause.try_end()}
        with self._lock:
            self._pauses.difference_update(set(pauses) - waiting)
            if self._pauses:
                return True
            self._thread = None
            for stack in self._services.values():
                stack.close()
            self._services.clear()
            return False

    def _time_left(self) -> float | None:
        now = monotonic()
        with self._lock:
            times = [pause.wait.time_left(now) for pause in self._pauses]
        return min((time for time in times if time is not None), default=None)


class SyncRouter(Router[grpc.Channel]):
    """A router of the sync pool, which starts waiting calls."""

    __slots__ = ("starter",)

    def __init__(self, service: ServiceEndpoints[grpc.Channel], starter: Starter) -> None:
        super().__init__(service, NoProvidersRpcError)
        self.starter = starter


class Pause(grpc.Call, grpc.Future):  # type: ignore[type-arg]  # generic in the stubs only
    """Takes the place of an attempt while a call waits for an endpoint.

    When there is one, `begin` starts an attempt in its place, and the pause ends. It ends in any
    case with an error, which is that of the call unless `begin` started an attempt.
    """

    def __init__(
        self,
        router: SyncRouter,
        deadline: float | None,
        begin: Callable[[Endpoint[grpc.Channel]], object],
        *,
        once: bool = False,
    ) -> None:
        self.wait = Wait(router, monotonic(), deadline, once=once)
        self._router = router
        self._begin = begin
        self._changed = threading.Condition()
        self._error: Any = None
        self._is_cancelled = False
        self._callbacks: list[Callable[[Any], object]] = []
        router.starter.add(self, router)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._router!r}>"

    def __del__(self) -> None:
        if self._error is None:
            self._router.starter.wake()

    def try_end(self) -> bool:
        """Starts the attempt if there is an endpoint; returns whether the pause is over."""
        if self._error is not None:
            return True
        try:
            endpoint = self.wait.try_pick(monotonic())
            if endpoint is None:
                return False
            self._begin(endpoint)
            self._end(self._router.waiting_error(grpc.StatusCode.UNAVAILABLE, "it could start"))
        except grpc.RpcError as error:
            self._end(error)
        except Exception as error:  # noqa: BLE001 - a user's interceptor or serializer
            until = f"it could not start: {error!r}"
            self._end(self._router.waiting_error(grpc.StatusCode.UNKNOWN, until))
        return True

    def _end(self, error: Any) -> bool:
        with self._changed:
            if self._error is not None:
                return False
            self._error = error
            self._changed.notify_all()
        for callback in self._callbacks:
            callback(self)
        return True

    def _ended(self, timeout: float | None = None) -> Any:
        """Waits for the end and returns the error."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._error is not None, timeout):
                raise grpc.FutureTimeoutError
        return self._error

    def cancel(self) -> bool:
        error = self._router.waiting_error(grpc.StatusCode.CANCELLED, "it was cancelled")
        self._is_cancelled = self._end(error) or self._is_cancelled
        self._router.starter.wake()
        return self._is_cancelled

    def cancelled(self) -> bool:
        return self._is_cancelled

    def done(self) -> bool:
        return self._error is not None

    def running(self) -> bool:
        return not self.done()

    is_active = running

    def __iter__(self) -> Self:
        return self

    # The methods of gRPC's calls are untyped here.

    def time_remaining(self) -> Any:
        return time_left(self.wait.deadline)

    def __next__(self) -> Any:
        raise self._ended()

    def initial_metadata(self) -> Any:
        return self._ended().initial_metadata()

    trailing_metadata = initial_metadata

    def code(self) -> Any:
        return self._ended().code()

    def details(self) -> Any:
        return self._ended().details()

    debug_error_string = details

    def exception(self, timeout: float | None = None) -> Any:
        error = self._ended(timeout)
        if self._is_cancelled:
            raise grpc.FutureCancelledError
        return error

    def result(self, timeout: float | None = None) -> Any:
        raise self.exception(timeout)

    def traceback(self, timeout: float | None = None) -> Any:
        return self.exception(timeout).__traceback__

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self.done():
            return False
        self.add_done_callback(lambda _: callback())
        return True

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        with self._changed:
            if self._error is None:
                self._callbacks.append(fn)
                return
        fn(self)
