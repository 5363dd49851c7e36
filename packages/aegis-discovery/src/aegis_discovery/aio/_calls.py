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

from aegis_discovery._endpoints import Endpoint
from aegis_discovery._routing import Router, time_left
from aegis_discovery._stubs import StubCallable

# The stubs of grpc make these classes generic; at run time not all of them are.
# mypy: disable-error-code="type-arg"

_log = logging.getLogger("aegis.pool")


def after(
    router: Router[grpc.aio.Channel],
    endpoint: Endpoint[grpc.aio.Channel],
    call: Any,
    seen: bool = False,
    deadline: float | None = None,
    again: bool = False,
) -> Endpoint[grpc.aio.Channel] | None:
    """Lets the router know how an attempt ended; returns where the call goes on, if it does."""
    code = _now(call.code())
    if code is grpc.StatusCode.OK and not endpoint.backoff:
        return None  # as nearly all calls end
    answered = seen or (code is grpc.StatusCode.UNAVAILABLE and bool(_now(call.initial_metadata())))
    return router.after(endpoint, code, answered=answered, deadline=deadline, again=again)


def observe(
    call: Any, router: Router[grpc.aio.Channel], endpoint: Endpoint[grpc.aio.Channel]
) -> Any:
    """Lets the router know how a call of one attempt ends."""

    def ended(call: Any) -> None:
        try:
            after(router, endpoint, call)
        except Exception:  # noqa: BLE001 - an interceptor's own error, which the caller gets
            _log.debug("the end of %r is not known", call, exc_info=True)

    call.add_done_callback(ended)
    return call


def _now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Returns what a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("a call that has ended waited for something")


class RetriedCall(grpc.aio.Call):
    """A call that goes on elsewhere if nobody answers its first attempt.

    It behaves as the call of the attempt that counts.

    Args:
        stub: Whose call it is.
        request: The request.
        timeout: Seconds for all attempts together.
        wait_for_ready: As the caller gave it.
        options: What else the caller gave.
    """

    # What is so for nearly all calls costs them nothing here.
    _again = True
    _seen = False
    _settled: Any = None

    def __init__(
        self,
        stub: StubCallable[grpc.aio.Channel],
        request: Any,
        timeout: float | None,
        wait_for_ready: bool | None,
        options: dict[str, Any],
    ) -> None:
        self._stub = stub
        self._request = request
        self._deadline = None if timeout is None else monotonic() + timeout
        self._wait_for_ready = wait_for_ready
        self._options = options
        router = stub.router
        endpoint = router.pick()
        if wait_for_ready:
            wait_for_ready = router.first_wait(wait_for_ready)
        self._attempt(endpoint, timeout, wait_for_ready)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._endpoint.node_id}: {self._call!r}>"

    def _attempt(
        self,
        endpoint: Endpoint[grpc.aio.Channel],
        timeout: float | None,
        wait_for_ready: bool | None,
    ) -> None:
        call = self._stub.at(endpoint)(
            self._request, timeout=timeout, wait_for_ready=wait_for_ready, **self._options
        )
        self._call: Any = call
        self._endpoint = endpoint
        call.add_done_callback(self._ended)

    def _ended(self, call: Any) -> None:
        """Settles an attempt, even if nobody waits for it."""
        self._is_final(call)

    def _is_final(self, call: Any) -> bool:
        """Tells of an attempt that ended whether the call ends with it; settled only once."""
        if call is self._settled:
            return True
        if call is not self._call:
            return False
        again, self._again = self._again, False
        try:
            other = after(
                self._stub.router, self._endpoint, call, self._seen, self._deadline, again
            )
            if other is not None:
                self._attempt(other, time_left(self._deadline), self._wait_for_ready)
                return False
        except Exception:  # noqa: BLE001 - whatever hinders a second attempt, the first one stands
            _log.debug("no second attempt after %r", call, exc_info=True)
        self._settled = call
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
        self._again = False
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
    """A call with one response."""

    _awaited = False

    def _ended(self, call: Any) -> None:
        if not self._awaited:  # else it is settled there, and more cheaply
            self._is_final(call)

    def __await__(self) -> Generator[Any, None, Any]:
        self._awaited = True
        while True:
            call = self._call
            try:
                response = yield from call.__await__()
            except asyncio.CancelledError:
                self._again = False
                raise
            except grpc.RpcError:
                if self._is_final(call):
                    raise
            else:
                if self._endpoint.backoff:
                    self._endpoint.succeeded()
                return response


class RetriedStreamCall(RetriedCall, grpc.aio.UnaryStreamCall):
    """A call with a stream of responses. Dropped before its end, it is cancelled."""

    _responses: AsyncIterator[Any] | None = None

    def __init__(self, *args: Any) -> None:
        # What gRPC calls back must not keep this alive, or it could never be dropped.
        this = weakref.ref(self)

        def ended(call: Any) -> None:
            retried = this()
            if retried is not None:
                retried._is_final(call)  # noqa: SLF001 - a closure of this very class

        self._ended = ended  # type: ignore[method-assign]  # in place of one that holds this
        super().__init__(*args)

    def __del__(self) -> None:
        call = getattr(self, "_call", None)
        if call is not None and not call.done():
            call.cancel()

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
