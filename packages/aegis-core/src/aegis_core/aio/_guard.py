"""Refuses calls of those who may not speak any more, and ends their open streams."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any

import grpc

from aegis_core._caller import Caller, caller_from_context
from aegis_core._caller_check import CallerCheck
from aegis_core.errors import CallerError, CallerRefusedError

_log = logging.getLogger("aegis.server")

LOOK = 1.0
"""Seconds between two looks at open streams."""

LOOP_PATIENCE = 30.0
"""Seconds that a handler's thread waits for the event loop; one that is stopped never answers."""


class KnownContext:
    """A sync handler's context that remembers the connection, which a thread must not ask for.

    Args:
        context: gRPC's own, asked here and now.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._auth: Mapping[str, Any] = context.auth_context()
        self._peer: str = context.peer()
        self._key: str | None = context.peer_identity_key()

    def auth_context(self) -> Mapping[str, Any]:
        """Returns what the transport proved."""
        return self._auth

    def peer(self) -> str:
        """Returns the peer's network address."""
        return self._peer

    def peer_identity_key(self) -> str | None:
        """Returns the name of what identifies the peer."""
        return self._key

    def peer_identities(self) -> Iterable[bytes] | None:
        """Returns what identifies the peer."""
        return None if self._key is None else self._auth.get(self._key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class CallerGuard(grpc.aio.ServerInterceptor):
    """Checks every call's caller, before the handler runs and while a stream is open."""

    def __init__(self, check: CallerCheck) -> None:
        self._check = check
        self._streams: dict[asyncio.Task[Any], Caller] = {}
        self._ended: dict[asyncio.Task[Any], str] = {}

    async def run(self) -> None:
        """Ends streams whose caller may not speak any more; works until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            for task, caller in list(self._streams.items()):
                objection = self._check.objection(caller)
                if objection is None:
                    continue
                if task not in self._ended:
                    _log.warning("a stream ends: %s", objection)
                self._ended[task] = objection
                # Again at each look: a handler may have taken the last one for its own.
                task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Puts the check around a handler, in the handler's own kind: sync or async."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        requests = "stream" if handler.request_streaming else "unary"
        responses = "stream" if handler.response_streaming else "unary"
        kind = f"{requests}_{responses}"
        inner = getattr(handler, kind)
        if inspect.isasyncgenfunction(inner):
            checked = self._around_async_generator(inner)
        elif inspect.iscoroutinefunction(inner) and kind == "unary_unary":
            checked = self._around_unary(inner)
        elif inspect.iscoroutinefunction(inner):
            checked = self._around_async_stream(inner)
        elif handler.response_streaming:
            checked = self._around_sync_stream(inner, handler.request_streaming)
        else:
            checked = self._around_sync(inner, handler.request_streaming)
        return getattr(grpc, f"{kind}_rpc_method_handler")(
            checked, handler.request_deserializer, handler.response_serializer
        )

    def _around_unary(self, inner: Any) -> Any:
        async def checked(request: Any, context: Any) -> Any:
            await self._admit(context)
            return await inner(request, context)

        return checked

    def _around_async_stream(self, inner: Any) -> Any:
        async def checked(request: Any, context: Any) -> Any:
            async with self._watched(await self._admit(context), context):
                return await inner(request, context)

        return checked

    def _around_async_generator(self, inner: Any) -> Any:
        async def checked(request: Any, context: Any) -> None:
            async with (
                self._watched(await self._admit(context), context),
                contextlib.aclosing(inner(request, context)) as messages,
            ):
                # Written from here, and not by gRPC, so that a stream which is ended while a
                # message is on its way still tells its caller why.
                async for message in messages:
                    await context.write(message)

        return checked

    # A thread cannot be interrupted: a stream that a sync handler serves ends at its next message.

    def _around_sync(self, inner: Any, streams: bool) -> Any:
        look = self._look_from_thread()

        def checked(request: Any, context: Any) -> Any:
            known = look(context)
            return inner(self._checked(request, known) if streams else request, known)

        return checked

    def _around_sync_stream(self, inner: Any, streams: bool) -> Any:
        look = self._look_from_thread()

        def checked(request: Any, context: Any) -> Iterator[Any]:
            known = look(context)
            requests = self._checked(request, known) if streams else request
            yield from self._checked(inner(requests, known), known)

        return checked

    def _look_from_thread(self) -> Callable[[Any], KnownContext]:
        """Returns what a handler's thread begins with: who calls, once that is admitted.

        gRPC (seen in 1.85) crashes the process where a thread asks a context for its connection
        and the call has ended meanwhile, such as by a caller that gave up while the call waited
        for a thread. So the loop asks, which knows that the call's task still runs.
        """
        rpc, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert rpc is not None  # noqa: S101 - a call is served in a task

        def look(context: Any) -> KnownContext:
            answers: SimpleQueue[KnownContext | Exception] = SimpleQueue()

            def ask() -> None:
                try:
                    if rpc.done():
                        raise ConnectionAbortedError("the caller is gone")
                    answers.put(KnownContext(context))
                except Exception as error:  # noqa: BLE001 - it is the thread's
                    answers.put(error)

            loop.call_soon_threadsafe(ask)
            known = answers.get(timeout=LOOP_PATIENCE)
            if isinstance(known, Exception):
                raise known
            self._admit_sync(known)
            return known

        return look

    def _checked(self, messages: Iterable[Any], context: KnownContext) -> Iterator[Any]:
        for message in messages:
            self._admit_sync(context)
            yield message

    @contextlib.asynccontextmanager
    async def _watched(self, caller: Caller, context: Any) -> AsyncIterator[None]:
        """Keeps a stream in view of `run`, which ends it by cancelling its task."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler runs in a task
        self._streams[task] = caller
        try:
            yield
        except asyncio.CancelledError:
            objection = self._ended.get(task)
            if objection is None:
                raise
            del self._streams[task]  # what follows tells the caller why, and is not cut short
            while task.uncancel():
                pass
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, objection)
        finally:
            self._streams.pop(task, None)
            self._ended.pop(task, None)

    async def _admit(self, context: Any) -> Caller:
        try:
            return self._look_at(context)
        except CallerError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            raise

    def _admit_sync(self, context: KnownContext) -> None:
        try:
            self._look_at(context)
        except CallerError as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            raise

    def _look_at(self, context: Any) -> Caller:
        caller = caller_from_context(context)
        objection = self._check.objection(caller)
        if objection is not None:
            raise CallerRefusedError(caller.node_id, objection)
        return caller
