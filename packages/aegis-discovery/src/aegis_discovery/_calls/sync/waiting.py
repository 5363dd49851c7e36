"""Sync calls that wait until their service has a provider."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from time import monotonic
from typing import Any, Self

import grpc

from aegis_discovery._calls.attempt import deadline_of, time_left
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.router import Router
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery._calls.sync.no_providers import NoProvidersRpcError
from aegis_discovery.errors import ClosedError


def wait_for_provider(
    router: Router[grpc.Channel], deadline: float | None
) -> Endpoint[grpc.Channel]:
    """Blocks until there is an endpoint, and returns it.

    Raises:
        NoProvidersRpcError: If none came before the deadline, or the channel was closed.
    """
    woken = threading.Event()
    with router.waiting(woken.set):
        while True:
            if router.has_provider(deadline):
                with suppress(NoProvidersRpcError, ClosedError):  # it may be gone again
                    return router.pick(monotonic())
            else:
                woken.wait(time_left(deadline))
                woken.clear()


class Starter:
    """Starts the waiting calls of a pool that block no thread of their own.

    One thread does it for all of them, and exists only while there are any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A call that its user dropped does not wait any more.
        self._calls: weakref.WeakSet[WaitingCall] = weakref.WeakSet()
        self._services: dict[ServiceEndpoints[grpc.Channel], ExitStack] = {}
        self._thread: threading.Thread | None = None
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def wake(self) -> None:
        """Tries all calls again; takes no lock, so that `__del__` may use it."""
        self._wakes.put(None)

    def add(self, call: WaitingCall, router: Router[grpc.Channel]) -> None:
        with self._lock:
            self._calls.add(call)
            if router.service not in self._services:
                self._services[router.service] = stack = ExitStack()
                stack.enter_context(router.waiting(self.wake))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="aegis-waiting", daemon=True)
                self._thread.start()
        self.wake()

    def _run(self) -> None:
        while self._try_all():
            with suppress(queue.Empty):
                self._wakes.get(timeout=self._time_left())
                while True:
                    self._wakes.get_nowait()

    def _try_all(self) -> bool:
        """Tries to start all calls; returns whether any still waits."""
        with self._lock:
            calls = list(self._calls)
        waiting = {call for call in calls if not call.try_start()}
        with self._lock:
            self._calls.difference_update(set(calls) - waiting)
            if self._calls:
                return True
            self._thread = None
            for stack in self._services.values():
                stack.close()
            self._services.clear()
            return False

    def _time_left(self) -> float | None:
        with self._lock:
            deadlines = [call.deadline for call in self._calls if call.deadline is not None]
        return time_left(min(deadlines, default=None))


class SyncRouter(Router[grpc.Channel]):
    """A router of the sync pool, which starts waiting calls."""

    __slots__ = ("starter",)

    def __init__(self, service: ServiceEndpoints[grpc.Channel], starter: Starter) -> None:
        super().__init__(service, NoProvidersRpcError)
        self.starter = starter


class WaitingCall(grpc.Call, grpc.Future):  # type: ignore[type-arg]  # generic in the stubs only
    """A future or a response stream that starts once its service has a provider.

    From then on it behaves as the call that was started. `begin` starts that, with a timeout. The
    router is a `SyncRouter`.

    Attributes:
        deadline: When the call must be done, in monotonic seconds.
    """

    def __init__(
        self,
        router: Any,
        timeout: float | None,
        begin: Callable[..., Any],
    ) -> None:
        self.deadline = deadline_of(timeout)
        self._router: SyncRouter = router
        self._starter: Starter = router.starter
        self._begin = begin
        self._changed = threading.Condition()
        self._call: Any = None
        self._is_cancelled = False
        self._callbacks: list[Callable[[Any], object]] = []
        self._starter.add(self, router)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._router!r}: {self._call or 'waiting'!r}>"

    def __del__(self) -> None:
        if self._call is None:
            self._starter.wake()

    def try_start(self) -> bool:
        """Starts the call if there is a provider; returns whether it waits no more."""
        if self._call is not None:
            return True
        try:
            if not self._router.has_provider(self.deadline):
                return False
            call = self._begin(timeout=time_left(self.deadline))
        except grpc.RpcError as error:
            call = error  # an ended call
        except Exception as error:  # noqa: BLE001 - a user's interceptor or serializer
            until = f"it could not start: {error!r}"
            call = self._router.waiting_error(grpc.StatusCode.UNKNOWN, until)
        if not self._set(call):
            call.cancel()  # it was cancelled meanwhile
        return True

    def _set(self, call: Any) -> bool:
        with self._changed:
            if self._call is not None:
                return False
            self._call = call
            self._changed.notify_all()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self.add_done_callback(callback)
        return True

    def _started(self, timeout: float | None = None) -> Any:
        """Waits for the start and returns the call."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._call is not None, timeout):
                raise grpc.FutureTimeoutError
        return self._call

    def cancel(self) -> Any:
        error = self._router.waiting_error(grpc.StatusCode.CANCELLED, "it was cancelled")
        self._is_cancelled = self._set(error) or self._is_cancelled
        self._starter.wake()
        return self._is_cancelled or self._call.cancel()

    def cancelled(self) -> Any:
        call = self._call
        return self._is_cancelled or (call is not None and call.cancelled())

    def done(self) -> bool:
        call = self._call
        return call is not None and call.done()

    def running(self) -> bool:
        return not self.done()

    is_active = running

    def __iter__(self) -> Self:
        return self

    # The methods of gRPC's calls are untyped here.

    def time_remaining(self) -> Any:
        return time_left(self.deadline)

    def __next__(self) -> Any:
        return next(self._started())

    def initial_metadata(self) -> Any:
        return self._started().initial_metadata()

    def trailing_metadata(self) -> Any:
        return self._started().trailing_metadata()

    def code(self) -> Any:
        return self._started().code()

    def details(self) -> Any:
        return self._started().details()

    def debug_error_string(self) -> Any:
        return self._started().debug_error_string()

    def result(self, timeout: float | None = None) -> Any:
        return self._future("result", timeout)

    def exception(self, timeout: float | None = None) -> Any:
        return self._future("exception", timeout)

    def traceback(self, timeout: float | None = None) -> Any:
        return self._future("traceback", timeout)

    def _future(self, method: str, timeout: float | None) -> Any:
        deadline = deadline_of(timeout)
        call = self._started(timeout)
        if self._is_cancelled:
            raise grpc.FutureCancelledError
        return getattr(call, method)(time_left(deadline))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self.done():
            return False
        self.add_done_callback(lambda _: callback())
        return True

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        with self._changed:
            if self._call is None:
                self._callbacks.append(fn)
                return
        self._call.add_done_callback(lambda _: fn(self))
