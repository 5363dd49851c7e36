"""What the caller's side reports: a span and metrics of each call, and of each of its attempts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Self

from opentelemetry.trace import SpanKind, set_span_in_context

from aegis_discovery.telemetry._opentelemetry import OpenTelemetry
from aegis_discovery.telemetry._propagation import Metadata, with_context
from aegis_discovery.telemetry._spans import Messages, end_span, quietly, span_name

DROPPED = "the caller dropped the call"


class ServiceTelemetry:
    """Reports the calls of a pool to one service.

    Args:
        telemetry: Where it reports them.
        service: The service, such as `orders/v1`.
        place_of: Returns the region and the zone of a node.
    """

    def __init__(
        self,
        telemetry: OpenTelemetry,
        service: str,
        place_of: Callable[[str], tuple[str, str]],
    ) -> None:
        self.telemetry = telemetry
        self.service = service
        self.place_of = place_of

    def method(self, path: str) -> MethodTelemetry:
        """Returns what reports the calls of one method."""
        return MethodTelemetry(self, path.removeprefix("/"))


class MethodTelemetry:
    """Reports the calls of a pool to one method.

    Args:
        service: Reports the calls to its service.
        method: The full method, without the slash before it.
    """

    def __init__(self, service: ServiceTelemetry, method: str) -> None:
        self.service = service
        self.tracer = service.telemetry.tracer
        self.instruments = service.telemetry.instruments
        self.sent_name = span_name("Sent", method)
        self.attempt_name = span_name("Attempt", method)
        self.attributes = {"grpc.method": method, "grpc.target": f"aegis:///{service.service}"}

    def begin(self, metadata: Iterable[Any] | None, *, waits: bool) -> CallMetadata | None:
        """Begins a call in the context of the caller.

        Args:
            metadata: What the caller sends.
            waits: Whether the call waits for a connection.

        Returns:
            What to give to the call as its metadata; None if the call cannot be reported.
        """
        given = tuple(metadata or ())
        trace = self._begin(waits)
        return None if trace is None else CallMetadata(given, trace)

    @quietly
    def _begin(self, waits: bool) -> CallTrace:
        return CallTrace(self, waits=waits)

    def provider(self, node_id: str) -> Provider:
        """Returns what reports the attempts at one provider."""
        return Provider(self, node_id)


class Provider:
    """The attributes of attempts at one provider.

    Args:
        method: Reports the calls of the method.
        node_id: The node id that the provider must prove.
    """

    def __init__(self, method: MethodTelemetry, node_id: str) -> None:
        region, zone = method.service.place_of(node_id)
        known = bool(region or zone)
        place = f'{{region="{region}", zone="{zone}", sub_zone=""}}' if known else ""
        service = method.service.service
        self._attributes = {
            **method.attributes,
            "grpc.lb.backend_service": service,
            "grpc.lb.locality": place,
        }
        self._by_status: dict[str, dict[str, str]] = {}
        self.of_span = {"aegis.provider": node_id, "grpc.lb.backend_service": service}

    def with_status(self, code: str) -> dict[str, str]:
        """Returns the attributes of metrics of an attempt that ended so."""
        found = self._by_status.get(code)
        if found is None:
            found = self._by_status[code] = {**self._attributes, "grpc.status": code}
        return found


class CallTrace:
    """One call, from its begin until no attempt follows. Any thread may use it.

    Args:
        method: Reports the calls of its method.
        waits: Whether it waits for a connection, so that an attempt that found none does not count.
    """

    def __init__(self, method: MethodTelemetry, *, waits: bool) -> None:
        _report_dropped()
        self.method = method
        self.waits = waits
        self.lock = threading.Lock()
        self._began = perf_counter()
        self._span = method.tracer.start_span(method.sent_name)
        self.context = set_span_in_context(self._span)
        self._running: AttemptTrace | None = None
        self._idle_since: float | None = None
        self._is_unsent = False
        self._retries = 0
        self._transparent_retries = 0
        self._delay = 0.0
        self._status: tuple[str, str | None] | None = None
        self.is_settled = False

    @quietly
    def attempt(self, provider: Provider) -> AttemptTrace:
        """Begins an attempt."""
        with self.lock:
            is_transparent = False
            if self._idle_since is not None:
                self._delay += perf_counter() - self._idle_since
                is_transparent = self._is_unsent
                if is_transparent:
                    self._transparent_retries += 1
                else:
                    self._retries += 1
            attempt = AttemptTrace(
                self, provider, previous=self._retries, is_transparent=is_transparent
            )
            self._running = attempt
        return attempt

    def attempt_ended(self, code: str, details: str | None, *, is_unsent: bool) -> None:
        """Takes the status of the attempt under way, which is that of the call if none follows."""
        with self.lock:
            self._running = None
            self._idle_since = perf_counter()
            self._is_unsent = is_unsent
            if not self.is_settled:
                self._status = code, details
                return
            self._status = self._status or (code, details)
        self._end()

    @quietly
    def settle(self, code: str | None = None, details: str | None = None) -> None:
        """Ends the call, since no attempt follows; only the first such call has an effect.

        Args:
            code: The name of the status of the call, which also ends the attempt under way. None if
                it is that of the last attempt, which may be under way.
            details: The details of the status.
        """
        with self.lock:
            if self.is_settled:
                return
            self.is_settled = True
            running = self._running
            if code is not None:
                self._status = code, details
            elif running is not None:
                self._status = None
                return
        if running is not None:
            running.end(code or "UNKNOWN", details)
        else:
            self._end()

    def drop(self) -> None:
        """Ends the call, since its caller dropped it."""
        with self.lock:
            has_ended = self._running is None and self._status is not None
        if has_ended:
            self.settle()
        else:
            self.settle("CANCELLED", DROPPED)

    def _end(self) -> None:
        instruments, context = self.method.instruments, self.context
        attributes = self.method.attributes
        code, details = self._status or ("UNKNOWN", None)
        instruments.call_duration.record(
            perf_counter() - self._began, {**attributes, "grpc.status": code}, context
        )
        if self._retries:
            instruments.call_retries.record(self._retries, attributes, context)
        if self._transparent_retries:
            count = self._transparent_retries
            instruments.call_transparent_retries.record(count, attributes, context)
        if self._delay:
            instruments.call_retry_delay.record(self._delay, attributes, context)
        end_span(self._span, code, details)


class AttemptTrace:
    """One attempt of a call. Any thread may use it.

    Args:
        call: The call.
        provider: Where it goes.
        previous: How many attempts of the call were made before and count.
        is_transparent: Whether the attempt before it does not count.
    """

    def __init__(
        self, call: CallTrace, provider: Provider, *, previous: int, is_transparent: bool
    ) -> None:
        self._call = call
        self._provider = provider
        self._began = perf_counter()
        self._sent, self._received = Messages("Outbound message"), Messages("Inbound message")
        self._has_ended = False
        method = call.method
        self._span = method.tracer.start_span(
            method.attempt_name,
            call.context,
            SpanKind.CLIENT,
            {
                "previous-rpc-attempts": previous,
                "transparent-retry": is_transparent,
                **provider.of_span,
            },
        )
        self._context = set_span_in_context(self._span, call.context)
        method.instruments.attempt_started.add(1, method.attributes, self._context)

    @property
    def waits(self) -> bool:
        """Whether its call waits for a connection."""
        return self._call.waits

    def metadata(self, metadata: Metadata) -> Metadata:
        """Returns the metadata of the call with the context of this attempt in it."""
        return self._with_context(metadata) or tuple(metadata)

    @quietly
    def _with_context(self, metadata: Metadata) -> Metadata:
        return with_context(metadata, self._context)

    @quietly
    def sent(self, size: int) -> None:
        """Counts a request of so many bytes."""
        self._sent.add(self._span, size)

    @quietly
    def received(self, size: int) -> None:
        """Counts a response of so many bytes."""
        self._received.add(self._span, size)

    @quietly
    def end(self, code: str, details: str | None = None, *, is_unsent: bool = False) -> None:
        """Ends the attempt; only the first such call has an effect.

        Args:
            code: The name of its status.
            details: The details of the status.
            is_unsent: Whether nothing was sent, so that the attempt does not count.
        """
        with self._call.lock:
            if self._has_ended:
                return
            self._has_ended = True
        instruments, context = self._call.method.instruments, self._context
        attributes = self._provider.with_status(code)
        instruments.attempt_duration.record(perf_counter() - self._began, attributes, context)
        instruments.attempt_sent.record(self._sent.bytes, attributes, context)
        instruments.attempt_received.record(self._received.bytes, attributes, context)
        end_span(self._span, code, details)
        self._call.attempt_ended(code, details, is_unsent=is_unsent)
        _report_dropped()


class CallMetadata(tuple[Any, ...]):
    """What a caller sends, with the trace of the call.

    A call, which knows nothing of traces, hands it to each of its attempts. It exists as long as
    the call may begin another attempt, so a call that is dropped before it is settled ends with it.
    """

    trace: CallTrace

    def __new__(cls, metadata: Iterable[Any], trace: CallTrace) -> Self:
        made = super().__new__(cls, metadata)
        made.trace = trace
        return made

    def __del__(self) -> None:
        # Nothing else: the garbage collector may run while a lock of OpenTelemetry is held.
        if not self.trace.is_settled:
            _dropped.put(self.trace)


_dropped: SimpleQueue[CallTrace] = SimpleQueue()


def _report_dropped() -> None:
    while not _dropped.empty():
        _dropped.get().drop()
