"""How async calls end: their results, and the counts of those that are never retried."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from time import monotonic
from typing import Any

import grpc
import grpc.aio

from aegis_discovery._calls.attempt import AttemptResult, attempt_result
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.router import Router
from aegis_discovery._runtime.edges import Edge

UNKNOWN: int = grpc.StatusCode.UNKNOWN.value[0]
CANCELLED: int = grpc.StatusCode.CANCELLED.value[0]

_log = logging.getLogger("aegis.pool")


def track(
    call: Any,
    router: Router[grpc.aio.Channel],
    endpoint: Endpoint[grpc.aio.Channel],
    edge: Edge,
) -> Any:
    """Counts a call that streams as under way, and records how it ends."""
    token = object()  # a reference to the call itself would keep it alive after it was dropped
    endpoint.streaming.add(token)
    edge.started += 1
    began = monotonic()

    def ended(call: Any) -> None:
        endpoint.streaming.discard(token)
        edge.ended(number_of(call), monotonic() - began)
        try:
            result = result_of(call, streams=True)
            if result.code is not grpc.StatusCode.OK:
                router.record(endpoint, result, monotonic())
            elif endpoint.has_failed:
                endpoint.call_succeeded()
        except Exception:  # noqa: BLE001 - an interceptor's own error, which the caller gets
            _log.debug("the result of %r is not known", call, exc_info=True)

    call.add_done_callback(ended)
    return call


def result_of(call: Any, *, answered: bool = False, streams: bool = False) -> AttemptResult:
    """Returns the result of an ended call."""
    code = _now(call.code())
    if code is grpc.StatusCode.OK:
        return AttemptResult(code, True, ())
    return attempt_result(
        code,
        _now(call.details()),
        _now(call.trailing_metadata()),
        answered=answered or bool(_now(call.initial_metadata())),
        streams=streams,
    )


def status_of(call: Any) -> tuple[grpc.StatusCode, str | None, Any]:
    """Returns the code, the details and the trailing metadata of an ended call."""
    try:
        return _now(call.code()), _now(call.details()), _now(call.trailing_metadata())
    except Exception as error:  # noqa: BLE001 - an interceptor's own error, which the caller gets
        return grpc.StatusCode.UNKNOWN, type(error).__name__, ()


def settle(trace: Any, call: Any) -> None:
    """Ends the trace of a call with the status of its final attempt, or of the pause after it."""
    code, details, _ = status_of(call)
    trace.settle(code.name, details)


def number_of(call: Any) -> int:
    """Returns the number of the status of an ended call."""
    try:
        number: int = _now(call.code()).value[0]
    except Exception:  # noqa: BLE001 - an interceptor's own error, which the caller gets
        return UNKNOWN
    return number


def _now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("an ended call waited for something")
