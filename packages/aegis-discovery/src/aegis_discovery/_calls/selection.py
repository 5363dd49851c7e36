"""Chooses the endpoint for each call to a service."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Generic, Protocol

from aegis_discovery._calls.balancers import Balancer, RoundRobin, needs_copies
from aegis_discovery._calls.endpoint import ChannelT, Endpoint, stats_of
from aegis_discovery._calls.retry_budget import RetryBudget
from aegis_discovery._calls.views import TIERS, View, ViewBuilder
from aegis_discovery._calls.waiters import Waiters
from aegis_discovery._model import NodeInfo
from aegis_discovery._runtime.edges import EdgeTable, PeerEdges
from aegis_discovery.errors import ClosedError

if TYPE_CHECKING:
    from aegis_discovery._calls.source import ProviderSource
    from aegis_discovery._calls.spillover import Part
    from aegis_discovery._calls.stats import ServiceStats

_MAX_DRAWS = 32
"""The most draws in search of a usable endpoint, before all endpoints are checked. The first few
draws nearly always find one, also in a mesh of 100 000 nodes."""

_MAX_PROBES = 32
"""The most probes that one waiting call starts at once; the others are due when it looks again."""

_GOLDEN_RATIO = 0.6180339887498949

_log = logging.getLogger("aegis.pool")


class SharedState(Protocol[ChannelT]):
    """What the services of one pool share; `EndpointRegistry` implements and documents it."""

    source: ProviderSource
    views: ViewBuilder[ChannelT]
    edges: EdgeTable
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
        "__weakref__", "_balance", "_balance_fallback", "_balance_parts", "_balance_search",
        "_budget", "_index", "_needs_copies", "_pool", "_round", "_turns", "calls", "ejections",
        "name", "retries", "retries_refused", "sheds", "version", "view",
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
        self._round = balancer.turns if type(balancer) is RoundRobin else None
        # A search has balancers of its own. With the one of first attempts it would take a fixed
        # number of its turns for each call, and might draw the same endpoint every time.
        self._balance_search = tuple(make_balancer().pick for _ in range(TIERS))
        self._balance_parts = tuple(make_balancer().pick for _ in range(TIERS))
        # next() on this counter is atomic, so threads need no lock.
        self._turns = itertools.count(random.getrandbits(16))
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
        if self._index.position != self._pool.position:  # also where the pool was closed
            self._pool.refresh()
            if self._pool.closed:
                raise self._pool.closed_error()
        nearest = self.view.nearest
        if not nearest:
            return self._pick_divided(now)
        self.calls += 1
        turns = self._round
        try:
            if turns is not None:  # what `RoundRobin.pick` does, without its frame
                endpoint = nearest[next(turns) % len(nearest)]
            else:
                endpoint = self._balance(nearest)
        except IndexError:  # as in `_draw`, but without a further frame
            endpoint = self._balance(tuple(nearest))
        # True for nearly all calls, so it is checked here, without another function call.
        if not endpoint.excluded and (now < endpoint.unresponsive_at or not endpoint.waiting):
            return endpoint
        return endpoint if self._is_usable(endpoint, now) else self._search(now, ())

    def _pick_divided(self, now: float) -> Endpoint[ChannelT] | None:
        """The same where the tiers divide the load, or none of their endpoints is in use."""
        view = self.view
        if not view.endpoints:
            return None
        self.calls += 1
        self._probe_next(now)
        part = self._next_part(view)
        if part is None:
            return self._search(now, ())
        endpoint = _draw(self._balance_parts[part.tier], part.endpoints)
        return endpoint if self._is_usable(endpoint, now) else self._search(now, (), part)

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
        endpoint = self._search(now, tried, self._next_part(self.view))
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
        view = self.view
        for excluded in view.due_probes(now, _MAX_PROBES):
            self._is_usable(excluded, now)
        endpoint = self._find_in_use(now, (), self._next_part(view))
        self.calls += endpoint is not None
        return endpoint

    def prove(self, endpoint: Endpoint[ChannelT], now: float) -> None:
        """Probes an endpoint that is in use."""
        if endpoint.claim_probe(now):
            self._pool.probe(endpoint)

    def edges_of(self, method: str) -> PeerEdges:
        """Returns the counts of a method's calls, by provider."""
        return self._pool.edges.of(f"{self.name}/{self.version}", method)

    @property
    def next_probe(self) -> float:
        """When the next probe of an endpoint is due; infinity for never."""
        return self.view.next_probe()

    def _next_part(self, view: View[ChannelT]) -> Part[ChannelT] | None:
        """Returns the part of the load to which the next call belongs; None if there is none.

        The multiples of the golden ratio are spread evenly over [0, 1), so the shares are right
        from the first calls on. (Knuth, The Art of Computer Programming, 6.4)
        """
        parts = view.parts
        if len(parts) < 2:
            return parts[0] if parts else None
        at = next(self._turns) * _GOLDEN_RATIO % 1.0
        for part in parts:
            if at < part.until:
                return part
        return parts[-1]  # the shares add up to a little less than 1

    def _probe_next(self, now: float) -> None:
        """Starts the probe of one excluded endpoint if it is due: one at each call, in turn.

        Balancers draw no endpoint of a tier without load.
        """
        endpoint = self.view.next_excluded()
        if endpoint is not None:
            self._is_usable(endpoint, now)

    def _search(
        self,
        now: float,
        tried: tuple[Endpoint[ChannelT], ...],
        part: Part[ChannelT] | None = None,
    ) -> Endpoint[ChannelT] | None:
        """Searches for an endpoint after the first draw was not usable; any one at last."""
        found = self._find_in_use(now, tried, part)
        if found is not None:
            return found
        keys = _keys(tried)
        others = self.view.endpoints
        for _ in range(min(len(others), _MAX_DRAWS)):
            endpoint = self._fall_back(others)
            if _key(endpoint) not in keys:
                return endpoint
        return next((one for one in others[: len(keys) + 1] if _key(one) not in keys), None)

    def _find_in_use(
        self, now: float, tried: tuple[Endpoint[ChannelT], ...], part: Part[ChannelT] | None
    ) -> Endpoint[ChannelT] | None:
        """Searches for an endpoint in use: in the tier of the call's part, then nearest first."""
        view, keys = self.view, _keys(tried)
        tiers = range(TIERS) if part is None else sorted(range(TIERS), key=part.tier.__ne__)
        for tier in tiers:
            candidates = view.tiers[tier]
            if not candidates:
                continue
            balance = self._balance_search[tier]
            # Draw anew each time: the neighbour of an excluded endpoint would get a double load.
            for _ in range(min(len(candidates), _MAX_DRAWS)):
                endpoint = _draw(balance, candidates)
                if not (keys and _key(endpoint) in keys) and self._is_usable(endpoint, now):
                    return endpoint
            found = self._draw_usable(view.all_in_use(tier), now, keys)
            if found is not None:
                return found
        return None

    def _draw_usable(
        self, in_use: Sequence[Endpoint[ChannelT]], now: float, keys: Collection[tuple[str, str]]
    ) -> Endpoint[ChannelT] | None:
        """Draws from endpoints that are in use: few of many, or balancers would draw one soon."""
        for _ in range(min(len(in_use), _MAX_DRAWS)):
            endpoint = self._fall_back(in_use)
            if _key(endpoint) not in keys and self._is_usable(endpoint, now):
                return endpoint
        # The balancer draws always the same, or many have ceased to respond at once: each draw
        # ejected one, and the next calls will eject the others.
        for endpoint in in_use[:_MAX_DRAWS]:
            if _key(endpoint) not in keys and self._is_usable(endpoint, now):
                return endpoint
        return None

    def _fall_back(self, endpoints: Sequence[Endpoint[ChannelT]]) -> Endpoint[ChannelT]:
        return _draw(self._balance_fallback, tuple(endpoints) if self._needs_copies else endpoints)

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
        view = self.view
        with self._pool.ejection_lock:
            if endpoint.excluded:
                return True  # another thread ejected it first
            # Unhealthy endpoints are no alternatives: they get calls only if no other is left.
            if view.ejected >= view.healthy // 2:
                return False
            if view.in_use() <= (endpoint.node_id not in view.unwell):
                return False  # it is the last one
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
    def other_regions(self) -> list[str]:
        """The regions whose nodes provide this service to callers there only."""
        return sorted({*self.view.regions.values()})

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
        if self.view.endpoints:
            return True
        return self._index.changed_at(self.name, self.version) > self._pool.position

    def log_denied(self, denied: Iterable[str]) -> None:
        """Warns of nodes that declare this service and may not provide it."""
        for node_id in sorted(denied):
            _log.warning("%s declares %s/%s and may not", node_id, self.name, self.version)

    def stats(self) -> ServiceStats:
        """Returns a snapshot of the counters and of the endpoints."""
        from aegis_discovery._calls.stats import ServiceStats  # many programs never ask

        view = self.view
        return ServiceStats(
            self.name,
            self.version,
            picks=self.calls + self.retries,
            retries=self.retries,
            retries_refused=self.retries_refused,
            ejections=self.ejections,
            sheds=self.sheds,
            denials=len(view.denied),
            endpoints=stats_of(tuple(view.endpoints), view.unwell),
        )

    def __repr__(self) -> str:
        endpoints = self.view.endpoints
        names = [endpoint.node_id for endpoint in endpoints[:8]]
        if len(endpoints) > len(names):
            names.append(f"... {len(endpoints)} in all")
        return f"<{self.name}/{self.version}: {', '.join(names)}>"


def _key(endpoint: Endpoint[ChannelT]) -> tuple[str, str]:
    # After a change of identity the same provider has a new endpoint.
    return endpoint.node_id, endpoint.address


def _keys(tried: Iterable[Endpoint[ChannelT]]) -> set[tuple[str, str]]:
    return {_key(endpoint) for endpoint in tried}


def _draw(
    balance: Callable[[Sequence[Endpoint[ChannelT]]], Endpoint[ChannelT]],
    endpoints: Sequence[Endpoint[ChannelT]],
) -> Endpoint[ChannelT]:
    try:
        return balance(endpoints)
    except IndexError:  # another thread removed an endpoint meanwhile
        return balance(tuple(endpoints))
