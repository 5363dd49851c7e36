"""Chooses the endpoint for each call to a service."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Generic, Protocol

from aegis_discovery._calls.balancers import Balancer, needs_copies
from aegis_discovery._calls.endpoint import ChannelT, Endpoint, stats_of
from aegis_discovery._calls.retry_budget import RetryBudget
from aegis_discovery._calls.stats import ServiceStats
from aegis_discovery._calls.views import PRIORITIES, ProviderSource, View, ViewBuilder
from aegis_discovery._calls.waiters import Waiters
from aegis_discovery._model import NodeInfo
from aegis_discovery.errors import ClosedError

_MAX_DRAWS = 32
"""The most draws in search of a usable endpoint, before all endpoints are checked. The first few
draws nearly always find one, also in a mesh of 100 000 nodes."""

_log = logging.getLogger("aegis.pool")


class SharedState(Protocol[ChannelT]):
    """What the services of one pool share; `EndpointRegistry` implements and documents it."""

    source: ProviderSource
    views: ViewBuilder[ChannelT]
    position: int
    closed: bool
    ejection_lock: threading.Lock
    waiters: Waiters
    probe: Callable[[Endpoint[ChannelT]], None]

    def closed_error(self) -> ClosedError: ...

    def refresh(self) -> None: ...


class ServiceEndpoints(Generic[ChannelT]):
    """The endpoints of one service, as the topology has them now.

    Attributes:
        calls: First attempts that got an endpoint.
        retries: Further attempts that got one.
        retries_refused: Further attempts that the budget did not allow.
        ejections: How often calls to this service had an endpoint ejected.
        sheds: Calls that a provider shed.
        view: Its present endpoints; only the pool updates it.
    """

    __slots__ = (
        "__weakref__", "_balance", "_balance_fallback", "_balance_search", "_budget", "_index",
        "_needs_copies", "_pool", "calls", "ejections", "name", "retries", "retries_refused",
        "sheds", "version", "view",
    )  # fmt: skip

    def __init__(
        self,
        pool: SharedState[ChannelT],
        name: str,
        version: str,
        make_balancer: Callable[[], Balancer],
    ) -> None:
        self.name = name
        self.version = version
        # Counted without a lock: CPython switches threads between calls, not within `+= 1`.
        self.calls = self.retries = self.retries_refused = self.ejections = self.sheds = 0
        self._pool = pool
        self._index = pool.source.provider_index
        balancer = make_balancer()
        self._balance = balancer.pick
        # A search has balancers of its own. With the one of first attempts it would take a fixed
        # number of its turns for each call, and might draw the same endpoint every time.
        self._balance_search = tuple(make_balancer().pick for _ in range(PRIORITIES))
        self._balance_fallback = make_balancer().pick
        self._budget = RetryBudget(time.monotonic())
        self._needs_copies = needs_copies(balancer)
        self.view = self.new_view(())

    def new_view(self, nodes: Iterable[NodeInfo]) -> View[ChannelT]:
        """Returns a view of these providers, for its balancers."""
        return self._pool.views.build(nodes, self.name, self.version, is_copied=self._needs_copies)

    def pick(self, now: float) -> Endpoint[ChannelT] | None:
        """Returns the endpoint for a new call, or None if the service has no provider.

        Skips endpoints that report to be unhealthy, that the mesh suspects, or that are excluded.
        If none is left, all are tried.

        Args:
            now: Monotonic seconds.

        Raises:
            ClosedError: If the pool was closed, or belongs to the process before a fork.
        """
        if self._pool.closed:
            raise self._pool.closed_error()
        if self._index.position != self._pool.position:
            self._pool.refresh()
        nearest = self.view.priorities[0]
        if not nearest:
            return None
        self.calls += 1
        try:
            endpoint = self._balance(nearest)
        except IndexError:  # as in `_draw`, but without a further frame
            endpoint = self._balance(tuple(nearest))
        # True for nearly all calls, so it is checked here, without another function call.
        if not endpoint.excluded and (now < endpoint.unresponsive_at or not endpoint.waiting):
            return endpoint
        if self._is_usable(endpoint, now):
            return endpoint
        return self._search(now, ())

    def pick_retry(
        self, tried: tuple[Endpoint[ChannelT], ...], now: float
    ) -> Endpoint[ChannelT] | None:
        """Returns the endpoint for a further attempt of a call, or None if there is to be none.

        Args:
            tried: The endpoints of the attempts so far.
            now: Monotonic seconds.
        """
        if self._pool.closed:
            return None
        if self._index.position != self._pool.position:
            self._pool.refresh()
        endpoint = self._search(now, tried)
        if endpoint is None:
            return None
        if not self._budget.take(self.calls, now):
            self.retries_refused += 1
            return None
        self.retries += 1
        return endpoint

    def pick_in_use(self, now: float) -> Endpoint[ChannelT] | None:
        """Returns an endpoint that is in use for a call that waits, or None while there is none.

        Starts the probes that are due.
        """
        if self._index.position != self._pool.position:
            self._pool.refresh()
        for candidates in (*self.view.priorities, self.view.endpoints):
            usable = [endpoint for endpoint in tuple(candidates) if self._is_usable(endpoint, now)]
            if usable:
                self.calls += 1
                return self._balance_fallback(usable)
        return None

    def prove(self, endpoint: Endpoint[ChannelT], now: float) -> None:
        """Probes an endpoint that is in use."""
        if endpoint.claim_probe(now):
            self._pool.probe(endpoint)

    @property
    def next_probe(self) -> float:
        """When the next probe of an endpoint is due; infinity for never."""
        endpoints = tuple(self.view.endpoints)
        return min((endpoint.probe_at for endpoint in endpoints), default=math.inf)

    def _search(
        self, now: float, tried: tuple[Endpoint[ChannelT], ...]
    ) -> Endpoint[ChannelT] | None:
        """Searches for an endpoint, after the first draw was not usable."""
        # By id and address: after a change of identity the same provider has a new endpoint.
        tried_keys = {(endpoint.node_id, endpoint.address) for endpoint in tried}

        def is_new(endpoint: Endpoint[ChannelT]) -> bool:
            return (endpoint.node_id, endpoint.address) not in tried_keys

        view = self.view
        for candidates, balance in zip(view.priorities, self._balance_search, strict=False):
            # Draw anew each time: the neighbour of an excluded endpoint would get a double load.
            for _ in range(min(len(candidates), _MAX_DRAWS)):
                endpoint = _draw(balance, candidates)
                if is_new(endpoint) and self._is_usable(endpoint, now):
                    return endpoint
            usable = [e for e in tuple(candidates) if is_new(e) and self._is_usable(e, now)]
            if usable:
                return self._balance_fallback(usable)
        others = [e for e in tuple(view.endpoints) if is_new(e)]
        return self._balance_fallback(others) if others else None

    def _is_usable(self, endpoint: Endpoint[ChannelT], now: float) -> bool:
        """Returns whether a call may go there; starts the probe of an excluded endpoint if due."""
        if not endpoint.excluded:
            unresponsive = endpoint.is_unresponsive(now)
            return not (unresponsive and self._eject(endpoint, now, "it does not respond"))
        if endpoint.claim_probe(now):
            self._pool.probe(endpoint)
        return False

    def call_failed(self, endpoint: Endpoint[ChannelT], now: float) -> None:
        """Counts a call that reached its provider and failed there; ejects the provider if due."""
        if endpoint.call_failed() and not self._eject(endpoint, now, "calls to it keep failing"):
            endpoint.reset_failures()

    def call_abandoned(self, endpoint: Endpoint[ChannelT], began: float, now: float) -> None:
        """Counts a call whose caller stopped waiting; ejects the provider if due."""
        due = endpoint.call_abandoned(began, now)
        if due and not self._eject(endpoint, now, "it does not respond"):
            endpoint.reset_failures()

    def _eject(self, endpoint: Endpoint[ChannelT], now: float, reason: str) -> bool:
        """Ejects an endpoint and returns True, unless half are ejected or no other is in use."""
        # Unhealthy endpoints do not count as alternatives: they get calls only if no other is left.
        healthy = tuple(self.view.priorities[-1])
        with self._pool.ejection_lock:
            if endpoint.excluded:
                return True  # another thread ejected it first
            if sum(other.ejected for other in healthy) >= len(healthy) // 2:
                return False
            if all(other.excluded or other is endpoint for other in healthy):
                return False
            endpoint.eject(now)
            self.ejections += 1
        _log.warning("%s is ejected for %g s: %s", endpoint.node_id, endpoint.backoff, reason)
        return True

    @property
    def known_nodes(self) -> int:
        """The number of nodes in the topology, whatever they provide."""
        return self._pool.source.node_count

    @property
    def known_versions(self) -> tuple[str, ...]:
        """The versions of this service that the topology has."""
        return self._pool.source.get_service_versions(self.name)

    @property
    def is_closed(self) -> bool:
        """Whether the pool was closed."""
        return self._pool.closed

    def closed_error(self) -> ClosedError:
        """Returns the error of a call to a pool that was closed or forked."""
        return self._pool.closed_error()

    @property
    def waiters(self) -> Waiters:
        """The waiting calls of the pool."""
        return self._pool.waiters

    def may_have_provider(self) -> bool:
        """Returns whether there may be a provider; only an update of the view may tell for sure."""
        if self.view.priorities[0]:
            return True
        return self._index.changed_at(self.name, self.version) > self._pool.position

    def log_denied(self, denied: Iterable[str]) -> None:
        """Warns of nodes that declare this service and may not provide it."""
        for node_id in sorted(denied):
            _log.warning("%s declares %s/%s and may not", node_id, self.name, self.version)

    def stats(self) -> ServiceStats:
        """Returns a snapshot of the counters and of the endpoints."""
        view = self.view
        endpoints, healthy = tuple(view.endpoints), view.priorities[-1]
        unwell: Collection[Endpoint[ChannelT]] = ()
        if len(healthy) < len(endpoints):
            unwell = set(endpoints).difference(healthy)
        return ServiceStats(
            self.name,
            self.version,
            picks=self.calls + self.retries,
            retries=self.retries,
            retries_refused=self.retries_refused,
            ejections=self.ejections,
            sheds=self.sheds,
            denials=len(view.denied),
            endpoints=stats_of(endpoints, unwell),
        )

    def __repr__(self) -> str:
        endpoints = self.view.endpoints
        names = [endpoint.node_id for endpoint in endpoints[:8]]
        if len(endpoints) > len(names):
            names.append(f"... {len(endpoints)} in all")
        return f"<{self.name}/{self.version}: {', '.join(names)}>"


def _draw(
    balance: Callable[[Sequence[Endpoint[ChannelT]]], Endpoint[ChannelT]],
    endpoints: Sequence[Endpoint[ChannelT]],
) -> Endpoint[ChannelT]:
    try:
        return balance(endpoints)
    except IndexError:  # another thread removed an endpoint meanwhile
        return balance(tuple(endpoints))
