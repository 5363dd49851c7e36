"""How sync calls end: their results, and the counts of those that are never retried."""

from __future__ import annotations

import time
import weakref
from typing import Any

import grpc

from aegis_discovery._calls.attempt import AttemptResult, attempt_result, record_success
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.router import Router
from aegis_discovery._runtime.edges import Edge, PeerEdges

UNKNOWN: int = grpc.StatusCode.UNKNOWN.value[0]
_CANCELLED: int = grpc.StatusCode.CANCELLED.value[0]


def result_of(call: Any, *, answered: bool = False, streams: bool = False) -> AttemptResult:
    """Waits for the end of a call, or of the call behind an error, and returns its result."""
    return attempt_result(
        call.code(),
        call.details(),
        call.trailing_metadata(),
        answered=answered or bool(call.initial_metadata()),
        streams=streams,
    )


def number_of(call: Any) -> int:
    """Returns the number of the status of an ended call, or of the call behind an error."""
    number: int = call.code().value[0]
    return number


def count(call: Any, endpoint: Endpoint[grpc.Channel], edge: Edge, *, streams: bool) -> float:
    """Counts a call as under way until it ends; returns when it began."""
    began = time.monotonic()
    token = object()  # the call itself would be kept alive by its own callback
    under_way = endpoint.streaming if streams else endpoint.waiting
    reference = weakref.ref(call)
    edge.started += 1

    def count_end() -> None:
        call = reference()
        edge.ended(_CANCELLED if call is None else number_of(call), time.monotonic() - began)

    def over() -> None:
        try:
            under_way.remove(token)
        except KeyError:  # not added yet, or removed before
            return
        count_end()

    if call.add_callback(over):
        if streams:
            under_way.add(token)
        else:
            endpoint.call_started(began, token)
        if call.done():  # it may have ended meanwhile
            over()
    else:
        count_end()
    return began


def track(
    call: Any,
    router: Router[grpc.Channel],
    endpoint: Endpoint[grpc.Channel],
    edges: PeerEdges,
    *,
    streams: bool,
) -> Any:
    """Records how a call without retries ends, without keeping the call alive."""
    began = count(call, endpoint, edges[endpoint.node_id], streams=streams)
    reference = weakref.ref(call)

    def ended() -> None:
        call = reference()
        if call is None:
            return
        code = call.code()
        if code is grpc.StatusCode.OK:
            record_success(endpoint, began, streams=streams)
            return
        # gRPC's own thread must not ask whether initial metadata arrived: that would block it.
        result = attempt_result(
            code, call.details(), call.trailing_metadata(), answered=False, streams=streams
        )
        router.record(endpoint, result, time.monotonic())

    if not call.add_callback(ended):
        ended()
    return call
