"""What the server's side reports: a span and metrics of each call."""

from __future__ import annotations

from contextvars import ContextVar, Token
from time import perf_counter
from typing import Any

from opentelemetry import context as contexts
from opentelemetry.trace import SpanKind, set_span_in_context

from aegis_discovery.telemetry._opentelemetry import OpenTelemetry
from aegis_discovery.telemetry._propagation import Metadata, context_from
from aegis_discovery.telemetry._spans import Messages, end_span, quietly, span_name

current_handler: ContextVar[HandlerTrace | None] = ContextVar("current_handler", default=None)
"""The call that a coroutine, or a thread that works for one, serves."""


class HandlerTelemetry:
    """Reports the calls of a server to one method.

    Args:
        telemetry: Where it reports them.
        path: The full method, or a name for all that are not known.
    """

    def __init__(self, telemetry: OpenTelemetry, path: str) -> None:
        method = path.removeprefix("/")
        self.tracer = telemetry.tracer
        self.instruments = telemetry.instruments
        self.name = span_name("Recv", method)
        self.attributes = {"grpc.method": method}
        self._by_status: dict[str, dict[str, str]] = {}

    def with_status(self, code: str) -> dict[str, str]:
        """Returns the attributes of metrics of a call that ended so."""
        found = self._by_status.get(code)
        if found is None:
            found = self._by_status[code] = {**self.attributes, "grpc.status": code}
        return found

    @quietly
    def begin(self, caller_id: str, metadata: Metadata) -> HandlerTrace:
        """Begins a call that was accepted.

        Args:
            caller_id: Who calls, as the certificate says.
            metadata: What the caller sent.
        """
        return HandlerTrace(self, caller_id, metadata)

    @quietly
    def rejected(self, code: str) -> None:
        """Counts a call that was not accepted, with the name of its status."""
        self.instruments.server_started.add(1, self.attributes)
        self.instruments.server_duration.record(0.0, self.with_status(code))


class HandlerTrace:
    """One call, while its handler runs.

    Args:
        method: Reports the calls of its method.
        caller_id: Who calls.
        metadata: What the caller sent.
    """

    def __init__(self, method: HandlerTelemetry, caller_id: str, metadata: Metadata) -> None:
        self._method = method
        self._began = perf_counter()
        self._sent, self._received = Messages("Outbound message"), Messages("Inbound message")
        parent = context_from(metadata)
        self._span = method.tracer.start_span(
            method.name, parent, SpanKind.SERVER, {"aegis.caller": caller_id}
        )
        self._context = set_span_in_context(self._span, parent)
        method.instruments.server_started.add(1, method.attributes, self._context)

    def attach(self) -> tuple[Token[Any], Token[Any]]:
        """Makes this the current call, of a task or a thread; returns what `detach` needs."""
        return contexts.attach(self._context), current_handler.set(self)

    def detach(self, tokens: tuple[Token[Any], Token[Any]]) -> None:
        """Undoes `attach`, in the same task or thread."""
        contexts.detach(tokens[0])
        current_handler.reset(tokens[1])

    @quietly
    def sent(self, size: int) -> None:
        """Counts a response of so many bytes."""
        self._sent.add(self._span, size)

    @quietly
    def received(self, size: int) -> None:
        """Counts a request of so many bytes."""
        self._received.add(self._span, size)

    @quietly
    def end(self, code: str, details: str | None = None) -> None:
        """Ends the call, with the name of its status and its details."""
        instruments, context = self._method.instruments, self._context
        attributes = self._method.with_status(code)
        instruments.server_duration.record(perf_counter() - self._began, attributes, context)
        instruments.server_sent.record(self._sent.bytes, attributes, context)
        instruments.server_received.record(self._received.bytes, attributes, context)
        end_span(self._span, code, details)
