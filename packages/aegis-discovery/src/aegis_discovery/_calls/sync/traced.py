"""Sync multi-callables whose calls are reported to OpenTelemetry."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import grpc

from aegis_discovery._calls.sync.call import RetriedCall
from aegis_discovery._calls.sync.no_providers import NoProvidersRpcError
from aegis_discovery._calls.traced import (
    AttemptCallable,
    TracedStub,
    begin_call,
    settle_failed,
)

_BLOCKING = ("__call__", "with_call")


def _blocking_attempt(how: str) -> Callable[..., Any]:
    """Makes a method that waits for the response."""

    def attempt(
        self: AttemptCallable,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        *others: Any,
        **named: Any,
    ) -> Any:
        trace, method, metadata = self.begin(metadata)
        try:
            response = getattr(method, how)(request, timeout, metadata, *others, **named)
        except BaseException as error:
            if trace is not None:
                _end_failed(self, trace, error)
            raise
        if trace is not None:
            trace.end("OK")
        return response

    return attempt


def _started_attempt(how: str) -> Callable[..., Any]:
    """Makes a method that returns the call."""

    def attempt(
        self: AttemptCallable,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        *others: Any,
        **named: Any,
    ) -> Any:
        trace, method, metadata = self.begin(metadata)
        try:
            call = getattr(method, how)(request, timeout, metadata, *others, **named)
        except BaseException as error:
            if trace is not None:
                _end_failed(self, trace, error)
            raise
        if trace is not None:
            _watch(self, trace, call)
        return call

    return attempt


def _end_failed(callable_: AttemptCallable, trace: Any, error: BaseException) -> None:
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        callable_.end(trace, error.code(), error.details(), error.trailing_metadata())
    else:
        is_cancelled = not isinstance(error, Exception)
        trace.end("CANCELLED" if is_cancelled else "UNKNOWN", type(error).__name__)


def _watch(callable_: AttemptCallable, trace: Any, call: Any) -> None:
    """Ends an attempt when its call ends, without keeping the call alive."""
    if not isinstance(call, grpc.Call):
        trace.end("OK")  # an interceptor's own object, which cannot be watched
        return
    reference: weakref.ref[Any] = weakref.ref(call)

    def ended() -> None:
        call = reference()
        if call is None:
            trace.end("CANCELLED")
        else:
            callable_.end(trace, call.code(), call.details(), call.trailing_metadata())

    if not call.add_callback(ended):
        ended()


class _ResponseAttempts(AttemptCallable):
    """The attempts of calls with one response."""

    __call__ = _blocking_attempt("__call__")
    with_call = _blocking_attempt("with_call")
    future = _started_attempt("future")


class _StreamAttempts(AttemptCallable):
    """The attempts of calls with a stream of responses."""

    __call__ = _started_attempt("__call__")


def _blocking_call(base: Callable[..., Any], *, once: bool) -> Callable[..., Any]:
    @functools.wraps(base)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        trace, args, kwargs = begin_call(self, args, kwargs, once=once)
        if trace is None:
            return base(self, *args, **kwargs)
        try:
            response = base(self, *args, **kwargs)
        except BaseException as error:
            settle_failed(trace, error)
            raise
        trace.settle()
        return response

    return call


def _started_call(base: Callable[..., Any], *, once: bool) -> Callable[..., Any]:
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
        if isinstance(started, NoProvidersRpcError):
            settle_failed(trace, started)
        elif not isinstance(started, RetriedCall):  # which settles it
            trace.settle()
        return started

    return call


def _methods(base: type[Any], kind: str) -> dict[str, Any]:
    """Returns the methods of a multi-callable, with a trace of each call."""
    once = kind.startswith("stream")
    streams = kind.endswith("stream")
    names = ["__call__"] if streams else [*_BLOCKING, "future"]
    return {
        name: (_started_call if streams or name == "future" else _blocking_call)(
            getattr(base, name), once=once
        )
        for name in names
    }


def _attempts(kind: str) -> type[AttemptCallable]:
    return _StreamAttempts if kind.endswith("stream") else _ResponseAttempts


@functools.cache
def traced(base: Any, kind: str) -> type[TracedStub]:
    """Returns the class of a balanced multi-callable whose calls are traced."""
    methods = {**_methods(base, kind), "attempts": _attempts(kind)}
    return type(f"Traced{base.__name__}", (TracedStub, base), methods)


@functools.cache
def borrowed(kind: str) -> type[AttemptCallable]:
    """Returns the class of the multi-callable of one provider whose calls are traced."""
    base = _attempts(kind)
    return type(f"Borrowed{base.__name__}", (base,), _methods(base, kind))
