"""Async multi-callables whose calls are reported to OpenTelemetry."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from aegis_discovery._calls.aio.call import RetriedCall
from aegis_discovery._calls.aio.ended import settle, status_of
from aegis_discovery._calls.aio.no_providers import NoProvidersCall
from aegis_discovery._calls.traced import (
    AttemptCallable,
    TracedStub,
    begin_call,
    settle_failed,
)

_SINGLE_ANSWER = (grpc.aio.UnaryUnaryCall, grpc.aio.StreamUnaryCall)


class _Attempts(AttemptCallable):
    """The attempts of calls of any kind."""

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        trace, method, metadata = self.begin(metadata)
        try:
            call = method(
                request,
                timeout=timeout,
                metadata=metadata,
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )
        except BaseException as error:
            if trace is not None:
                trace.end("UNKNOWN", type(error).__name__)
            raise
        if trace is not None:
            call.add_done_callback(functools.partial(self._ended, trace))
        return call

    def _ended(self, trace: Any, call: Any) -> None:
        status = status_of(call)
        if status[0] is grpc.StatusCode.OK and isinstance(call, _SINGLE_ANSWER):
            # gRPC deserializes the answer of an ended call next, in the same step of the loop, and
            # then gives it to the caller.
            asyncio.get_running_loop().call_soon(self.end, trace, *status)
        else:
            self.end(trace, *status)


def _call(base: Callable[..., Any], *, once: bool) -> Callable[..., Any]:
    @functools.wraps(base)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        trace, args, kwargs = begin_call(self, args, kwargs, once=once)
        if trace is None:
            return base(self, *args, **kwargs)
        try:
            started = base(self, *args, **kwargs)
        except BaseException as error:
            settle_failed(trace, error)
            raise
        if isinstance(started, NoProvidersCall):
            settle(trace, started)
        elif not isinstance(started, RetriedCall):  # which settles it
            trace.settle()
        return started

    return call


@functools.cache
def traced(base: Any, kind: str) -> type[TracedStub]:
    """Returns the class of a balanced multi-callable whose calls are traced."""
    method = _call(getattr(base, "__call__"), once=kind.startswith("stream"))  # noqa: B004, B009
    methods = {"__call__": method, "attempts": _Attempts}
    return type(f"Traced{base.__name__}", (TracedStub, base), methods)


@functools.cache
def borrowed(kind: str) -> type[AttemptCallable]:
    """Returns the class of the multi-callable of one provider whose calls are traced."""
    method = _call(_Attempts.__call__, once=kind.startswith("stream"))
    return type("BorrowedAttempts", (_Attempts,), {"__call__": method})
