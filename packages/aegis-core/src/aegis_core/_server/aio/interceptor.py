"""Runs before every handler: refuses or denies callers, and sheds calls above the limit."""

from __future__ import annotations

import asyncio
import inspect
from asyncio import current_task
from collections.abc import Awaitable, Callable
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc
from aegis_discovery.background import sleep_until_tick

from aegis_core._server import call_checks
from aegis_core._server.admission import MANY, PendingCalls
from aegis_core._server.aio.handlers import (
    CheckedHandler,
    as_coroutine,
    number_of,
    reject,
    rejecting_by,
)
from aegis_core._server.aio.inflows import counting, current_inflow
from aegis_core._server.aio.lost_callers import LostCaller, lost_callers_of, on_lost_caller
from aegis_core._server.aio.request_turns import hold, read_request, release_when_done
from aegis_core._server.aio.thread_pool import HandlerThreads, ThreadContext
from aegis_core._server.aio.traced import traced
from aegis_core._server.aio.unary import checked_unary
from aegis_core._server.aio.whole_reads import WholeReadsContext, messages
from aegis_core._server.base import CheckedServices, kind_of
from aegis_core._server.call_checks import ENTRY, CallChecks
from aegis_core._server.held.running_requests import LARGE
from aegis_core._server.held.unseen_calls import SEEN_MASK
from aegis_core._server.held.unsent_answers import SMALL
from aegis_core._server.rejections import (
    CANCELLED,
    NOT_ADMITTED,
    SLOW_REQUEST,
    STOPPED,
    UNFINISHED,
    UNKNOWN,
    CallRejectedError,
    Rejection,
)
from aegis_core._server.telemetry import end_trace, telemetry_of

if TYPE_CHECKING:
    from aegis_discovery.telemetry import HandlerTelemetry


class CallerInterceptor(CheckedServices, grpc.aio.ServerInterceptor):
    """Checks every call before its handler runs, and streams while they are open.

    It is either the handler of all services, or, with interceptors of the user's, the first one.

    Args:
        checks: Judge the calls.
        threads: Run handlers that are not coroutines.
    """

    def __init__(self, checks: CallChecks[asyncio.Task[Any]], threads: HandlerThreads) -> None:
        super().__init__(self)
        lost_callers_of.add(self)
        self._checks = checks
        self._threads = threads
        self._handlers: dict[str, CheckedHandler] = {}
        self.end_reasons: dict[asyncio.Task[Any], Rejection] = {}
        self._admission = checks.admission
        self._max_headers = checks.max_headers
        self._unseen = checks.unseen
        self._pending = self._admission.waiting
        self._own_pending = PendingCalls[asyncio.Task[Any]]()
        checks.reads.unjudged = self._pending
        checks.unfinished.unjudged = lambda: len(self._pending) + len(self._own_pending)
        self._held, self._busy = checks.answers.full, checks.reads.running.busy
        self._unknown = rejecting_by(checks.reject_unknown_method)
        self._long_headers = rejecting_by(checks.reject_long_headers)

    async def revalidate_callers(self) -> None:
        """Ends open streams of callers that are not allowed any more; runs until cancelled."""
        while True:
            await sleep_until_tick(call_checks.REVALIDATION_INTERVAL)
            for task in self._checks.reads.overstayed():
                self.end_call(task, SLOW_REQUEST)
            for task, reason in self._checks.disallowed(self.end_reasons):
                # Again at each check: a handler may have caught the last cancellation.
                self.end_call(task, reason)

    async def end_calls(self, timeout: float) -> None:
        """Ends all calls as UNAVAILABLE and waits for that. Threads continue, without a caller."""
        tasks = {*self._checks.streams, *self._checks.admission.running}
        for task in tasks:
            self.end_call(task, STOPPED)
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

    def end_call(self, task: asyncio.Task[Any], reason: Rejection) -> None:
        """Ends a call with a status."""
        if task.done():
            return
        self.end_reasons[task] = reason
        task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        known = self.with_checks(handler_call_details.method, handler)
        return self.service(handler_call_details, known)

    def with_checks(self, path: str, handler: Any) -> CheckedHandler | None:
        """Returns a handler with the checks before it; None if there is no such method."""
        if handler is None:
            return None
        known = self._handlers.get(path)
        if known is None or known.handler is not handler:
            known = self._add_checks(path, handler)
        return known

    def service(
        self, handler_call_details: grpc.HandlerCallDetails, known: CheckedHandler | None = None
    ) -> Any:
        """Returns what serves a call that arrived; to be called in the task that serves it."""
        if known is None:
            known = self._fixed.get(handler_call_details.method) or self._find(handler_call_details)
        unseen = self._unseen
        unseen.seen = seen = unseen.seen + 1
        if not seen & SEEN_MASK:
            unseen.look()
        metadata = handler_call_details.invocation_metadata
        if sum(map(len, chain(*metadata)), ENTRY * len(metadata)) > self._max_headers:
            return self._long_headers
        if known is None:
            return self._unknown
        if known.is_limited:
            admission = self._admission
            if admission.may_refuse:
                refused = admission.arrive()
                if refused is not None:
                    return _REJECTING[refused]
            else:
                admission.arrived += 1  # as `arrive` does, without its frame
        pending = known.pending
        pending.add(current_task())  # type: ignore[arg-type]  # a call is served in a task
        if self._busy or self._held:
            return known.early
        if len(pending) > MANY or pending.crowded_until:
            return self._early_or_not(known)
        return known.checked

    serve = service

    def _early_or_not(self, known: CheckedHandler) -> Any:
        if len(known.pending) > MANY:
            known.pending.prune()
        return known.early if known.pending.is_crowded else known.checked

    def _add_checks(self, path: str, handler: Any) -> CheckedHandler:
        kind = kind_of(handler)
        inner = getattr(handler, kind)
        on_thread = False
        if inspect.isasyncgenfunction(inner):
            inner = as_coroutine(inner)
        elif not inspect.iscoroutinefunction(inner):
            on_thread = True
            inner = self._threads.as_coroutine(
                inner, handler.request_streaming, handler.response_streaming
            )
        is_limited = self._checks.is_limited(path)
        parse, serialize = handler.request_deserializer, handler.response_serializer
        reads_one, streams = not handler.request_streaming, kind != "unary_unary"
        telemetry = telemetry_of(self._checks, path)
        if telemetry is not None:
            parse, serialize, inner = traced(handler, inner)
        if not handler.response_streaming:
            serialize = self._counted(serialize)

        def present(kind: str, *, is_early: bool) -> Any:
            return getattr(grpc, f"{kind}_rpc_method_handler")(
                self._checked(
                    inner,
                    path,
                    is_limited=is_limited,
                    streams=streams,
                    on_thread=on_thread,
                    has_answer=not handler.response_streaming,
                    reads_one=reads_one,
                    parse=parse if reads_one else None,
                    is_early=is_early,
                    telemetry=telemetry,
                ),
                # The caller of one request is judged before the request is parsed.
                None if reads_one else counting(parse),
                serialize,
            )

        edges = self._checks.edges_of(path)
        if kind == "unary_unary" and edges is not None and telemetry is None and not on_thread:
            unary = checked_unary(
                inner,
                path,
                self._checks,
                edges,
                self,
                parse=parse,
                serialize=handler.response_serializer,
            )
            checked: Any = grpc.unary_unary_rpc_method_handler(unary)
        else:
            checked = present(kind, is_early=False)
        early = checked
        if reads_one:
            early = present(kind.replace("unary", "stream", 1), is_early=True)
        if len(self._handlers) >= call_checks.MAX_METHODS:
            self._handlers.clear()
        known = self._handlers[path] = CheckedHandler(
            handler, checked, early, is_limited, self._pending if is_limited else self._own_pending
        )
        return known

    def _checked(
        self,
        inner: Any,
        method: str,
        *,
        is_limited: bool,
        streams: bool,
        on_thread: bool,
        has_answer: bool,
        reads_one: bool,
        parse: Callable[[bytes], Any] | None,
        is_early: bool,
        telemetry: HandlerTelemetry | None,
    ) -> Any:
        checks, end_reasons, path = self._checks, self.end_reasons, self._checks.policy_path(method)
        accept, admission = checks.acceptor(method), checks.admission
        end, no_longer_runs = admission.end, admission.running.discard
        release, abused, lost_caller = checks.callers.leave, checks.abused, on_lost_caller
        leave_when_done = checks.callers.leave_when_done
        own_pending, open_streams = self._own_pending, checks.streams
        unfinished, reads = checks.unfinished, checks.reads
        edges = checks.edges_of(method)
        may_be_ended = streams or is_early  # a unary call that runs may finish, whoever calls

        async def checked(request: Any, context: Any) -> Any:
            task = current_task()
            assert task is not None  # noqa: S101 - a handler runs in a task
            handler_context = ThreadContext(context, task) if on_thread else context
            if not is_limited:
                own_pending.discard(task)
            # Checked here and not in a coroutine of its own: each frame of a call costs time.
            try:
                caller = accept(handler_context, path, task if is_limited else None)
            except CallRejectedError as error:
                if reads_one and not is_early:
                    unfinished.note_request("", context.peer, len(request))
                if edges is not None:
                    checks.count_rejected(edges, error)
                if telemetry is not None:
                    telemetry.rejected(error.rejection.code)
                await self.reject_caller(context, error)
                raise
            caller_id = caller.node_id
            code = UNKNOWN  # unless the handler says so, or aborts
            if edges is not None:
                edge, began = edges[caller_id], monotonic()
                edge.started += 1
            trace = None
            if telemetry is not None:
                trace = telemetry.begin(caller_id, context.invocation_metadata())
            if may_be_ended:
                open_streams[task] = caller, path
            inflow, is_large = None, False
            try:
                if trace is not None:
                    trace.attach()  # this task serves nothing else
                if reads_one:
                    if is_early:
                        note = unfinished.note_request
                        request = await read_request(reads, note, context, caller_id, path, task)
                        is_large = len(request) >= LARGE
                        if not streams:
                            open_streams.pop(task, None)
                    else:
                        unfinished.note_request(caller_id, context.peer, len(request))
                        if is_large := len(request) >= LARGE:
                            # What is parsed is held by gRPC, too.
                            size = len(request) if parse is None else 2 * len(request)
                            await hold(reads, context, caller_id, path, task, size)
                else:
                    inflow = unfinished.open(task, caller_id, context.peer())
                    if inflow is None:
                        checks.refuse_unfinished(caller_id, context)
                        await reject(context, UNFINISHED)
                    current_inflow.set(inflow)
                    if on_thread:
                        handler_context.inflow = inflow
                    else:
                        request, handler_context = messages(context), WholeReadsContext(context)
                if parse is not None:
                    try:
                        request = parse(request)
                    except Exception as error:  # noqa: BLE001 - it cannot be read, whatever it is
                        request = None  # it may be large, and the caller slow
                        await reject(context, checks.unreadable(caller, method, error))
                lost_caller.set((abused, caller_id))
                answer = await inner(request, handler_context)
                code = 0
                return answer
            except asyncio.CancelledError as error:
                code = CANCELLED
                if task not in end_reasons:
                    abused(caller_id)
                # gRPC keeps the error of its abort, and that would keep the handler's messages.
                error.__traceback__ = None
                await self.explain(task, context)
                raise
            finally:
                if has_answer and code == 0:
                    leave_when_done(task, caller_id)
                else:
                    release(caller_id)
                if inflow is not None:
                    unfinished.close(inflow)
                if edges is not None:
                    set_by_handler = context.code()
                    if set_by_handler:
                        code = number_of(set_by_handler)
                    edge.ended(code, monotonic() - began)
                if trace is not None:
                    end_trace(trace, code, context.details())
                open_streams.pop(task, None)
                end_reasons.pop(task, None)
                if is_large:
                    on_done = handler_context.on_thread_done if on_thread else None
                    release_when_done(reads, caller_id, on_done, task)
                if on_thread:
                    handler_context.on_thread_done(end)
                elif is_limited:
                    no_longer_runs(task)

        return checked

    def _counted(self, serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
        """Counts answers until they are sent, in the task that does it."""

        def counted(answer: Any) -> bytes:
            data: bytes = answer if serialize is None else serialize(answer)
            size = len(data or b"")  # what a handler returned that set a status may be None
            if size >= SMALL:
                lost, task = on_lost_caller.get(), current_task()
                if lost is not None and task is not None:
                    self.hold_answer(task, lost[1], size)
            return data

        return counted

    def lost_caller_of(self, task: asyncio.Task[Any]) -> LostCaller | None:
        """Returns who made a call that was just answered."""
        answered = self._checks.callers.answered
        caller_id = next((caller for call, caller in answered if call is task), None)
        return None if caller_id is None else (self._checks.abused, caller_id)

    def hold_answer(self, task: asyncio.Task[Any], caller_id: str, size: int) -> None:
        """Counts an answer until it is sent, or dropped with its call."""
        answers = self._checks.answers
        answers.add(caller_id, size)
        task.add_done_callback(lambda _: answers.remove(caller_id, size))

    async def reject_caller(self, context: Any, error: CallRejectedError) -> None:
        try:
            await reject(context, error.rejection)
        except (asyncio.CancelledError, grpc.aio.InternalError):
            if error.source is not None:
                self._checks.abused(error.source)
            raise

    async def explain(self, task: asyncio.Task[Any], context: Any) -> None:
        """Sends the caller the reason why its call was ended, if this node ended it."""
        reason = self.end_reasons.get(task)
        if reason is None:
            return
        # So that the next check does not cancel the abort.
        self._checks.streams.pop(task, None)
        while task.uncancel():
            pass
        await reject(context, reason)


_REJECTING = {
    refused: rejecting_by(rejection.always) for refused, rejection in NOT_ADMITTED.items()
}
