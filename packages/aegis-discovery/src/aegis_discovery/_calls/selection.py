"""Where the next call to a service goes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol

from aegis_discovery._calls.balancers import Balancer
from aegis_discovery._calls.endpoint import ChannelT, Endpoint
from aegis_discovery._calls.retry_budget import RetryBudget
from aegis_discovery._calls.stats import EndpointState, EndpointStats, ServiceStats
from aegis_discovery._calls.views import TIERS, ProviderSource, View
from aegis_discovery.errors import ClosedError

_DRAWS = 32
"""Turns drawn at most in search of a usable endpoint, before all are looked at: nearly always the
first few will do, also in a mesh of 100 000 nodes."""

_log = logging.getLogger("aegis.pool")


class Registry(Protocol[ChannelT]):
    """What the services of one pool share.

    Attributes:
        source: The topology.
        closed: Whether the pool takes no more picks.
        ejecting: Held while deciding whether one more endpoint may be ejected.
        probe: Finds out in the background whether an endpoint is back.
    """

    source: ProviderSource
    closed: bool
    ejecting: threading.Lock
    probe: Callable[[Endpoint[ChannelT]], None]

    def refusal(self) -> ClosedError:
        """Returns the error for callers of a closed pool."""

    def refresh(self) -> None:
        """Gives every service the view of the topology's present answer."""


class ServiceEndpoints(Generic[ChannelT]):
    """The endpoints of one service, kept up with the topology.

    Attributes:
        calls: First attempts that were routed.
        retries: Further ones.
        refused: Further ones that the budget did not allow.
        ejections: How often an endpoint was ejected for calls to this service.
        sheds: Calls that a provider shed.
    """

    __slots__ = (
        "_budget", "_choose", "_last_resort", "_lookup", "_registry", "_search_in", "calls",
        "ejections", "name", "refused", "retries", "sheds", "version", "view",
    )  # fmt: skip

    def __init__(
        self,
        registry: Registry[ChannelT],
        name: str,
        version: str,
        make_balancer: Callable[[], Balancer],
    ) -> None:
        self.name = name
        self.version = version
        # Counted without a lock: CPython switches threads between calls, not within `+= 1`.
        self.calls = self.retries = self.refused = self.ejections = self.sheds = 0
        self._registry = registry
        self._lookup = registry.source.get_service_providers
        self._choose = make_balancer().pick
        # Each search has turns of its own: with those of the first draws, it would take a fixed
        # number of them for each call, and might come to the same endpoint every time.
        self._search_in = tuple(make_balancer().pick for _ in range(TIERS))
        self._last_resort = make_balancer().pick
        self._budget = RetryBudget(time.monotonic())
        self.view: View[ChannelT] = View((), frozenset(), (), ((),))

    def pick(self, now: float) -> Endpoint[ChannelT] | None:
        """Returns the endpoint for a new call, or None where there is none.

        Endpoints that say they are unhealthy, that the mesh suspects or that our calls had trouble
        with are passed over; where that leaves none, all are tried rather than none.

        Args:
            now: Monotonic seconds.

        Raises:
            ClosedError: If the pool was closed, or is that of the process before a fork.
        """
        if self._registry.closed:
            raise self._registry.refusal()
        view = self.view
        if self._lookup(self.name, self.version) is not view.nodes:
            self._registry.refresh()
            view = self.view
        self.calls += 1
        nearest = view.tiers[0]
        if not nearest:
            return None
        endpoint = self._choose(nearest)
        if not endpoint.out and (now < endpoint.silent_at or not endpoint.waiting):
            return endpoint  # as nearly always, so this is looked at here and not by a call
        if self._is_usable(endpoint, now):
            return endpoint
        return self._search(now, ())

    def pick_other(
        self, tried: tuple[Endpoint[ChannelT], ...], now: float, *, charged: bool
    ) -> Endpoint[ChannelT] | None:
        """Returns the endpoint for a further attempt of a call, or None where there is none.

        Args:
            tried: Where the call was already.
            now: Monotonic seconds.
            charged: Whether the budget must allow it.
        """
        if self._registry.closed:
            return None
        if self._lookup(self.name, self.version) is not self.view.nodes:
            self._registry.refresh()
        endpoint = self._search(now, tried)
        if endpoint is None:
            return None
        if charged and not self._budget.take(self.calls, now):
            self.refused += 1
            return None
        self.retries += 1
        return endpoint

    def _search(
        self, now: float, tried: tuple[Endpoint[ChannelT], ...]
    ) -> Endpoint[ChannelT] | None:
        """Looks for an endpoint, where the first one drawn would not do."""
        been_at = {(endpoint.node_id, endpoint.address) for endpoint in tried}

        def is_new(endpoint: Endpoint[ChannelT]) -> bool:
            # By name: with a new identity come new endpoints of the same providers.
            return (endpoint.node_id, endpoint.address) not in been_at

        for tier, choose in zip(self.view.tiers, self._search_in, strict=False):
            # Drawn anew each time: to take the neighbour of one that is out would load it twice.
            for _ in range(min(len(tier), _DRAWS)):
                endpoint = choose(tier)
                if is_new(endpoint) and self._is_usable(endpoint, now):
                    return endpoint
            usable = [e for e in tier if is_new(e) and self._is_usable(e, now)]
            if usable:
                return self._last_resort(usable)
        others = [e for e in self.view.everyone if is_new(e)]
        return self._last_resort(others) if others else None

    def _is_usable(self, endpoint: Endpoint[ChannelT], now: float) -> bool:
        """Tells whether a call should go there; has those that are out looked after."""
        if not endpoint.out:
            return not (endpoint.silent(now) and self._eject(endpoint, now, "it does not answer"))
        if endpoint.take_probe(now):
            self._registry.probe(endpoint)
        return False

    def failed(self, endpoint: Endpoint[ChannelT], now: float) -> None:
        """Notes a call that reached its provider and failed there, and ejects it if it is due."""
        if endpoint.failed() and not self._eject(endpoint, now, "calls to it keep failing"):
            endpoint.reset_failures()

    def given_up(self, endpoint: Endpoint[ChannelT], began: float, now: float) -> None:
        """Notes a call whose caller stopped waiting, and ejects its provider if it is due."""
        if endpoint.given_up(began, now) and not self._eject(endpoint, now, "it does not answer"):
            endpoint.reset_failures()

    def _eject(self, endpoint: Endpoint[ChannelT], now: float, why: str) -> bool:
        """Ejects an endpoint, unless half of them are, or none else is in use; tells if it did."""
        # Those that are unwell are no others: calls go there only where nobody else is left.
        well = self.view.tiers[-1]
        with self._registry.ejecting:
            if endpoint.out:
                return True  # another thread was quicker
            if sum(other.ejected for other in well) >= len(well) // 2:
                return False
            if all(other.out or other is endpoint for other in well):
                return False
            endpoint.eject(now)
            self.ejections += 1
        _log.warning("%s is ejected for %g s: %s", endpoint.node_id, endpoint.pause, why)
        return True

    @property
    def known_nodes(self) -> int:
        """How many nodes the topology has, whatever they provide."""
        return len(self._registry.source.nodes)

    def tell_of(self, denied: frozenset[str]) -> None:
        """Warns of nodes that say they provide this service and may not."""
        for node_id in sorted(denied):
            _log.warning("%s declares %s/%s and may not", node_id, self.name, self.version)

    def stats(self) -> ServiceStats:
        """Returns a snapshot of what is counted and known here."""
        view = self.view
        well = set(view.tiers[-1])
        return ServiceStats(
            self.name,
            self.version,
            picks=self.calls + self.retries,
            retries=self.retries,
            retries_refused=self.refused,
            ejections=self.ejections,
            sheds=self.sheds,
            denials=len(view.denied),
            endpoints=tuple(
                EndpointStats(
                    endpoint.node_id,
                    endpoint.address,
                    endpoint.state if endpoint in well else EndpointState.UNWELL,
                    endpoint.under_way,
                )
                for endpoint in view.everyone
            ),
        )

    def __repr__(self) -> str:
        everyone = self.view.everyone
        names = [endpoint.node_id for endpoint in everyone[:8]]
        if len(everyone) > len(names):
            names.append(f"... {len(everyone)} in all")
        return f"<{self.name}/{self.version}: {', '.join(names)}>"
