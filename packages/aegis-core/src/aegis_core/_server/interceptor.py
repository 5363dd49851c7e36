"""Stands before every handler: who may not call is refused, and what is too much is turned away."""

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

LOOK = 1.0
"""Seconds between two looks at open streams."""

MAX_METHODS = 4096
"""Methods whose handlers are remembered; a generic handler may have any number of them."""


class _Guarded(NamedTuple):
    """A handler, and what stands before it."""

    handler: Any
    guarded: Any
    is_counted: bool


class _Ended(NamedTuple):
    """Why a call that runs is ended."""

    code: grpc.StatusCode
    reason: str


class _RefusedError(Exception):
    """A call is not let in. Its arguments are those of gRPC's `abort`."""


class CallerInterceptor(grpc.aio.ServerInterceptor):
    """Checks every call before its handler runs, and streams while they are open.

    Args:
        judge: Decides who may call.
        intake: Decides how much is too much, for the user's services.
        threads: Run handlers that are no coroutines.
        for_everybody: Services that no policy keeps from a member of the mesh.
        uncounted: Services that are not the user's.
    """

    def __init__(
        self,
        judge: CallAuthorizer,
        intake: AdmissionControl[asyncio.Task[Any]],
        threads: HandlerThreads,
        *,
        for_everybody: Collection[str] = (),
        uncounted: Collection[str] = (),
    ) -> None:
        self._judge = judge
        self._intake = intake
        self._threads = threads
        self._for_everybody = frozenset(for_everybody)
        self._uncounted = frozenset(uncounted)
        self._guarded: dict[str, _Guarded] = {}
        self._streams: dict[asyncio.Task[Any], tuple[Caller, str | None]] = {}
        self._ended: dict[asyncio.Task[Any], _Ended] = {}
        self.refused = 0
        self.denied = 0

    async def run(self) -> None:
        """Ends streams whose caller may not speak any more; works until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            for task, looked_at in list(self._streams.items()):
                error = self._judge.objection(*looked_at)
                if error is None:
                    continue
                if task not in self._ended:
                    self._count(error)
                    _log.warning("a stream ends: %s", error)
                # Again at each look: a handler may have taken the last one for its own.
                self._end(task, _Ended(_code(error), str(error)))

    async def end_calls(self, reason: str, patience: float) -> None:
        """Ends all calls as unavailable, and waits for that. What threads do goes on unheard."""
        tasks = {*self._streams, *self._intake.running}
        for task in tasks:
            self._end(task, _Ended(grpc.StatusCode.UNAVAILABLE, reason))
        if tasks:
            await asyncio.wait(tasks, timeout=patience)

    def _end(self, task: asyncio.Task[Any], why: _Ended) -> None:
        self._ended[task] = why
        task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Puts the checks around a handler, in the handler's own kind: sync or async."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        path: str = handler_call_details.method
        known = self._guarded.get(path)
        if known is None or known.handler is not handler:
            known = self._guard(path, handler)
        if known.is_counted:
            task = current_task()
            assert task is not None  # noqa: S101 - a call is served in a task
            turned_away = self._intake.enter(task)
            if turned_away is not None:
                return _TURNING_AWAY[turned_away]
        return known.guarded

    def _guard(self, path: str, handler: Any) -> _Guarded:
        service, _ = split_method(path)
        judged = None if service in self._for_everybody else path
        counted = service not in self._uncounted
        requests = "stream" if handler.request_streaming else "unary"
        responses = "stream" if handler.response_streaming else "unary"
        kind = f"{requests}_{responses}"
        inner = getattr(handler, kind)
        on_thread = False
        if inspect.isasyncgenfunction(inner):
            inner = _written(inner)
        elif not inspect.iscoroutinefunction(inner):
            on_thread = True
            inner = self._threads.serving(
                inner,
                request_streaming=handler.request_streaming,
                response_streaming=handler.response_streaming,
            )
        checked = self._checked(
            inner, judged, counted=counted, streams=kind != "unary_unary", on_thread=on_thread
        )
        guarded = getattr(grpc, f"{kind}_rpc_method_handler")(
            checked, handler.request_deserializer, handler.response_serializer
        )
        if len(self._guarded) >= MAX_METHODS:
            self._guarded.clear()
        known = _Guarded(handler, guarded, counted)
        self._guarded[path] = known
        return known

    def _checked(
        self, inner: Any, path: str | None, *, counted: bool, streams: bool, on_thread: bool
    ) -> Any:
        let_in, ended = self._let_in, self._ended
        leave, open_streams = self._intake.leave, self._streams

        async def checked(request: Any, context: Any) -> Any:
            task = current_task()
            assert task is not None  # noqa: S101 - a handler runs in a task
            told = ThreadContext(context, task) if on_thread else context
            # Looked at here, and not in a coroutine of its own: each frame of a call counts.
            try:
                caller = let_in(told, path, task if counted else None)
            except _RefusedError as refusal:
                await context.abort(*refusal.args)
                raise
            if streams:  # what answers once is let finish, whatever becomes of its caller
                open_streams[task] = caller, path
            try:
                return await inner(request, told)
            except asyncio.CancelledError:
                await self._explain(task, context)
                raise
            finally:
                if streams:
                    open_streams.pop(task, None)
                if ended:
                    ended.pop(task, None)
                if on_thread:
                    told.when_free(leave)
                elif counted:
                    leave(task)

        return checked

    async def _explain(self, task: asyncio.Task[Any], context: Any) -> None:
        """Tells a caller why its call is ended, if that is what the cancellation was for."""
        ended = self._ended.get(task)
        if ended is None:
            return
        self._streams.pop(task, None)  # what follows is not cut short by the next look
        while task.uncancel():
            pass
        await context.abort(ended.code, ended.reason)

    def _let_in(self, context: Any, path: str | None, task: asyncio.Task[Any] | None) -> Caller:
        """Tells who calls, and takes one of the places for a call that is to have one.

        Args:
            context: Tells of the connection.
            path: What the policy is asked about, if it is.
            task: The call, if it is counted.

        Raises:
            _RefusedError: The caller may not call, or there is no place.
        """
        try:
            caller = caller_from_context(context)
            error = self._judge.objection(caller, path)
            if error is not None:
                raise error
        except CallerError as error:
            self._count(error)
            raise _RefusedError(_code(error), str(error)) from None
        if task is not None and not self._intake.begin(task):
            raise _RefusedError(*_FULL)
        return caller

    def _count(self, error: CallerError) -> None:
        if isinstance(error, CallDeniedError):
            self.denied += 1
        else:
            self.refused += 1


def _written(generator: Any) -> Any:
    """Makes a coroutine of a handler that generates its responses.

    Written from here, and not by gRPC, a stream that is ended while a message is on its way still
    tells its caller why.
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
    "as many calls run here as may; try another provider",
    (SHED_METADATA,),
)
# Without a mark, as from a node that is gone: callers leave it alone from then on.
_CLOSED = (grpc.StatusCode.UNAVAILABLE, "this node is leaving; try another provider", ())


def _turning_away(why: tuple[Any, ...]) -> grpc.RpcMethodHandler[Any, Any]:
    async def turn_away(_: AsyncIterator[Any], context: Any) -> None:
        await context.abort(*why)

    # On the wire all kinds of calls are alike, and one of this kind waits for no request.
    return grpc.stream_stream_rpc_method_handler(turn_away)


_TURNING_AWAY = {
    AdmissionRefused.FULL: _turning_away(_FULL),
    AdmissionRefused.CLOSED: _turning_away(_CLOSED),
}
