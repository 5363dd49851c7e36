"""Chooses what serves a call: a handler with its checks, or a rejection."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import grpc
from aegis_discovery.background import sleep_until_tick

from aegis_core._server import call_checks
from aegis_core._server.call_checks import ENTRY, CallChecks
from aegis_core._server.held.unseen_calls import SEEN_MASK
from aegis_core._server.rejections import NOT_ADMITTED, SLOW_REQUEST, STOPPED
from aegis_core._server.sync.calls import ServerCall
from aegis_core._server.sync.coroutines import CoroutineHandlers
from aegis_core._server.sync.handlers import present, rejecting
from aegis_core._server.sync.threads import CallThreads


class CheckedHandler:
    """A handler, and the same handler with the checks before it.

    Attributes:
        handler: The handler.
        checked: The same with the checks.
        is_limited: Whether it is of the user's services.
    """

    __slots__ = ("checked", "handler", "is_limited")

    def __init__(
        self, handler: Any, checked: grpc.RpcMethodHandler[Any, Any], *, is_limited: bool = True
    ) -> None:
        self.handler = handler
        self.checked = checked
        self.is_limited = is_limited


class CallerInterceptor(grpc.ServerInterceptor):
    """Chooses on gRPC's serving thread, when a call arrives, before its request does.

    Args:
        checks: Judge the calls.
        threads: Run the handlers of the user's services.
        coroutines: Run those that are coroutines.
        own: The node's own methods, with their checks. The user's interceptors, and handlers that
            serve any method, are not asked for them.
    """

    def __init__(
        self,
        checks: CallChecks[ServerCall],
        threads: CallThreads,
        coroutines: CoroutineHandlers,
        own: Mapping[str, CheckedHandler],
    ) -> None:
        self._checks = checks
        self._threads = threads
        self._coroutines = coroutines
        self._own = own
        self._handlers: dict[str, CheckedHandler] = {}
        self._admission = checks.admission
        self._max_headers = checks.max_headers
        self._unseen = checks.unseen
        self._unknown = rejecting(checks.reject_unknown_method)
        self._long_headers = rejecting(checks.reject_long_headers)

    async def revalidate_callers(self, *parts: CallThreads) -> None:
        """Ends open streams of callers that are not allowed any more; runs until cancelled.

        Also ends calls of these parts whose requests do not arrive.
        """
        while True:
            await sleep_until_tick(call_checks.REVALIDATION_INTERVAL)
            for part in parts:
                part.end_late_requests(time.monotonic())
            for call in self._checks.reads.overstayed():
                call.end(SLOW_REQUEST)
            for call, reason in self._checks.disallowed(()):
                self._checks.streams.pop(call, None)
                call.end(reason)

    async def end_calls(self, _: float) -> None:
        """Ends all calls as UNAVAILABLE. Threads continue, without a caller."""
        admission = self._checks.admission
        for call in {*self._checks.streams.copy(), *admission.running, *admission.pending}:
            call.end(STOPPED)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        path: str = handler_call_details.method
        known = self._own.get(path) or self.with_checks(path, continuation(handler_call_details))
        return self.serve(handler_call_details, known)

    def with_checks(self, path: str, handler: Any) -> CheckedHandler | None:
        """Returns a handler with the checks before it; None if there is no such method."""
        if handler is None:
            return None
        known = self._handlers.get(path)
        if known is None or known.handler is not handler:
            known = self._add_checks(path, handler)
        return known

    def serve(
        self, handler_call_details: grpc.HandlerCallDetails, known: CheckedHandler | None
    ) -> Any:
        """Returns what serves a call that arrived."""
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
        return known.checked

    def _add_checks(self, path: str, handler: Any) -> CheckedHandler:
        checked = present(self._coroutines.as_blocking(handler), path, self._threads)
        if len(self._handlers) >= call_checks.MAX_METHODS:
            self._handlers.clear()
        known = self._handlers[path] = CheckedHandler(handler, checked)
        return known


_REJECTING = {refused: rejecting(rejection.always) for refused, rejection in NOT_ADMITTED.items()}
