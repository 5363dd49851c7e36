"""Chooses what serves a call: a handler with its checks, or a rejection."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grpc
from aegis_discovery.background import sleep_until_tick

from aegis_core._server import call_checks
from aegis_core._server.call_checks import CallChecks
from aegis_core._server.rejections import NOT_ADMITTED, SLOW_REQUEST, STOPPED
from aegis_core._server.sync.calls import ServerCall
from aegis_core._server.sync.coroutines import CoroutineHandlers
from aegis_core._server.sync.handlers import present, rejecting
from aegis_core._server.sync.threads import CallThreads


class _CheckedHandler(NamedTuple):
    """A handler, and the same handler with the checks before it."""

    handler: Any
    checked: grpc.RpcMethodHandler[Any, Any]


class CallerInterceptor(grpc.ServerInterceptor):
    """Runs on gRPC's serving thread when a call arrives, before its request does.

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
        own: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
    ) -> None:
        self._checks = checks
        self._threads = threads
        self._coroutines = coroutines
        self._own = own
        self._handlers: dict[str, _CheckedHandler] = {}
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
        if self._checks.has_long_headers(handler_call_details.invocation_metadata):
            return self._long_headers
        path: str = handler_call_details.method
        own = self._own.get(path)
        if own is not None:
            return own
        handler = continuation(handler_call_details)
        if handler is None:
            return self._unknown
        known = self._handlers.get(path)
        if known is None or known.handler is not handler:
            known = self._add_checks(path, handler)
        refused = self._checks.admission.arrive()
        return known.checked if refused is None else _REJECTING[refused]

    def _add_checks(self, path: str, handler: Any) -> _CheckedHandler:
        checked = present(self._coroutines.as_blocking(handler), path, self._threads)
        if len(self._handlers) >= call_checks.MAX_METHODS:
            self._handlers.clear()
        known = self._handlers[path] = _CheckedHandler(handler, checked)
        return known


_REJECTING = {refused: rejecting(rejection.always) for refused, rejection in NOT_ADMITTED.items()}
