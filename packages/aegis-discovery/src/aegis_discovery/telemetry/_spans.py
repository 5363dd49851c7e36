"""What the spans and metrics of both sides have in common."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from opentelemetry.trace import Span, Status, StatusCode

from aegis_discovery.signals import LogLimiter

P = ParamSpec("P")
T = TypeVar("T")

MAX_DETAILS = 256
"""Characters of the details of a status, which a peer wrote, that a span takes."""

_log = logging.getLogger("aegis.telemetry")
_limiter = LogLimiter(_log)
_OK = Status(StatusCode.OK)


def quietly(function: Callable[P, T]) -> Callable[P, T | None]:
    """Makes a function return None where it fails: what observes a call must never break it."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - of a span processor, sampler or propagator
            line = "OpenTelemetry failed, and the call goes on without it: %r"
            _limiter.warn(function.__qualname__, type(error).__name__, line, error)
            return None

    return run


def span_name(kind: str, method: str) -> str:
    """Returns the name of a span as A72 has it, such as `Sent.greeter.v1.Greeter.SayHello`."""
    return f"{kind}.{method.replace('/', '.')}"


def end_span(span: Span, code: str, details: str | None) -> None:
    """Ends a span with the status of a call: the name of its code, and its details."""
    if code == "OK":
        span.set_status(_OK)
    else:
        said = f", {details[:MAX_DETAILS]}" if details else ""
        span.set_status(Status(StatusCode.ERROR, f"{code}{said}"))
    span.end()


class Messages:
    """Counts the messages of one direction of a call, and notes each in its span.

    Args:
        event: The name of the event.
    """

    __slots__ = ("_count", "_event", "bytes")

    def __init__(self, event: str) -> None:
        self.bytes = 0
        self._count = 0
        self._event = event

    def add(self, span: Span, size: int) -> None:
        self.bytes += size
        if span.is_recording():
            span.add_event(self._event, {"sequence-number": self._count, "message-size": size})
            self._count += 1
