"""Async calls that outlive their first attempt."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from functools import partial
from time import monotonic
from typing import Any

import grpc
import grpc.aio

from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.router import End, Router, is_not_connected, time_left, told_code
from aegis_discovery._calls.stubs import StubCallable

# The stubs of grpc make these classes generic; at run time not all of them are.
# mypy: disable-error-code="type-arg"

_log = logging.getLogger("aegis.pool")


def observe(
    call: Any, router: Router[grpc.aio.Channel], endpoint: Endpoint[grpc.aio.Channel]
) -> Any:
    """Lets the router know how a call with a stream ends."""
    token = object()  # not the call itself, which is to end as it is dropped
    endpoint.streaming.add(token)

    def ended(call: Any) -> None:
        endpoint.streaming.discard(token)
        try:
            end = end_of(call, streams=True)
            if end.code is not grpc.StatusCode.OK:
                router.note(endpoint, end, monotonic())
            elif endpoint.troubled:
                endpoint.succeeded()
        except Exception:  # noqa: BLE001 - an interceptor's own error, which the caller gets
            _log.debug("the end of %r is not known", call, exc_info=True)

    call.add_done_callback(ended)
    return call


def end_of(call: Any, *, seen: bool = False, streams: bool = False) -> End:
    """Tells how a call ended.

    Args:
        call: The call, which has ended.
        seen: Whether the caller saw anything of an answer.
        streams: Whether it streams; a deadline is a common end of those.
    """
    code = _now(call.code())
    if code is grpc.StatusCode.OK:
        return End(code, True, ())
    details = _now(call.details())
    code = told_code(code, details)
    if streams and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        seen = True
    answered = seen or bool(_now(call.initial_metadata()))
    trailers = tuple(_now(call.trailing_metadata()) or ())
    return End(code, answered, trailers, is_not_connected(code, details))


def _now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Returns what a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("a call that has ended waited for something")


class RetriedCall(grpc.aio.Call):
    """A call that goes on elsewhere while nobody answers it, if it may.

    It behaves as the call of the attempt that counts. What becomes of an attempt is settled by
    who first asks for it.

    Args:
        stub: Whose call it is.
        request: The request.
        timeout: Seconds for all attempts together.
        wait_for_ready: As the caller gave it.
        metadata: As the caller gave it; so are the last two.
    """

    # What is so for nearly all calls costs them nothing here.
    _streams = False
    _may_go_on = True
    _seen = False
    _call: Any = None
    _settled: Any = None
    _tried: tuple[Endpoint[grpc.aio.Channel], ...] = ()
    _deadline: float | None = None

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
        self._wait_for_ready = wait_for_ready
        self._options = (metadata, credentials, compression)
        now = monotonic()
        if timeout is not None:
            self._deadline = now + timeout
        self._attempt(stub.router.pick(now), timeout, now)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._endpoint.node_id}: {self._call!r}>"

    def _attempt(
        self, endpoint: Endpoint[grpc.aio.Channel], timeout: float | None, now: float
    ) -> None:
        wait = self._wait_for_ready
        if wait:
            wait = self._stub.router.waits(self._stub.retry, len(self._tried))
        metadata, credentials, compression = self._options
        stub = self._stub
        # Nearly always the method is there, and so is looked up without a call.
        method = endpoint.callables.get(stub.key) or stub.at(endpoint)
        self._call = method(
            self._request,
            timeout=timeout,
            metadata=metadata,
            credentials=credentials,
            wait_for_ready=wait,
            compression=compression,
        )
        self._endpoint = endpoint
        self._began = now
        # It counts until it ends, whoever asks for it and whenever.
        if self._streams:
            endpoint.streaming.add(self._call)
            self._call.add_done_callback(endpoint.streaming.discard)
        else:
            endpoint.asked(now, self._call)
            self._call.add_done_callback(endpoint.waiting.discard)

    def _is_final(self, call: Any) -> bool:
        """Tells of an attempt that ended whether the call ends with it; settled only once."""
        if call is self._settled:
            return True
        if call is not self._call:
            return False
        try:
            if self._goes_on(call):
                return False
        except Exception:  # noqa: BLE001 - whatever hinders another attempt, this one stands
            _log.debug("no further attempt after %r", call, exc_info=True)
        self._settled = call
        return True

    def _goes_on(self, call: Any) -> bool:
        """Notes how an attempt ended, and begins another one if there is to be one."""
        end = end_of(call, seen=self._seen, streams=self._streams)
        endpoint, router = self._endpoint, self._stub.router
        if end.code is grpc.StatusCode.OK:
            if not self._streams:
                endpoint.answered(self._began, monotonic())
            elif endpoint.troubled:
                endpoint.succeeded()
            return False
        self._tried = (*self._tried, endpoint)
        other = router.after(
            self._tried,
            end,
            self._stub.retry if self._may_go_on else None,
            deadline=self._deadline,
            waiting=self._wait_for_ready,
        )
        if other is None:
            return False
        self._attempt(other, time_left(self._deadline), monotonic())
        return True

    async def _last(self) -> Any:
        """Waits for the end and returns the attempt that counts."""
        while True:
            call = self._call
            await call.code()
            if self._is_final(call):
                return call

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Waits for the metadata that the server sent first."""
        while True:
            call = self._call
            metadata: grpc.aio.Metadata = await call.initial_metadata()
            if not call.done():
                self._seen = True
                return metadata
            if self._is_final(call):
                return metadata

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Waits for the end and returns the metadata that came with it."""
        return await (await self._last()).trailing_metadata()  # type: ignore[no-any-return]  # calls of gRPC are untyped here

    async def code(self) -> grpc.StatusCode:
        """Waits for the end and returns the status."""
        return await (await self._last()).code()  # type: ignore[no-any-return]  # as above

    async def details(self) -> str:
        """Waits for the end and returns the status's details."""
        return await (await self._last()).details()  # type: ignore[no-any-return]  # as above

    async def debug_error_string(self) -> str:
        """Waits for the end and returns what gRPC's core says of it."""
        return await (await self._last()).debug_error_string()  # type: ignore[no-any-return]  # as above

    async def wait_for_connection(self) -> None:
        """Waits until the call has reached a provider."""
        while True:
            call = self._call
            try:
                await call.wait_for_connection()
            except grpc.RpcError:
                if self._is_final(call):
                    raise
            else:
                return

    def done(self) -> bool:
        """Tells whether the call has ended."""
        call = self._call
        return call.done() and self._is_final(call)

    def cancelled(self) -> bool:
        """Tells whether the caller cancelled the call."""
        return self._call.cancelled()  # type: ignore[no-any-return]  # as above

    def cancel(self) -> bool:
        """Cancels the call; returns whether it had not ended."""
        self._may_go_on = False
        return self._call.cancel()  # type: ignore[no-any-return]  # as above

    def time_remaining(self) -> float | None:
        """Returns the seconds to the deadline, or None."""
        return self._call.time_remaining()  # type: ignore[no-any-return]  # as above

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls back with this call at its end, at once where that is past."""
        self._call.add_done_callback(partial(self._tell, callback))

    def _tell(self, callback: Callable[[Any], None], call: Any) -> None:
        if self._is_final(call):
            callback(self)
        else:
            self.add_done_callback(callback)


class RetriedUnaryCall(RetriedCall, grpc.aio.UnaryUnaryCall):
    """A call with one response. If nobody waits for it, it goes on nowhere else."""

    def __del__(self) -> None:
        if self._settled is None and self._call is not None:
            self._endpoint.waiting.discard(self._call)

    def __await__(self) -> Generator[Any, None, Any]:
        while True:
            call = self._call
            try:
                response = yield from call.__await__()
            except asyncio.CancelledError:
                if self._may_go_on:
                    self._may_go_on = False
                    self._stub.router.given_up(self._endpoint, self._began, monotonic())
                raise
            except grpc.RpcError:
                if self._is_final(call):
                    raise
            except BaseException:
                # An interceptor's own error; such a call calls nobody back.
                self._endpoint.waiting.discard(call)
                raise
            else:
                if self._settled is None:
                    self._settled = call
                    self._endpoint.answered(self._began, monotonic())
                return response


class RetriedStreamCall(RetriedCall, grpc.aio.UnaryStreamCall):
    """A call with a stream of responses. Dropped before its end, it is cancelled."""

    _streams = True
    _responses: AsyncIterator[Any] | None = None

    def _attempt(
        self, endpoint: Endpoint[grpc.aio.Channel], timeout: float | None, now: float
    ) -> None:
        super()._attempt(endpoint, timeout, now)
        # What gRPC calls back must not keep this alive, or it could never be dropped.
        this = weakref.ref(self)

        def ended(call: Any) -> None:
            retried = this()
            if retried is not None:
                retried._is_final(call)  # noqa: SLF001 - a closure of this very class

        self._call.add_done_callback(ended)

    def __del__(self) -> None:
        if self._call is not None and not self._call.done():
            self._call.cancel()

    def __aiter__(self) -> AsyncIterator[Any]:
        aiter(self._call)  # gRPC notes that the stream is iterated, and refuses read() from now
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def _iterate(self) -> AsyncIterator[Any]:
        while True:
            call = self._call
            try:
                async for message in call:
                    self._seen = True
                    yield message
            except grpc.RpcError:
                if self._is_final(call):
                    raise
            else:
                return

    async def read(self) -> Any:
        """Returns the next response, or `grpc.aio.EOF` at the end."""
        while True:
            call = self._call
            try:
                message = await call.read()
            except grpc.RpcError:
                if self._is_final(call):
                    raise
            else:
                self._seen = True
                return message
