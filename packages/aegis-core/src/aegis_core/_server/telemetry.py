"""Which calls of a server are traced, and how their messages are counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aegis_discovery.policy import split_method
from aegis_discovery.signals import CODES, OTHER

from aegis_core._server.call_checks import CallChecks

if TYPE_CHECKING:
    from aegis_discovery.telemetry import HandlerTelemetry, HandlerTrace, OpenTelemetry

_log = logging.getLogger("aegis.telemetry")


def warn_of_no_provider(telemetry: OpenTelemetry | None, node_id: str) -> None:
    """Says so where telemetry is wanted and nothing would be reported."""
    if telemetry is not None and not telemetry.has_provider:
        _log.warning(
            "%s reports nothing to OpenTelemetry yet, since no provider is set in this process; "
            "start it with opentelemetry-instrument, or set one where its service is defined",
            node_id,
        )


def telemetry_of(checks: CallChecks[Any], path: str) -> HandlerTelemetry | None:
    """Returns what traces the calls of a method; None if nothing does.

    The node's own methods are never traced. Methods of services that only a handler of any name
    serves are reported together, since callers may invent them.
    """
    if checks.telemetry is None or not checks.is_limited(path):
        return None
    from aegis_discovery.telemetry import HandlerTelemetry  # it needs an extra

    return HandlerTelemetry(
        checks.telemetry, path if split_method(path)[0] in checks.services else OTHER
    )


def end_trace(trace: HandlerTrace, code: int, details: str | bytes | None) -> None:
    """Ends the trace of a call with its status, as gRPC's contexts tell it."""
    text = details.decode(errors="replace") if isinstance(details, bytes) else details
    trace.end(CODES[code] if code < len(CODES) else "UNKNOWN", text)


def counting(
    serialize: Callable[[Any], bytes] | None, current: Callable[[], HandlerTrace | None]
) -> Callable[[Any], bytes]:
    """Makes a serializer that counts each message as sent by the current call."""

    def count(message: Any) -> bytes:
        data: bytes = message if serialize is None else serialize(message)
        trace = current()
        if trace is not None:
            trace.sent(len(data))
        return data

    return count


def counting_received(
    parse: Callable[[bytes], Any] | None, current: Callable[[], HandlerTrace | None]
) -> Callable[[bytes], Any]:
    """Makes a deserializer that counts each message as received by the current call."""

    def count(data: bytes) -> Any:
        trace = current()
        if trace is not None:
            trace.received(len(data))
        return data if parse is None else parse(data)

    return count
