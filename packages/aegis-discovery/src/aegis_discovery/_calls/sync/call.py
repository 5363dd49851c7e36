"""Sync calls that may be retried after their first attempt."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import grpc

from aegis_discovery._calls.attempt import (
    AttemptResult,
    deadline_of,
    record_success,
    time_left,
)
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.retry_budget import RetryPolicy
from aegis_discovery._calls.sync.ended import count, number_of, result_of
from aegis_discovery._calls.sync.waiting import Pause, SyncRouter
from aegis_discovery._runtime.edges import PeerEdges

# After these codes the call may be retried, or its provider was not reached, which depends on the
# details and the metadata.
_INCOMPLETE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})

_log = logging.getLogger("aegis.pool")

Start: TypeAlias = Callable[["Endpoint[grpc.Channel]", "float | None"], Any]
"""Starts an attempt at an endpoint, with a timeout."""


class RetriedCall(grpc.Call, grpc.Future):  # type: ignore[type-arg]  # generic in the stubs only
    """A future or a response stream that is retried at other providers until it is answered.

    It behaves as the call of its final attempt. The first thread that sees an attempt end (the
    caller's or gRPC's) settles whether that attempt is the final one. While it waits for an
    endpoint, a pause takes the place of an attempt.

    Args:
        router: Picks the endpoints.
        start: Starts an attempt.
        policy: Which attempts are retried; None for none.
        deadline: When all attempts together must be done, in monotonic seconds.
        first: The endpoint and the call of the first attempt; None to wait for an endpoint first.
        edges: Counts the attempts, by provider.
        waits: Whether it waits for an endpoint when an attempt finds no connection.
        once: Whether it sends a stream of requests, which cannot be repeated.
        streams: Whether requests or responses are a stream.
        trace: Reports the call, if it is traced.
    """

    def __init__(
        self,
        router: SyncRouter,
        start: Start,
        policy: RetryPolicy | None,
        deadline: float | None,
        first: tuple[Endpoint[grpc.Channel], Any] | None,
        *,
        edges: PeerEdges,
        waits: bool,
        once: bool = False,
        streams: bool,
        trace: Any = None,
    ) -> None:
        self._router = router
        self._trace = trace
        self._start = start
        self._policy = policy
        self._incomplete = _INCOMPLETE if policy is None else policy.codes | _INCOMPLETE
        self._deadline = deadline
        self._edges = edges
        self._waits = waits
        self._once = once
        self._streams = streams
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._answered = False
        self._cancelled = False
        self._final: Any = None
        self._call: Any = None
        self._tried: tuple[Endpoint[grpc.Channel], ...] = ()
        if first is None:
            with self._lock:  # so that no attempt begins before the pause is in its place
                self._pause()
        else:
            self._add_attempt(*first)
        self._watch()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._router!r}: {self._call!r}>"

    def _add_attempt(self, endpoint: Endpoint[grpc.Channel], call: Any) -> None:
        edge = self._edges[endpoint.node_id]
        self._began = count(call, endpoint, edge, streams=self._streams)
        self._call = call
        self._endpoint = endpoint

    def _pause(self) -> None:
        """Waits for an endpoint before the next attempt."""
        this = weakref.ref(self)  # the pause must not keep this object alive

        def begin(endpoint: Endpoint[grpc.Channel]) -> None:
            call = this()
            if call is not None:
                call._begin(endpoint)  # noqa: SLF001 - a closure of this very class

        self._call = Pause(self._router, self._deadline, begin, once=self._once)

    def _begin(self, endpoint: Endpoint[grpc.Channel]) -> None:
        """Starts an attempt in the place of a pause."""
        with self._lock:
            if self._cancelled:
                self._call.cancel()
                return
            call = self._start(endpoint, time_left(self._deadline))
            if isinstance(call, grpc.Call):
                self._add_attempt(endpoint, call)
            else:
                self._final = self._call = call  # an interceptor's own object
                if self._trace is not None:
                    self._trace.settle()
        if self._cancelled:
            self._call.cancel()
        if self._final is None:
            self._watch()

    def _watch(self) -> None:
        """Settles the attempt when it ends, even if no thread waits for it.

        gRPC cancels a call that is dropped, so its callback must not keep this object alive.
        """
        this = weakref.ref(self)

        def ended() -> None:
            call = this()
            if call is not None:
                call._ended()  # noqa: SLF001 - a closure of this very class

        if not self._call.add_callback(ended):
            self._ended()

    def _ended(self) -> None:
        call = self._call
        if call.done():
            self._run_off_grpc_thread(call, lambda: self._settle(call))

    def _run_off_grpc_thread(self, call: Any, settle: Callable[[], object]) -> None:
        """Settles an ended call, in a new thread if that must wait for events of gRPC's thread."""
        if self._needs_result(call):
            threading.Thread(target=settle, name="aegis-retry", daemon=True).start()
        else:
            settle()

    def _needs_result(self, call: Any) -> bool:
        """Returns whether more than the status of an ended attempt must be known."""
        code = call.code()
        if code is grpc.StatusCode.CANCELLED:
            return not self._cancelled
        return code in self._incomplete

    def _settle(self, call: Any) -> bool:
        """Decides once whether an ended attempt is the final one; if not, starts the next.

        It may wait for events of gRPC's own thread, if the status alone does not decide.
        """
        if call is self._final:
            return True
        code = call.code()
        result = AttemptResult(code, self._answered or self._streams, ())
        if self._needs_result(call) and call is self._call:
            with self._reading:  # another thread may be about to hand a message to the caller
                result = result_of(call, answered=self._answered)
        with self._lock:
            if call is self._final:
                return True
            if call is not self._call:
                return False
            if isinstance(call, Pause):
                self._edges[""].rejected(number_of(call))
                return self._end(call)
            if code is grpc.StatusCode.OK:
                record_success(self._endpoint, self._began, streams=self._streams)
                return self._end(call)
            try:
                goes_on = self._go_on(result)
            except Exception:  # noqa: BLE001 - if a retry cannot start, this attempt is the final one
                _log.debug("no further attempt after %r", call, exc_info=True)
                goes_on = False
            if not goes_on:
                return self._end(call)
        if self._cancelled:
            self._call.cancel()
        self._watch()
        return False

    def _end(self, call: Any) -> bool:
        """Makes this the final attempt, or the pause after it."""
        self._final = call
        if self._trace is not None:
            self._trace.settle(call.code().name, call.details())
        return True

    def _go_on(self, result: AttemptResult) -> bool:
        """Records a failed attempt; pauses or starts a retry if there is to be one."""
        may_pause = self._waits and not (self._cancelled or self._once)
        if may_pause and result.was_not_sent_to(self._endpoint.address):
            self._router.record(self._endpoint, result, time.monotonic())
            self._pause()
            return True
        self._tried = (*self._tried, self._endpoint)
        policy = None if self._cancelled else self._policy
        endpoint = self._router.pick_retry(self._tried, result, policy, deadline=self._deadline)
        if endpoint is None:
            return False
        self._add_attempt(endpoint, self._start(endpoint, time_left(self._deadline)))
        return True

    def _wait(self, timeout: float | None = None) -> Any:
        """Waits for the end and returns the final attempt."""
        deadline = deadline_of(timeout)
        while True:
            call = self._call
            try:
                call.exception(time_left(deadline))
            except grpc.FutureCancelledError:
                return call
            if self._settle(call):
                return call

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while True:
            call = self._call
            try:
                with self._reading:
                    message = next(call)
                    self._answered = True
                    return message
            except grpc.RpcError:
                if self._settle(call):
                    raise

    def initial_metadata(self) -> Any:
        while True:
            call = self._call
            metadata = call.initial_metadata()
            if not call.done():
                self._answered = True
                return metadata
            if self._settle(call):
                return metadata

    # The methods of gRPC's calls are untyped here.

    def trailing_metadata(self) -> Any:
        return self._wait().trailing_metadata()

    def code(self) -> Any:
        return self._wait().code()

    def details(self) -> Any:
        return self._wait().details()

    def debug_error_string(self) -> Any:
        return self._wait().debug_error_string()

    def result(self, timeout: float | None = None) -> Any:
        return self._wait(timeout).result()

    def exception(self, timeout: float | None = None) -> Any:
        return self._wait(timeout).exception()

    def traceback(self, timeout: float | None = None) -> Any:
        return self._wait(timeout).traceback()

    def done(self) -> bool:
        """Returns whether the call has ended, without waiting for events of gRPC's thread."""
        call = self._call
        if not call.done():
            return False
        if self._needs_result(call):
            return call is self._final
        return self._settle(call)

    def running(self) -> bool:
        return not self.done()

    is_active = running

    def cancelled(self) -> Any:
        return self._call.cancelled()

    def cancel(self) -> Any:
        self._cancelled = True
        return self._call.cancel()

    def time_remaining(self) -> Any:
        return self._call.time_remaining()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self.done():
            return False
        self.add_done_callback(lambda _: callback())
        return True

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        if self.done():
            fn(self)
        else:
            self._call.add_done_callback(partial(self._run_callback, fn))

    def _run_callback(self, fn: Callable[[Any], None], call: Any) -> None:
        def run() -> None:
            if self._settle(call):
                fn(self)
            else:
                self.add_done_callback(fn)

        self._run_off_grpc_thread(call, run)
