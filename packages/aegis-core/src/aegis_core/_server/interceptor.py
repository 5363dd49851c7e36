"""Runs before every handler: refuses or denies callers, and sheds calls above the limit."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from asyncio import current_task
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, NamedTuple

import grpc
from aegis_discovery.policy import split_method
from aegis_discovery.transport import SHED_METADATA

from aegis_core._access.authorization import CallAuthorizer
from aegis_core._access.caller import Caller, caller_from_context
from aegis_core._server.admission import AdmissionControl, AdmissionRefused
from aegis_core._server.thread_pool import HandlerThreads, ThreadContext
from aegis_core.errors import CallDeniedError, CallerError

_log = logging.getLogger("aegis.server")

REVALIDATION_INTERVAL = 1.0
"""Seconds between two checks of the callers of open streams."""

MAX_METHODS = 4096
"""Methods whose handlers are cached; a generic handler may serve any number of methods."""


class _CheckedHandler(NamedTuple):
    """A handler, and the same handler with the checks before it."""

    handler: Any
    checked: Any
    is_limited: bool


class _EndReason(NamedTuple):
    """Why a running call is ended."""

    code: grpc.StatusCode
    text: str


class _RejectedError(Exception):
    """A call is rejected. The exception's arguments are those of gRPC's `abort`."""


class CallerInterceptor(grpc.aio.ServerInterceptor):
    """Checks every call before its handler runs, and streams while they are open.

    Args:
        authorizer: Decides which calls are allowed.
        admission: Limits the calls of the user's services.
        threads: Run handlers that are not coroutines.
        open_services: Services that every member of the mesh may call, whatever the policy.
        own_services: Services that are not the user's, and so are not limited.

    Attributes:
        refused: Calls refused for the caller's certificate or TLS version.
        denied: Calls that the policy denied.
    """

    def __init__(
        self,
        authorizer: CallAuthorizer,
        admission: AdmissionControl[asyncio.Task[Any]],
        threads: HandlerThreads,
        *,
        open_services: Collection[str] = (),
        own_services: Collection[str] = (),
    ) -> None:
        self._authorizer = authorizer
        self._admission = admission
        self._threads = threads
        self._open_services = frozenset(open_services)
        self._own_services = frozenset(own_services)
        self._handlers: dict[str, _CheckedHandler] = {}
        self._streams: dict[asyncio.Task[Any], tuple[Caller, str | None]] = {}
        self._end_reasons: dict[asyncio.Task[Any], _EndReason] = {}
        self.refused = 0
        self.denied = 0

    async def revalidate_callers(self) -> None:
        """Ends open streams of callers that are not allowed any more; runs until cancelled."""
        while True:
            await asyncio.sleep(REVALIDATION_INTERVAL)
            for task, (caller, path) in list(self._streams.items()):
                error = self._authorizer.check(caller, path, is_open=True)
                if error is None:
                    continue
                if task not in self._end_reasons:
                    self._count(error)
                    if not isinstance(error, CallDeniedError):  # the authorizer logs denials
                        _log.warning("an open stream is ended: %s", error)
                # Again at each check: a handler may have caught the last cancellation.
                self._end(task, _EndReason(_code(error), str(error)))

    async def end_calls(self, reason: str, timeout: float) -> None:
        """Ends all calls as UNAVAILABLE and waits for that. Threads continue, without a caller."""
        tasks = {*self._streams, *self._admission.running}
        for task in tasks:
            self._end(task, _EndReason(grpc.StatusCode.UNAVAILABLE, reason))
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

    def _end(self, task: asyncio.Task[Any], reason: _EndReason) -> None:
        self._end_reasons[task] = reason
        task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        path: str = handler_call_details.method
        known = self._handlers.get(path)
        if known is None or known.handler is not handler:
            known = self._add_checks(path, handler)
        if known.is_limited:
            task = current_task()
            assert task is not None  # noqa: S101 - a call is served in a task
            refused = self._admission.admit(task)
            if refused is not None:
                return _REJECTING[refused]
        return known.checked

    def _add_checks(self, path: str, handler: Any) -> _CheckedHandler:
        service, _ = split_method(path)
        streaming = handler.request_streaming, handler.response_streaming
        kind = "_".join("stream" if streams else "unary" for streams in streaming)
        inner = getattr(handler, kind)
        on_thread = False
        if inspect.isasyncgenfunction(inner):
            inner = _as_coroutine(inner)
        elif not inspect.iscoroutinefunction(inner):
            on_thread = True
            inner = self._threads.as_coroutine(inner, *streaming)
        is_limited = service not in self._own_services
        checked = getattr(grpc, f"{kind}_rpc_method_handler")(
            self._checked(
                inner,
                None if service in self._open_services else path,
                is_limited=is_limited,
                streams=kind != "unary_unary",
                on_thread=on_thread,
            ),
            handler.request_deserializer,
            handler.response_serializer,
        )
        if len(self._handlers) >= MAX_METHODS:
            self._handlers.clear()
        known = self._handlers[path] = _CheckedHandler(handler, checked, is_limited)
        return known

    def _checked(
        self, inner: Any, path: str | None, *, is_limited: bool, streams: bool, on_thread: bool
    ) -> Any:
        accept, end_reasons = self._accept, self._end_reasons
        end, open_streams = self._admission.end, self._streams

        async def checked(request: Any, context: Any) -> Any:
            task = current_task()
            assert task is not None  # noqa: S101 - a handler runs in a task
            handler_context = ThreadContext(context, task) if on_thread else context
            # Checked here and not in a coroutine of its own: each frame of a call costs time.
            try:
                caller = accept(handler_context, path, task if is_limited else None)
            except _RejectedError as refusal:
                await context.abort(*refusal.args)
                raise
            if streams:  # a unary call may finish, whatever happens to its caller
                open_streams[task] = caller, path
            try:
                return await inner(request, handler_context)
            except asyncio.CancelledError:
                await self._explain(task, context)
                raise
            except grpc.aio.InternalError:
                # A message cannot be sent to a caller that was killed. gRPC is about to cancel this
                # call; an error that comes before that is logged with a traceback.
                await asyncio.sleep(_CANCELLED_WITHIN)
                raise
            finally:
                if streams:
                    open_streams.pop(task, None)
                if end_reasons:
                    end_reasons.pop(task, None)
                if on_thread:
                    handler_context.on_thread_done(end)
                elif is_limited:
                    end(task)

        return checked

    async def _explain(self, task: asyncio.Task[Any], context: Any) -> None:
        """Sends the caller the reason why its call was ended, if this node ended it."""
        reason = self._end_reasons.get(task)
        if reason is None:
            return
        self._streams.pop(task, None)  # so that the next check does not cancel the abort
        while task.uncancel():
            pass
        await context.abort(*reason)

    def _accept(self, context: Any, path: str | None, task: asyncio.Task[Any] | None) -> Caller:
        """Returns the caller of an allowed call, or raises `_RejectedError`.

        Args:
            context: The context of the call.
            path: The method that the policy is asked about; None if no policy applies.
            task: The call if it is limited; it is counted as running from then on.
        """
        try:
            caller = caller_from_context(context)
            error = self._authorizer.check(caller, path)
            if error is not None:
                raise error
        except CallerError as error:
            self._count(error)
            raise _RejectedError(_code(error), str(error)) from None
        if task is not None and not self._admission.begin(task):
            raise _RejectedError(*_FULL)
        return caller

    def _count(self, error: CallerError) -> None:
        if isinstance(error, CallDeniedError):
            self.denied += 1
        else:
            self.refused += 1


_CANCELLED_WITHIN = 1.0
"""Seconds within which gRPC cancels a call whose caller is gone."""


def _as_coroutine(generator: Any) -> Any:
    """Makes a coroutine of a handler that is an async generator.

    It writes the responses instead of gRPC. So a stream that is ended while it sends a message
    still tells its caller why.
    """

    async def write(request: Any, context: Any) -> None:
        async with contextlib.aclosing(generator(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    return write


def _code(error: CallerError) -> grpc.StatusCode:
    denied = isinstance(error, CallDeniedError)
    return grpc.StatusCode.PERMISSION_DENIED if denied else grpc.StatusCode.UNAUTHENTICATED


_FULL = (
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    "this node is at its limit of concurrent calls; try another provider",
    (SHED_METADATA,),
)
# Without the mark, as from a node that is gone: callers stop using this node.
_CLOSED = (grpc.StatusCode.UNAVAILABLE, "this node is leaving; try another provider", ())


def _rejecting(status: tuple[Any, ...]) -> grpc.RpcMethodHandler[Any, Any]:
    async def reject(_: AsyncIterator[Any], context: Any) -> None:
        await context.abort(*status)

    # On the wire all kinds of calls are alike, and this kind does not wait for a request.
    return grpc.stream_stream_rpc_method_handler(reject)


_REJECTING = {
    AdmissionRefused.FULL: _rejecting(_FULL),
    AdmissionRefused.CLOSED: _rejecting(_CLOSED),
}
