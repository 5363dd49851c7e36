"""Async calls that may be retried after their first attempt."""

from __future__ import annotations

import asyncio
import logging
import weakref
from asyncio import _get_running_loop  # unlike the public one, it never raises
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from time import monotonic
from typing import Any

import grpc
import grpc.aio

from aegis_discovery._calls.aio.ended import CANCELLED, UNKNOWN, number_of, result_of, settle
from aegis_discovery._calls.aio.waiting import Pause
from aegis_discovery._calls.attempt import record_success, time_left
from aegis_discovery._calls.endpoint import FAST_RESPONSE, RESPONSE_TIMEOUT, Endpoint
from aegis_discovery._calls.stubs import StubCallable, trace_of
from aegis_discovery._runtime.edges import FOLD_MASK, Edge
from aegis_discovery.transport._grpc_internals import DirectCall

# The stubs of grpc make these classes generic; at run time not all of them are.
# mypy: disable-error-code="type-arg"

_log = logging.getLogger("aegis.pool")


class RetriedCall(grpc.aio.Call):
    """A call that is retried at other providers until it is answered, if its policy allows.

    It behaves as the call of its final attempt. The first code that sees an attempt end settles
    whether that attempt is the final one. The timeout is for all attempts together.
    """

    # Class attributes cost a call nothing where it keeps the default.
    _streams = False
    _once = False
    _may_retry = True
    _answered = False
    _call: Any = None
    _final: Any = None
    _endpoint: Any = None
    _edge: Edge | None = None
    _tried: tuple[Endpoint[grpc.aio.Channel], ...] = ()
    _deadline: float | None = None
    _trace: Any = None

    def __init__(
        self,
        stub: StubCallable[grpc.aio.Channel],
        request: Any,
        timeout: float | None,
        wait_for_ready: bool | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        compression: grpc.Compression | None,
    ) -> None:
        self._stub = stub
        self._request = request
        self._waits = wait_for_ready
        self._options = (metadata, credentials, compression)
        if metadata is not None and stub.telemetry is not None:
            self._trace = trace_of(metadata)
        now = monotonic()
        if timeout is not None:
            self._deadline = now + timeout
        router: Any = stub.router
        if self._once:
            router.check_open()
            self._pause()
            return
        if _get_running_loop() is not router.loop:  # what `router.pick` does, without its frame
            router.check()
        endpoint = router.service.pick(now)
        if endpoint is not None:
            self._start(endpoint, timeout, now)
        elif wait_for_ready:
            self._pause()
        else:
            raise router.pick_error()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._stub.router!r}: {self._call!r}>"

    def _pause(self) -> None:
        """Waits for an endpoint before the next attempt."""
        this = weakref.ref(self)  # the pause must not keep this object alive

        def begin(endpoint: Endpoint[grpc.aio.Channel]) -> None:
            call = this()
            if call is not None:
                now = monotonic()
                call._start(endpoint, time_left(call._deadline), now)  # noqa: SLF001 - of this class

        self._endpoint = None
        self._call = Pause(self._stub.router, self._deadline, begin, once=self._once)

    def _start(
        self, endpoint: Endpoint[grpc.aio.Channel], timeout: float | None, now: float
    ) -> None:
        """Starts an attempt."""
        metadata, credentials, compression = self._options
        stub = self._stub
        route = endpoint.routes.get(stub.key)  # nearly always there, so without a function call
        if route is None or not route[1].is_kept:
            route = stub.route_to(endpoint)
        method, edge = route
        self._call = call = method(
            self._request,
            timeout=timeout,
            metadata=metadata,
            credentials=credentials,
            compression=compression,
        )
        self._endpoint = endpoint
        self._began = now
        self._edge = edge
        edge.started = started = edge.started + 1
        if not started & FOLD_MASK:
            edge.fold()
        # It counts as under way until it ends, whether or not anything awaits it.
        if self._streams:
            endpoint.streaming.add(call)
            call.add_done_callback(endpoint.streaming.discard)
            self._settle_at_end()
            return
        waiting = endpoint.waiting  # as `endpoint.call_started` does
        if not waiting:
            endpoint.unresponsive_at = now + endpoint.response_timeout
        waiting.add(call)
        if type(call) is not DirectCall:  # which leaves it at its end
            call.add_done_callback(waiting.discard)

    def _count_end(self, code: int) -> None:
        """Counts the end of an attempt, once."""
        edge, self._edge = self._edge, None
        if edge is not None:
            edge.ended(code, monotonic() - self._began)

    def __del__(self) -> None:
        if self._edge is not None:  # the caller did not wait for the end
            self._count_end(number_of(self._call) if self._call.done() else CANCELLED)

    def _settle_at_end(self) -> None:
        this = weakref.ref(self)  # the callback must not keep this object alive

        def ended(call: Any) -> None:
            retried = this()
            if retried is not None:
                retried._settle(call)  # noqa: SLF001 - a closure of this very class

        self._call.add_done_callback(ended)

    def _settle(self, call: Any) -> bool:
        """Decides once whether an ended attempt is the final one; if not, starts the next."""
        if call is self._final:
            return True
        if call is not self._call:
            return False
        try:
            if self._retry(call):
                return False
        except Exception:  # noqa: BLE001 - if a retry cannot start, this attempt is the final one
            _log.debug("no further attempt after %r", call, exc_info=True)
        self._final = call
        if self._trace is not None:
            settle(self._trace, call)
        return True

    def _retry(self, call: Any) -> bool:
        """Records how an attempt ended; pauses or retries and returns True if it is to go on."""
        if isinstance(call, Pause):
            self._stub.edges[""].rejected(number_of(call))
            return False
        self._count_end(number_of(call))
        result = result_of(call, answered=self._answered, streams=self._streams)
        if result.code is grpc.StatusCode.OK:
            record_success(self._endpoint, self._began, streams=self._streams)
            return False
        may_pause = self._waits and self._may_retry
        if may_pause and result.was_not_sent_to(self._endpoint.address):
            self._stub.router.record(self._endpoint, result, monotonic())
            self._pause()
            return True
        self._tried = (*self._tried, self._endpoint)
        endpoint = self._stub.router.pick_retry(
            self._tried,
            result,
            self._stub.retry if self._may_retry else None,
            deadline=self._deadline,
        )
        if endpoint is None:
            return False
        self._start(endpoint, time_left(self._deadline), monotonic())
        return True

    async def _wait(self) -> Any:
        """Waits for the end and returns the final attempt."""
        while True:
            call = self._call
            await call.code()
            if self._settle(call):
                return call

    async def initial_metadata(self) -> grpc.aio.Metadata:
        while True:
            call = self._call
            metadata: grpc.aio.Metadata = await call.initial_metadata()
            if not call.done():
                self._answered = True
                return metadata
            if self._settle(call):
                return metadata

    # The methods of gRPC's calls are untyped here.

    async def trailing_metadata(self) -> Any:
        return await (await self._wait()).trailing_metadata()

    async def code(self) -> Any:
        return await (await self._wait()).code()

    async def details(self) -> Any:
        return await (await self._wait()).details()

    async def debug_error_string(self) -> Any:
        return await (await self._wait()).debug_error_string()

    async def wait_for_connection(self) -> None:
        while True:
            call = self._call
            try:
                await call.wait_for_connection()
            except grpc.RpcError:
                if self._settle(call):
                    raise
            else:
                return

    def done(self) -> bool:
        call = self._call
        return call.done() and self._settle(call)

    def cancelled(self) -> Any:
        return self._call.cancelled()

    def cancel(self) -> Any:
        self._may_retry = False
        return self._call.cancel()

    def time_remaining(self) -> Any:
        return self._call.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(partial(self._run_callback, callback))

    def _run_callback(self, callback: Callable[[Any], None], call: Any) -> None:
        if self._settle(call):
            callback(self)
        else:
            self.add_done_callback(callback)


class RetriedUnaryCall(RetriedCall, grpc.aio.UnaryUnaryCall):
    """A call with one response. It is retried only while something awaits it."""

    def __del__(self) -> None:
        if self._final is not None:  # its end is counted
            return
        super().__del__()
        if self._endpoint is not None:
            self._endpoint.waiting.discard(self._call)

    def __await__(self) -> Generator[Any, None, Any]:
        while True:
            call = self._call
            try:
                response = yield from call.__await__()
            except asyncio.CancelledError:
                if self._trace is not None:
                    self._trace.settle("CANCELLED")
                if self._may_retry:
                    self._may_retry = False
                    if self._endpoint is None:
                        raise
                    self._count_end(CANCELLED)
                    self._stub.router.call_abandoned(self._endpoint, self._began, monotonic())
                raise
            except grpc.RpcError:
                if self._settle(call):
                    raise
            except BaseException as error:
                # An interceptor's own error; such a call runs no callbacks.
                self._endpoint.waiting.discard(call)
                self._count_end(UNKNOWN)
                if self._trace is not None:
                    self._trace.settle("UNKNOWN", type(error).__name__)
                raise
            else:
                if self._final is None:
                    self._final = call
                    began, now = self._began, monotonic()
                    endpoint, edge = self._endpoint, self._edge
                    if edge is not None:
                        self._edge = None
                        edge.pending.append(now - began)
                    # Nearly always a fast answer of a healthy provider.
                    if now - began > FAST_RESPONSE or endpoint.has_failed or endpoint.response_time:
                        endpoint.call_answered(began, now)
                    else:
                        endpoint.unresponsive_at = now + RESPONSE_TIMEOUT
                    if self._trace is not None:
                        self._trace.settle()
                return response


class RetriedStreamCall(RetriedCall, grpc.aio.UnaryStreamCall):
    """A call with a stream of responses. It is cancelled when it is dropped before its end."""

    _streams = True
    _responses: AsyncIterator[Any] | None = None

    def __del__(self) -> None:
        super().__del__()
        if self._call is not None and not self._call.done():
            self._call.cancel()

    def __aiter__(self) -> AsyncIterator[Any]:
        aiter(self._call)  # so that gRPC knows that the stream is iterated, and refuses read()
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def _iterate(self) -> AsyncIterator[Any]:
        while True:
            call = self._call
            try:
                async for message in call:
                    self._answered = True
                    yield message
            except grpc.RpcError:
                if self._settle(call):
                    raise
            else:
                return

    async def read(self) -> Any:
        while True:
            call = self._call
            try:
                message = await call.read()
            except grpc.RpcError:
                if self._settle(call):
                    raise
            else:
                self._answered = True
                return message
