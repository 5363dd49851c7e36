"""The threads of handlers that are not coroutines, and the context that these handlers get.

gRPC's asyncio server can run such handlers itself, but (seen in 1.78 to 1.85) it loses a thread
for ever when the caller of a stream gives up, crashes the process when a thread asks for the
connection of a call that has ended, and lacks a part of the blocking context.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, NoReturn, Self, TypeVar, cast

import grpc
import grpc.aio

from aegis_core._server.aio.inflows import current_inflow
from aegis_core._server.aio.whole_reads import to_its_end
from aegis_core._server.daemon_threads import DaemonThreads
from aegis_core._server.held.complete_messages import Inflow

_log = logging.getLogger("aegis.server")

CANCELLATION_DELAY = 0.002
"""Seconds after the end of the requests in which gRPC reports that the caller gave up."""


class HandlerThreads:
    """Runs handlers that are not coroutines.

    Args:
        count: The largest number of threads; further calls wait for a thread.
    """

    def __init__(self, count: int) -> None:
        self._pool = DaemonThreads(count, "aegis-handler")

    def as_coroutine(
        self, handler: Callable[..., Any], streams_requests: bool, streams_responses: bool
    ) -> Callable[[Any, ThreadContext], Awaitable[Any]]:
        """Makes a coroutine that runs the handler on a thread and waits for it."""
        run = _run_stream if streams_responses else _run

        async def serve(request: Any, context: ThreadContext) -> Any:
            requests = _Requests(context) if streams_requests else request
            arguments = [handler, requests, context]
            # The current span, and all else that belongs to the call's task.
            carried = contextvars.copy_context()
            work = context.work = self._pool.submit(carried.run, _apply, run, arguments)
            try:
                return await asyncio.wrap_future(work)
            finally:
                context.end()
                if work.cancelled():
                    # The pool's queue holds the cancelled work until a thread is free.
                    arguments.clear()
                del work  # its error refers to the frames of the handler, an error here to this one

        return serve

    def close(self) -> None:
        """Takes no more work; handlers that run continue, and do not delay the process's end."""
        self._pool.close()


def _apply(run: Callable[..., Any], arguments: list[Any]) -> Any:
    return run(*arguments)


def _run(handler: Callable[..., Any], request: Any, context: ThreadContext) -> Any:
    try:
        return handler(request, context)
    except StopIteration as error:  # a future cannot hold it
        raise RuntimeError("the handler raised StopIteration") from error


def _run_stream(handler: Callable[..., Any], request: Any, context: ThreadContext) -> None:
    messages = _run(handler, request, context)
    try:
        for message in messages:
            try:
                context.write(message)
            except CallEndedError:
                return
    finally:
        close = getattr(messages, "close", None)
        if close is not None:
            close()


class CallEndedError(grpc.RpcError):
    """A handler's thread used a call that is over."""

    def __init__(self) -> None:
        super().__init__("the call is over: its caller gave up, or this server ended it")


MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def _forwarded(method: MethodT) -> MethodT:
    """Makes a method that calls the same method of gRPC's own context."""
    name = method.__name__

    def forward(self: ThreadContext, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._context, name)(*args, **kwargs)

    return cast("MethodT", forward)


class ThreadContext(grpc.ServicerContext):
    """The context of a handler on a thread, which may use it at any time.

    It is created on the event loop, in the call's own task: only there is it safe to read the
    properties of the connection.

    Args:
        context: gRPC's own context.
        task: The task that serves the call.

    Attributes:
        work: The handler's run on a thread; None before it was submitted.
        inflow: Counts its messages, if it has many requests.
    """

    def __init__(self, context: Any, task: asyncio.Task[Any]) -> None:
        self._context = context
        self._task = task
        self._auth: Mapping[str, Any] = context.auth_context()
        self._peer: str = context.peer()
        self._key: str | None = context.peer_identity_key()
        self._over = False
        self._callbacks: list[Callable[[], None]] = []
        self._pending: set[Future[Any]] = set()
        self.work: Future[Any] | None = None
        self.inflow: Inflow[Any] | None = None

    def end(self) -> None:
        """Marks the call as over, and wakes threads that wait for gRPC on its behalf."""
        self._over = True
        if self._pending:
            for future in self._pending.copy():
                future.cancel()
        while self._callbacks:
            try:
                self._callbacks.pop(0)()
            except Exception:  # noqa: BLE001 - it is the user's code
                _log.exception("a callback at the end of a call failed")

    def on_thread_done(self, callback: Callable[[asyncio.Task[Any]], object]) -> None:
        """Calls back when no thread works for the call, which may be long after its end."""

        def done(_: object) -> None:
            self.work = None  # its error refers to the frames of the handler, and these to this
            callback(self._task)

        if self.work is None or self.work.done():
            done(None)
        else:
            self.work.add_done_callback(done)

    def read(self) -> Any:
        """Waits for the next request; returns `grpc.aio.EOF` after the last one."""
        return self._wait_for(self._read())

    def write(self, message: Any) -> None:
        """Sends a message of a stream, and waits until gRPC has taken it."""
        self._wait_for(self._context.write(message))

    async def _read(self) -> Any:
        current_inflow.set(self.inflow)  # this coroutine is a task of its own
        request = await to_its_end(self._context.read())
        if request is grpc.aio.EOF:
            # When a caller gives up, its requests end just before gRPC reports the cancellation.
            # A handler must not take a part of the requests for all of them.
            await asyncio.sleep(CANCELLATION_DELAY)
            if self._task.cancelling():
                raise CallEndedError
        return request

    def _wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._over:
            coroutine.close()
            raise CallEndedError
        future = asyncio.run_coroutine_threadsafe(coroutine, self._task.get_loop())
        self._pending.add(future)
        if self._over:
            future.cancel()
        try:
            return future.result()
        except CancelledError:
            raise CallEndedError from None
        finally:
            self._pending.discard(future)

    # The methods below are gRPC's blocking API, with its meanings.

    time_remaining = _forwarded(grpc.ServicerContext.time_remaining)
    invocation_metadata = _forwarded(grpc.ServicerContext.invocation_metadata)
    set_trailing_metadata = _forwarded(grpc.ServicerContext.set_trailing_metadata)
    trailing_metadata = _forwarded(grpc.ServicerContext.trailing_metadata)
    set_code = _forwarded(grpc.ServicerContext.set_code)
    set_details = _forwarded(grpc.ServicerContext.set_details)
    set_compression = _forwarded(grpc.ServicerContext.set_compression)
    disable_next_message_compression = _forwarded(
        grpc.ServicerContext.disable_next_message_compression
    )

    def code(self) -> Any:
        return self._context.code()

    def details(self) -> Any:
        return self._context.details()

    def is_active(self) -> bool:
        return not self._over

    def cancel(self) -> bool:
        """Ends the call as cancelled; returns whether it was not over."""
        if self._over:
            return False
        with contextlib.suppress(grpc.aio.AbortError, CallEndedError):
            self.abort(grpc.StatusCode.CANCELLED, "the handler cancelled the call")
        self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls back on the event loop when the call is over; returns False if it is over."""
        self._callbacks.append(callback)
        if self._over:  # it may have ended after the callback was added
            with contextlib.suppress(ValueError):
                self._callbacks.remove(callback)
                return False
        return True

    def peer(self) -> str:
        return self._peer

    def peer_identities(self) -> Any:
        return None if self._key is None else self._auth.get(self._key)

    def peer_identity_key(self) -> str | None:
        return self._key

    def auth_context(self) -> Mapping[str, Any]:
        return self._auth

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._wait_for(self._context.send_initial_metadata(initial_metadata))

    def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        self._wait_for(self._context.abort(code, details, tuple(trailing_metadata)))
        raise CallEndedError

    def abort_with_status(self, status: Any) -> NoReturn:
        self.abort(status.code, status.details, status.trailing_metadata or ())


class _Requests(Iterator[Any]):
    """The requests of a call, for a thread. Raises `CallEndedError` if the call ends first."""

    def __init__(self, context: ThreadContext) -> None:
        self._context = context
        self._ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if not self._ended:
            request = self._context.read()
            if request is not grpc.aio.EOF:
                return request
            self._ended = True
        raise StopIteration
