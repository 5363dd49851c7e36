"""Refuses calls of those who may not speak any more, and ends their open streams."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc

from aegis_core._caller import Caller, caller_from_context
from aegis_core._caller_check import CallerCheck
from aegis_core.errors import CallerError, CallerRefusedError

_log = logging.getLogger("aegis.server")

LOOK = 1.0
"""Seconds between two looks at open streams."""


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
                if objection is not None and task not in self._ended:
                    _log.warning("a stream ends: %s", objection)
                    self._ended[task] = objection
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
            checked = self._around_sync_stream(inner)
        else:
            checked = self._around_sync(inner)
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

    def _around_sync(self, inner: Any) -> Any:
        def checked(request: Any, context: Any) -> Any:
            self._admit_sync(context)
            return inner(request, context)

        return checked

    def _around_sync_stream(self, inner: Any) -> Any:
        def checked(request: Any, context: Any) -> Iterator[Any]:
            # A thread cannot be interrupted: such a stream ends at its next message.
            self._admit_sync(context)
            for message in inner(request, context):
                self._admit_sync(context)
                yield message

        return checked

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
            task.uncancel()
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, objection)
        finally:
            del self._streams[task]
            self._ended.pop(task, None)

    async def _admit(self, context: Any) -> Caller:
        try:
            return self._look_at(context)
        except CallerError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            raise

    def _admit_sync(self, context: Any) -> None:
        try:
            self._look_at(context)
        except CallerError as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))

    def _look_at(self, context: Any) -> Caller:
        caller = caller_from_context(context)
        objection = self._check.objection(caller)
        if objection is not None:
            raise CallerRefusedError(caller.node_id, objection)
        return caller
