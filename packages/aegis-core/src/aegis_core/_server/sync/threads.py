"""The threads of a blocking server, as `grpc.server` submits calls to them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from aegis_core._server import rejections
from aegis_core._server.admission import AdmissionControl
from aegis_core._server.call_checks import CallChecks
from aegis_core._server.daemon_threads import WorkerThreads
from aegis_core._server.rejections import Rejection
from aegis_core._server.sync import grpc_internals
from aegis_core._server.sync.calls import DirectCall, ServerCall
from aegis_core._server.sync.public_call import PublicCall

MAX_LENT = 256
"""Threads in addition to `max_workers` that may wait for requests, with gRPC's public API only."""

_EVICTED = Rejection("UNAVAILABLE", "no request arrived in time; other calls need the thread")
_DONE: Future[None] = Future()
_DONE.set_result(None)


class CallThreads(ThreadPoolExecutor):
    """The threads of a part of the calls, as `grpc.server` submits them.

    Args:
        count: The largest number of threads; further calls wait for one.
        name: The prefix of the names of the threads.
        checks: Judge the calls.
        admission: Counts the calls, if they are limited.

    Attributes:
        slots: Limits the handlers that run, where threads wait for requests too.
        waiting: Calls whose one request has not arrived, and since when (monotonic seconds).
    """

    def __init__(
        self,
        count: int,
        name: str,
        checks: CallChecks[ServerCall],
        admission: AdmissionControl[ServerCall] | None = None,
    ) -> None:
        # Not the constructor of the parent, whose threads delay the end of the process. gRPC only
        # submits, and asks for this type.
        self.checks = checks
        self.admission = admission
        self.is_direct = grpc_internals.is_usable()
        self.slots = threading.Semaphore(count)
        self._workers = WorkerThreads[ServerCall](count, name, ServerCall.serve)
        self.waiting: dict[ServerCall, float] = {}
        self._lent: dict[PublicCall, None] = {}
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        call: ServerCall
        if self.is_direct:
            call = direct = DirectCall(self, fn, args)
            if self.admission is not None:
                self.admission.await_begin(call)
            direct.begin(self._workers.put)
            return None  # it would count calls for a limit of gRPC's that is not used
        call = PublicCall(self, fn, args)
        if self.admission is not None:
            self.admission.await_begin(call)
        self._workers.put(call)
        return _DONE

    def end_late_requests(self, now: float) -> None:
        """Ends calls whose one request does not arrive."""
        for call, since in self.waiting.copy().items():
            if now - since > rejections.REQUEST_TIMEOUT:
                call.end(rejections.LATE_REQUEST)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for call in self._workers.close():
            call.finish()

    @contextlib.contextmanager
    def lent(self, call: PublicCall) -> Iterator[None]:
        """Lends a thread to a call while it waits for its request; then the call takes a slot."""
        with self._lock:
            oldest = next(iter(self._lent)) if len(self._lent) >= MAX_LENT else None
            if oldest is not None:
                del self._lent[oldest]
            self._lent[call] = None
        if oldest is not None:
            oldest.end(_EVICTED)
        self._workers.resize(1)
        try:
            yield
        finally:
            self._workers.resize(-1)
            with self._lock:
                self._lent.pop(call, None)


class InlineCalls(ThreadPoolExecutor):
    """Serves calls on gRPC's serving thread, for handlers that only send a status."""

    def __init__(self) -> None: ...  # as that of CallThreads

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        fn(*args, **kwargs)
        return _DONE
