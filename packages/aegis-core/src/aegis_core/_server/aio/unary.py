"""Serves most calls: of the user's services, one request and one answer, by a coroutine, untraced.

What `interceptor` does for calls of all kinds, in as few steps as are needed for these. Between two
calls a processor's caches forget all of it, so what a call touches costs more than what it does.
"""

from __future__ import annotations

import asyncio
from asyncio import current_task
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from time import monotonic
from typing import Any, Protocol

from aegis_discovery.signals import FOLD_MASK, Edge, PeerEdges

from aegis_core._access.caller import CERTIFICATE, NOTHING, TLS_VERSION
from aegis_core._server.aio.handlers import number_of, reject
from aegis_core._server.aio.lost_callers import on_lost_caller
from aegis_core._server.aio.request_turns import hold, release_when_done
from aegis_core._server.call_checks import CallChecks
from aegis_core._server.held.running_requests import LARGE
from aegis_core._server.held.unsent_answers import SMALL
from aegis_core._server.rejections import (
    CANCELLED,
    UNKNOWN,
    CallRejectedError,
    Rejection,
)


class Rejecting(Protocol):
    """What ends calls with a status; each coroutine raises an error."""

    end_reasons: dict[asyncio.Task[Any], Rejection]

    async def reject_caller(self, context: Any, error: CallRejectedError) -> None: ...

    async def explain(self, task: asyncio.Task[Any], context: Any) -> None: ...

    def hold_answer(self, task: asyncio.Task[Any], caller_id: str, size: int) -> None: ...


class _Known(partial[Awaitable[Any]]):
    """A coroutine function that gRPC takes for one in fewer steps.

    At each call it looks for `__await__` before it asks `inspect` whether it is such a function.
    """

    def __await__(self) -> Generator[Any, None, Any]:
        raise TypeError("only what it returns can be awaited")


def checked_unary(
    inner: Callable[[Any, Any], Awaitable[Any]],
    method: str,
    checks: CallChecks[asyncio.Task[Any]],
    edges: PeerEdges,
    rejecting: Rejecting,
    *,
    parse: Callable[[bytes], Any] | None,
    serialize: Callable[[Any], bytes] | None,
) -> Callable[[bytes, Any], Awaitable[Any]]:
    """Returns a handler of bytes that checks the caller, and then does the work of a handler.

    Args:
        inner: The coroutine function of that handler.
        method: The method.
        checks: Judge the calls.
        edges: Counts the calls, by caller.
        rejecting: Ends calls with a status.
        parse: Parses the request; None for requests that are bytes.
        serialize: Makes bytes of the answer; None for answers that are bytes.
    """
    path = checks.policy_path(method)
    accept, abused, verifier = checks.accept, checks.abused, checks.verifier
    admission, callers, unfinished = checks.admission, checks.callers, checks.unfinished
    reads, copies = checks.reads, 1 if parse is None else 2  # gRPC holds what is parsed
    connections, has_limit = checks.connections, checks.admission.limit is not None
    blocked, reads_nothing, open_calls = callers.blocked, checks.answers.full, callers.open
    running, waiting, answered = admission.running, admission.waiting, callers.answered
    end_reasons = rejecting.end_reasons

    async def fail(
        error: BaseException,
        task: asyncio.Task[Any],
        context: Any,
        caller_id: str,
        edge: Edge,
        began: float,
    ) -> None:
        """Ends a call whose handler raised an error, or that was cancelled."""
        on_lost_caller.set((abused, caller_id))
        code = UNKNOWN  # unless the handler says so, or aborts
        try:
            if isinstance(error, asyncio.CancelledError):
                code = CANCELLED
                if task not in end_reasons:
                    abused(caller_id)
                await rejecting.explain(task, context)
        finally:
            callers.leave(caller_id)
            edge.ended(number_of(context.code()) or code, monotonic() - began)
            end_reasons.pop(task, None)
            running.discard(task)

    async def checked(request: Any, context: Any) -> Any:
        task: asyncio.Task[Any] = current_task()  # type: ignore[assignment]  # it runs in one
        auth = context.auth_context()
        try:
            caller = verifier.allowed.get(
                (auth[CERTIFICATE][0], auth.get(TLS_VERSION, NOTHING)[0], path)
            )
        except LookupError:
            caller = None
        if (
            caller is None
            or blocked
            or reads_nothing
            or has_limit
            or checks.is_joining
            or connections.is_watching
            or verifier.clock() >= caller.not_after
            or (opened := open_calls[caller.node_id]) >= callers.max_calls
        ):
            try:
                caller = accept(context, path, task, auth)
            except CallRejectedError as error:
                unfinished.note_request("", context.peer, len(request))
                checks.count_rejected(edges, error)
                await rejecting.reject_caller(context, error)
                raise
            caller_id = caller.node_id
        else:  # what `accept` does for the others
            caller_id = caller.node_id
            open_calls[caller_id] = opened + 1
            running.add(task)
            waiting.discard(task)
            admission.begun += 1
        edge: Edge = edges[caller_id]
        edge.started = started = edge.started + 1
        if not started & FOLD_MASK:
            edge.fold()
        began = monotonic()
        try:
            if unfinished.is_counting:
                unfinished.note_request(caller_id, context.peer, len(request))
            if len(request) >= LARGE:
                await hold(reads, context, caller_id, path, task, copies * len(request))
                release_when_done(reads, caller_id, None, task)
            if parse is not None:
                try:
                    request = parse(request)
                except Exception as error:  # noqa: BLE001 - it cannot be read, whatever it is
                    await reject(context, checks.unreadable(caller, method, error))
            answer = await inner(request, context)
            code = context.code()
            if code:
                code = number_of(code)
            if not code:  # else gRPC sends the status alone
                if serialize is not None:
                    answer = serialize(answer)
                if answer and len(answer) >= SMALL:
                    rejecting.hold_answer(task, caller_id, len(answer))
        except BaseException as error:
            await fail(error, task, context, caller_id, edge, began)
            raise
        if code:
            edge.ended(code, monotonic() - began)
        else:
            edge.pending.append(monotonic() - began)
        answered.append((task, caller_id))
        if len(answered) > callers.sweep_above:
            callers.sweep()
        if end_reasons:
            end_reasons.pop(task, None)
        running.discard(task)
        return answer

    return _Known(checked)
