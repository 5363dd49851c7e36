"""One provider at one address, and what our own calls show about its health: pure."""

from __future__ import annotations

import math
import weakref
from bisect import bisect_left
from collections.abc import Container, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from aegis_discovery._runtime.addresses import split_address
from aegis_discovery.errors import InvalidAddressError

if TYPE_CHECKING:
    from aegis_discovery._calls.stats import EndpointState, EndpointStats
    from aegis_discovery._runtime.edges import Edge

ChannelT = TypeVar("ChannelT")

Route: TypeAlias = "tuple[Any, Edge]"
"""A multi-callable of gRPC, and what counts its calls."""

FIRST_BACKOFF = 0.25
"""Seconds before the first probe of an endpoint that was not reached; a restart takes as long."""

FIRST_EJECTION = 1.0
"""Seconds of the first ejection. The endpoint was reached, so it needs longer to recover."""

MAX_BACKOFF = 10.0
"""Both times double up to this many seconds. A probe then also stays open for this long, so that a
frozen provider is back in use as soon as it runs again."""

MAX_FAILURES = 5
"""Consecutive failures that eject an endpoint, as in Envoy and Istio."""

RESPONSE_TIMEOUT = 1.0
"""Seconds without any response, while calls wait for one, that eject an endpoint."""

RESPONSE_TIME_FACTOR = 4.0
"""The timeout is at least this many times the usual response time, so that a service whose calls
take seconds is not taken for a frozen one."""

_AVERAGE_WEIGHT = 0.25
"""The weight of the latest response in the usual time: a few responses settle it."""

FAST_RESPONSE = RESPONSE_TIMEOUT / RESPONSE_TIME_FACTOR
"""Responses faster than this many seconds do not change the timeout, so the usual time is then 0
and needs no update."""

_node_id = attrgetter("node_id")


class OutlierState:
    """Outlier detection for one endpoint, in the spirit of gRFC A50.

    The endpoint is in use, or excluded until a probe or a call is answered. An endpoint is excluded
    if a call did not reach it, if it was ejected because it failed or did not respond, or if it is
    new among others.

    All times are monotonic seconds. Calls change only flags, floats and sets, each in one atomic
    step, so threads need no lock. The sets serve as exact counters.

    Attributes:
        excluded: Whether it gets no calls.
        ejected: Whether it is excluded although calls reach it.
        has_failed: Whether anything went wrong since the last success, so that a success must be
            recorded.
        backoff: Seconds of the present or latest exclusion; 0 after a call was answered.
        waiting: The calls under way that wait for their one response, or a token for each.
        streaming: The same for calls that stream, which may be silent for long.
        response_time: The usual seconds of a response; 0 for fast ones.
        response_timeout: Seconds without any response after which it counts as unresponsive.
        unresponsive_at: The time from which the endpoint counts as unresponsive, if calls wait.
        proven_at: When it answered its latest probe; 0 for never.
    """

    __slots__ = (
        "_abandoned_seconds", "_abandoned_until", "_failures", "_probe_at", "_probing",
        "backoff", "ejected", "excluded", "has_failed", "proven_at",
        "response_time", "response_timeout", "streaming", "unresponsive_at", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.excluded = self.ejected = self.has_failed = False
        self.backoff = 0.0
        self.waiting: set[object] = set()
        self.streaming: set[object] = set()
        self.unresponsive_at = self.proven_at = 0.0
        self._failures = 0
        self._abandoned_seconds = 0.0
        self._abandoned_until = 0.0
        self.response_time = 0.0
        self.response_timeout = RESPONSE_TIMEOUT
        self._probe_at = 0.0
        self._probing = False

    @property
    def under_way(self) -> int:
        """Our own calls to it that have not ended."""
        return len(self.waiting) + len(self.streaming)

    def call_started(self, now: float, call: object) -> None:
        """Adds a call to `waiting`; the caller removes it when the call ends."""
        if not self.waiting:  # without a request there was nothing to respond to
            self.unresponsive_at = now + self.response_timeout
        self.waiting.add(call)

    def call_answered(self, began: float, now: float) -> None:
        """Records the response to a call that began at `began`."""
        self.unresponsive_at = now + RESPONSE_TIMEOUT
        if self.response_time or now - began > FAST_RESPONSE:
            change = (now - began - self.response_time) * _AVERAGE_WEIGHT
            average = self.response_time + change
            self.response_time = average if average > FAST_RESPONSE else 0.0
            self.response_timeout = self.response_time * RESPONSE_TIME_FACTOR or RESPONSE_TIMEOUT
            self.mark_responsive(now)
        if self.has_failed:
            self.call_succeeded()

    def mark_responsive(self, now: float) -> None:
        """Records an answer that shows only that the provider runs."""
        self.unresponsive_at = now + (self.response_time * RESPONSE_TIME_FACTOR or RESPONSE_TIMEOUT)

    def call_succeeded(self) -> None:
        """Returns it to use and clears its history: the provider answered a call."""
        was_excluded = self.excluded
        self.excluded = self.ejected = self.has_failed = False
        self.backoff = 0.0
        self.reset_failures()
        if was_excluded:
            self._use_changed()

    def await_probe(self) -> None:
        """Excludes a new endpoint until a probe, which is due at once, or a call is answered."""
        self.excluded = self.has_failed = True

    @property
    def is_new(self) -> bool:
        """Whether it waits for its first probe, so that nothing is known of it yet."""
        return self.excluded and not self.backoff

    def connection_failed(self, now: float) -> None:
        """Excludes it at once, because a call did not reach the provider."""
        if self.excluded and now < self._probe_at:
            return  # calls that were under way together fail together: that is one failure
        self._exclude(now, FIRST_BACKOFF)

    def call_failed(self) -> bool:
        """Counts a call that failed at the provider; returns whether it is to be ejected."""
        self.has_failed = True
        self._failures += 1
        return self._failures >= MAX_FAILURES and not self.excluded

    def call_abandoned(self, began: float, now: float) -> bool:
        """Counts the time that a caller waited before it gave up; returns whether to eject.

        Without this, callers that give up before the response timeout would call a frozen provider
        for ever. Time that several callers waited at once counts once.
        """
        self.has_failed = True
        self._abandoned_seconds += max(now - max(began, self._abandoned_until), 0.0)
        self._abandoned_until = now
        return self._abandoned_seconds >= self.response_timeout and not self.excluded

    def is_unresponsive(self, now: float) -> bool:
        """Returns whether calls wait and the response timeout has passed."""
        return now >= self.unresponsive_at and bool(self.waiting)

    def eject(self, now: float) -> None:
        self.ejected = True
        self._exclude(now, FIRST_EJECTION)

    def reset_failures(self) -> None:
        """Restarts the counts of failures, where it cannot be ejected."""
        self._failures = 0
        self._abandoned_seconds = 0.0

    @property
    def probe_at(self) -> float:
        """When it is to be probed; infinity while it is in use or a probe runs."""
        return self._probe_at if self.excluded and not self._probing else math.inf

    def claim_probe(self, now: float) -> bool:
        """Returns True if the caller is to probe it now; only one probe runs at a time."""
        if self._probing or (self.excluded and now < self._probe_at):
            return False
        self._probing = True
        return True

    def probe_ended(self, alive: bool, now: float) -> None:
        """Records the result of a probe. Only an answered call resets `backoff` as well."""
        self._probing = False
        if alive:
            self.proven_at = now
        if not self.excluded:
            return
        if alive:
            self.excluded = self.ejected = False
            self.reset_failures()
            self.mark_responsive(now)
            self._use_changed()
        else:
            self._exclude(now, FIRST_BACKOFF)

    def _exclude(self, now: float, first: float) -> None:
        self.backoff = min(max(self.backoff * 2, first), MAX_BACKOFF)
        self._probe_at = now + self.backoff
        self.excluded = self.has_failed = True
        self._use_changed()

    def _use_changed(self) -> None:
        """Called after a change of whether it is in use, or why not."""


class Endpoint(OutlierState, Generic[ChannelT]):
    """One provider at one address: its channel and its outlier state.

    Attributes:
        channel: Set by the pool when the first call goes to the endpoint.
        routes: The channel's multi-callables and the counts of their calls, by the keys of the stub
            callables that use them.
        is_dialable: Whether its address is valid; a node may publish one that is not.
        stats: The last answer of `stats_of`.
    """

    __slots__ = (
        "__weakref__", "_listeners", "address", "channel", "is_dialable", "node_id", "routes",
        "stats",
    )  # fmt: skip

    def __init__(self, node_id: str, address: str) -> None:
        super().__init__()
        self.node_id = node_id
        self.address = address
        self.is_dialable = _is_dialable(address)
        self.channel: ChannelT | None = None
        self.routes: dict[object, Route] = {}
        self.stats: EndpointStats | None = None
        self._listeners: tuple[weakref.ref[Any], ...] = ()

    def __repr__(self) -> str:
        state = f" {self.state} for {self.backoff:g}s" if self.excluded else ""
        return f"<Endpoint {self.node_id} at {self.address}{state}>"

    def add_listener(self, listener: weakref.ref[Any]) -> None:
        """Adds a view, whose `endpoint_changed` is called after each change of use."""
        if self._listeners != (listener,):
            known = (one for one in self._listeners if one is not listener and one() is not None)
            self._listeners = (*known, listener)

    def remove_listener(self, listener: weakref.ref[Any]) -> None:
        self._listeners = tuple(known for known in self._listeners if known is not listener)

    def _use_changed(self) -> None:
        for known in self._listeners:
            listener = known()
            if listener is not None:
                listener.endpoint_changed(self)

    @property
    def state(self) -> EndpointState:
        """Its state as our own calls show it."""
        from aegis_discovery._calls.stats import EndpointState  # many programs never ask

        if not self.excluded:
            return EndpointState.READY
        return EndpointState.EJECTED if self.ejected else EndpointState.UNREACHED


def stats_of(
    endpoints: Iterable[Endpoint[Any]], unwell: Container[str]
) -> tuple[EndpointStats, ...]:
    """Returns the statistics of endpoints: the same object as before for each that did not change.

    Args:
        endpoints: The endpoints.
        unwell: The ids of those that the mesh, or the provider itself, reports as not healthy.
    """
    from aegis_discovery._calls.stats import EndpointState, EndpointStats

    found = []
    for endpoint in endpoints:
        under_way = len(endpoint.waiting) + len(endpoint.streaming)
        state, known = EndpointState.READY, endpoint.stats
        if endpoint.node_id in unwell:
            state = EndpointState.UNWELL
        elif endpoint.excluded:
            state = endpoint.state
        if known is None or known.state is not state or known.under_way != under_way:
            known = EndpointStats(endpoint.node_id, endpoint.address, state, under_way)
            endpoint.stats = known
        found.append(known)
    return tuple(found)


def find(endpoints: Sequence[Endpoint[ChannelT]], node_id: str) -> Endpoint[ChannelT] | None:
    """Returns the endpoint of a node from those in the order of their node ids."""
    at = bisect_left(endpoints, node_id, key=_node_id)
    found = endpoints[at] if at < len(endpoints) else None
    return found if found is not None and found.node_id == node_id else None


def put(
    endpoints: list[Endpoint[ChannelT]], node_id: str, endpoint: Endpoint[ChannelT] | None
) -> tuple[list[Endpoint[ChannelT]], Endpoint[ChannelT] | None]:
    """Makes this the endpoint of a node; returns the list to use, and what was replaced."""
    at, before = len(endpoints), None
    if endpoints and node_id <= endpoints[-1].node_id:
        at = bisect_left(endpoints, node_id, key=_node_id)
        if endpoints[at].node_id == node_id:
            before = endpoints[at]
    if before is endpoint:
        return endpoints, None
    if endpoint is None:
        if len(endpoints) == 1:
            return [], before
        del endpoints[at]
    elif before is None:
        endpoints.insert(at, endpoint)
    else:
        endpoints[at] = endpoint
    return endpoints, before


def _is_dialable(address: str) -> bool:
    try:
        split_address(address)
    except InvalidAddressError:
        return False
    return True
