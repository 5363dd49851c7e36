"""Runs handlers that are coroutines on an event loop of their own, with a thread for each call.

It is for services that were written for asyncio: a call costs more here than on an asyncio node.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from queue import SimpleQueue
from typing import Any, NoReturn, Self

import grpc
import grpc.aio
from aegis_discovery.background import BackgroundLoop
from aegis_discovery.errors import ClosedError

from aegis_core._server.base import kind_of


class CoroutineHandlers:
    """Makes blocking handlers of those that are coroutines.

    Their loop is not that of the node, so a coroutine that blocks delays other coroutines only.
    """

    def __init__(self) -> None:
        self._loop: BackgroundLoop | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def as_blocking(self, handler: Any) -> Any:
        """Returns a handler of the same kind whose function blocks."""
        kind = kind_of(handler)
        inner = getattr(handler, kind)
        if not (inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)):
            return handler
        run = self._run_stream if handler.response_streaming else self._run

        def serve(request: Any, context: Any) -> Any:
            return run(inner, request, context, handler.request_streaming)

        return getattr(grpc, f"{kind}_rpc_method_handler")(
            serve, handler.request_deserializer, handler.response_serializer
        )

    def close(self) -> None:
        """Cancels the coroutines that still run, and does not wait for them."""
        with self._lock:
            loop, self._loop = self._loop, None
            self._is_closed = True
        if loop is not None:
            # A coroutine that ignores its cancellation must not delay the end of the node.
            threading.Thread(target=loop.close, name="aegis-closing", daemon=True).start()

    def _run(self, inner: Any, request: Any, context: Any, streams: bool) -> Any:
        call = _Call(self._started(), context, request if streams else None)
        call.start(inner(call.context if streams else request, call.context))
        for _ in call.sent():  # a handler of one answer sends none
            pass
        return call.result()

    def _run_stream(self, inner: Any, request: Any, context: Any, streams: bool) -> Iterator[Any]:
        call = _Call(self._started(), context, request if streams else None)
        answer = inner(call.context if streams else request, call.context)
        call.start(_write_all(answer, call.context) if inspect.isasyncgen(answer) else answer)
        yield from call.sent()
        call.result()

    def _started(self) -> BackgroundLoop:
        with self._lock:
            if self._is_closed:
                raise ClosedError("node")
            if self._loop is None:
                self._loop = BackgroundLoop("aegis-coroutines")
            return self._loop


async def _write_all(messages: Any, context: CoroutineContext) -> None:
    async with contextlib.aclosing(messages):
        async for message in messages:
            await context.write(message)


class _Call:
    """One call of a coroutine, as its thread sees it.

    Args:
        background: The coroutines' loop.
        context: gRPC's blocking context.
        requests: gRPC's blocking iterator, if the caller streams its requests.
    """

    def __init__(self, background: BackgroundLoop, context: Any, requests: Any) -> None:
        self._background = background
        self._blocking = context
        self._requests = requests
        self._commands: SimpleQueue[Any] = SimpleQueue()
        self._reads: SimpleQueue[asyncio.Future[Any] | None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_over = False
        self.aborted: tuple[Any, ...] | None = None
        self.context = CoroutineContext(context, self)

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            task = self._task = self._background.call(asyncio.ensure_future, work)
        except ClosedError:
            work.close()
            self._blocking.abort(grpc.StatusCode.UNAVAILABLE, "this node has stopped")
            raise
        self._background.call_soon(task.add_done_callback, self._done)
        if not self._blocking.add_callback(self._over):
            self._over()

    def sent(self) -> Iterator[Any]:
        """Yields the messages that the coroutine writes, until it is done."""
        try:
            while (command := self._commands.get()) is not None:
                message, written = command
                yield message
                self._settle(written, None)
        finally:
            self._over()
            if self._reads is not None:
                self._reads.put(None)

    def result(self) -> Any:
        # The error of a task that is over keeps the frames of the handler, and so its messages.
        task, self._task = self._task, None
        if self.aborted is not None:
            del task
            code, details, trailers = self.aborted
            if trailers:
                self._blocking.set_trailing_metadata(tuple(trailers))
            self._blocking.abort(code, details)
        assert task is not None  # noqa: S101 - it was started
        if not task.cancelled():
            return task.result()
        del task
        # gRPC logs no abort, and sends this only if the call is not over.
        self._blocking.abort(grpc.StatusCode.CANCELLED, "the handler was cancelled")
        return None

    async def write(self, message: Any) -> None:
        written = asyncio.get_running_loop().create_future()
        self._commands.put((message, written))
        await written

    async def read(self) -> Any:
        if self._requests is None:
            raise RuntimeError("a call with one request has no others to read")
        if self._reads is None:
            # A read must not delay a write, so it has another thread.
            self._reads = SimpleQueue()
            threading.Thread(target=self._read, name="aegis-reader", daemon=True).start()
        received = asyncio.get_running_loop().create_future()
        self._reads.put(received)
        return await received

    def cancel(self) -> None:
        if self._task is not None:
            self._background.call_soon(self._task.cancel)

    @property
    def task(self) -> asyncio.Task[Any] | None:
        return self._task

    def _read(self) -> None:
        assert self._reads is not None  # noqa: S101 - set before the thread starts
        while (received := self._reads.get()) is not None:
            try:
                request = next(self._requests, grpc.aio.EOF)
            except Exception as error:  # noqa: BLE001 - it is over, or its request is not valid
                # gRPC keeps it, and it refers to this frame, also by the end of the requests.
                error.__traceback__ = error.__context__ = None
                self._over()
                return
            self._settle(received, request)

    def _settle(self, future: asyncio.Future[Any], value: Any) -> None:
        def settle() -> None:
            if not future.done():
                future.set_result(value)

        self._background.call_soon(settle)

    def _done(self, _: asyncio.Task[Any]) -> None:
        self._commands.put(None)

    def _over(self) -> None:
        if not self._is_over:
            self._is_over = True
            self.cancel()


class CoroutineContext(grpc.aio.ServicerContext[Any, Any]):
    """gRPC's asyncio context, on top of the blocking one. It iterates over the requests too."""

    def __init__(self, context: Any, call: _Call) -> None:
        self._context = context
        self._call = call
        self._is_over = False
        context.add_callback(self._mark_over)

    def _mark_over(self) -> None:
        self._is_over = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        request = await self._call.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return request

    async def read(self) -> Any:
        return await self._call.read()

    async def write(self, message: Any) -> None:
        await self._call.write(message)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._context.send_initial_metadata(tuple(initial_metadata))

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        self._call.aborted = code, details, trailing_metadata
        raise grpc.aio.AbortError("Locally aborted.")

    async def abort_with_status(self, status: Any) -> NoReturn:
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        task = self._call.task
        if task is not None:
            task.add_done_callback(lambda _: callback(self))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._context.set_trailing_metadata(tuple(trailing_metadata))

    def invocation_metadata(self) -> Any:
        return self._context.invocation_metadata()

    def set_code(self, code: grpc.StatusCode) -> None:
        self._context.set_code(code)

    def set_details(self, details: str) -> None:
        self._context.set_details(details)

    def set_compression(self, compression: grpc.Compression) -> None:
        self._context.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        self._context.disable_next_message_compression()

    def peer(self) -> str:
        return str(self._context.peer())

    def peer_identities(self) -> Any:
        return self._context.peer_identities()

    def peer_identity_key(self) -> Any:
        return self._context.peer_identity_key()

    def auth_context(self) -> Any:
        return self._context.auth_context()

    def time_remaining(self) -> float:
        return float(self._context.time_remaining())

    def trailing_metadata(self) -> Any:
        return self._context.trailing_metadata()

    def code(self) -> Any:
        return self._context.code()

    def details(self) -> Any:
        return self._context.details()

    def cancelled(self) -> bool:
        return self._is_over

    def done(self) -> bool:
        return self._is_over
