"""Who can be called, and where the next call goes: the part that both pools share."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sized
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from aegis_discovery._balancers import Balancer, RoundRobin
from aegis_discovery._ejection import Standing
from aegis_discovery._fork import of_this_process
from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus
from aegis_discovery._pool_stats import EndpointState, EndpointStats, PoolStats, ServiceStats
from aegis_discovery._retries import RetryBudget
from aegis_discovery._seed import split_address
from aegis_discovery.errors import ClosedError, ForkedError, InvalidAddressError

ChannelT = TypeVar("ChannelT")

MayProvide: TypeAlias = Callable[[NodeInfo, str, str], bool]
"""Tells whether a node may provide the service of this name and version."""

_DRAWS = 32
"""Turns drawn at most in search of a usable endpoint, before all are looked at: nearly always the
first few will do, also in a mesh of 100 000 nodes."""

_log = logging.getLogger("aegis.pool")


class ProviderSource(Protocol):
    """What the pool asks of a topology."""

    @property
    def nodes(self) -> Sized:
        """All nodes that are known."""

    def get_service_providers(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the providers by node id, and the same object until one of them changes."""


class Endpoint(Standing, Generic[ChannelT]):
    """One provider at one address: its channel, and how it stands with us.

    Attributes:
        channel: Set by the shell when the first call goes there.
        callables: The channel's methods, by the stub callables that use them.
        is_dialable: Whether its address is one; what a node publishes need not be.
    """

    __slots__ = ("__weakref__", "address", "callables", "channel", "is_dialable", "node_id")

    def __init__(self, node_id: str, address: str) -> None:
        super().__init__()
        self.node_id = node_id
        self.address = address
        self.is_dialable = _is_dialable(address)
        self.channel: ChannelT | None = None
        self.callables: dict[object, Any] = {}

    def __repr__(self) -> str:
        state = f" {self.state} for {self.pause:g}s" if self.out else ""
        return f"<Endpoint {self.node_id} at {self.address}{state}>"

    @property
    def state(self) -> EndpointState:
        """Whether calls go there, as far as they tell themselves."""
        if not self.out:
            return EndpointState.READY
        return EndpointState.EJECTED if self.ejected else EndpointState.UNREACHED


class _View(NamedTuple, Generic[ChannelT]):
    """The endpoints of one answer of the topology.

    Each of the tiers is a part of the next one: the own zone, the own region, all that are well.
    """

    nodes: tuple[NodeInfo, ...]
    denied: frozenset[str]
    everyone: tuple[Endpoint[ChannelT], ...]
    tiers: tuple[tuple[Endpoint[ChannelT], ...], ...]


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
        "_balancer", "_budget", "_choose", "_endpoints", "_lookup", "calls", "ejections", "name",
        "refused", "retries", "sheds", "version", "view",
    )  # fmt: skip

    def __init__(
        self, endpoints: Endpoints[ChannelT], name: str, version: str, balancer: Balancer
    ) -> None:
        self.name = name
        self.version = version
        # Counted without a lock: CPython switches threads between calls, not within `+= 1`.
        self.calls = self.retries = self.refused = self.ejections = self.sheds = 0
        self._endpoints = endpoints
        self._lookup = endpoints.source.get_service_providers
        self._choose = balancer.pick
        self._budget = RetryBudget(time.monotonic())
        self.view: _View[ChannelT] = _View((), frozenset(), (), ((),))

    def pick(self, now: float) -> Endpoint[ChannelT] | None:
        """Returns the endpoint for a new call, or None where there is none.

        Endpoints that say they are unhealthy, that the mesh suspects or that our calls had trouble
        with are passed over; where that leaves none, all are tried rather than none.

        Args:
            now: Monotonic seconds.

        Raises:
            ClosedError: If the pool was closed, or is that of the process before a fork.
        """
        if self._endpoints.closed:
            raise self._endpoints.refusal()
        view = self.view
        if self._lookup(self.name, self.version) is not view.nodes:
            self._endpoints.refresh()
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
        if self._endpoints.closed:
            return None
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
        choose = self._choose
        for tier in self.view.tiers:
            # Drawn anew each time: to take the neighbour of one that is out would load it twice.
            for _ in range(min(len(tier), _DRAWS)):
                endpoint = choose(tier)
                if endpoint not in tried and self._is_usable(endpoint, now):
                    return endpoint
            usable = [e for e in tier if e not in tried and self._is_usable(e, now)]
            if usable:
                return choose(usable)
        others = [e for e in self.view.everyone if e not in tried]
        return choose(others) if others else None

    def _is_usable(self, endpoint: Endpoint[ChannelT], now: float) -> bool:
        """Tells whether a call should go there; has those that are out looked after."""
        if not endpoint.out:
            return not (endpoint.silent(now) and self._eject(endpoint, now, "it does not answer"))
        if endpoint.take_probe(now):
            self._endpoints.probe(endpoint)
        return False

    def failed(self, endpoint: Endpoint[ChannelT], now: float) -> None:
        """Notes a call that reached its provider and failed there, and ejects it if it is due."""
        if endpoint.failed() and not self._eject(endpoint, now, "calls to it keep failing"):
            endpoint.spare()

    def _eject(self, endpoint: Endpoint[ChannelT], now: float, why: str) -> bool:
        """Ejects an endpoint, unless half of them are, or none else is in use; tells if it did."""
        everyone = self.view.everyone
        if sum(other.ejected for other in everyone) >= len(everyone) // 2:
            return False
        if all(other.out or other is endpoint for other in everyone):
            return False
        endpoint.eject(now)
        self.ejections += 1
        _log.warning("%s is ejected for %g s: %s", endpoint.node_id, endpoint.pause, why)
        return True

    @property
    def known_nodes(self) -> int:
        """How many nodes the topology has, whatever they provide."""
        return len(self._endpoints.source.nodes)

    def refresh(self) -> None:
        """Takes over the topology's present answer; the registry holds its lock meanwhile."""
        nodes = self._lookup(self.name, self.version)
        if nodes is self.view.nodes:
            return
        allowed = self._endpoints.allowed(nodes, self.name, self.version)
        denied: frozenset[str] = frozenset()
        if len(allowed) < len(nodes):
            denied = frozenset(node.id for node in nodes) - {node.id for node in allowed}
        for node_id in sorted(denied - self.view.denied):
            _log.warning("%s declares %s/%s and may not", node_id, self.name, self.version)
        everyone: list[Endpoint[ChannelT]] = []
        tiers: tuple[list[Endpoint[ChannelT]], ...] = ([], [], [])
        for node in allowed:
            endpoint = self._endpoints.endpoint_of(node)
            if endpoint.is_dialable:
                everyone.append(endpoint)
                if _is_well(node):
                    for tier in tiers[self._endpoints.distance(node) :]:
                        tier.append(endpoint)
        used = tuple(tuple(tier) for tier in tiers if tier)
        self.view = _View(nodes, denied, tuple(everyone), used or (tuple(everyone),))

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


def _is_well(node: NodeInfo) -> bool:
    return node.health is not HealthStatus.UNHEALTHY and node.status is NodeStatus.ALIVE


def _is_dialable(address: str) -> bool:
    try:
        split_address(address)
    except InvalidAddressError:
        return False
    return True


class Endpoints(Generic[ChannelT]):
    """All endpoints of a pool, shared by its services.

    An endpoint lives as long as a service's view or a call holds it. With the last of them goes
    its channel, which ends no call: gRPC keeps a dropped channel until its calls are done.

    Args:
        source: The topology.
        balancers: Makes the balancer of a service, by its name; round robin where none is given.
        region: Where the callers are; providers there come first.
        zone: A part of the region; providers there come before the others of the region.
        may_provide: Tells whether a node may provide what it declares; asked when it changes.

    Attributes:
        probe: Finds out whether an endpoint that is out is back, in the background; set by the
            shell, which has the channels.
    """

    def __init__(
        self,
        source: ProviderSource,
        *,
        balancers: Mapping[str, Callable[[], Balancer]] | None = None,
        region: str = "",
        zone: str = "",
        may_provide: MayProvide | None = None,
    ) -> None:
        self.source = source
        self.closed = self.is_forked = False
        self.probe: Callable[[Endpoint[ChannelT]], None] = _ignore
        self._balancers = dict(balancers or {})
        self._region = region
        self._zone = zone
        self._may_provide = may_provide
        self._lock = threading.Lock()
        self._services: dict[tuple[str, str], ServiceEndpoints[ChannelT]] = {}
        self._known: weakref.WeakValueDictionary[tuple[str, str], Endpoint[ChannelT]] = (
            weakref.WeakValueDictionary()
        )
        of_this_process(self)

    def forked(self) -> None:
        """Takes no more picks: this is a forked child, and the channels are its parent's."""
        self.is_forked = self.closed = True

    def refusal(self) -> ClosedError:
        """Returns the error for who asks a pool that is closed."""
        return ForkedError("pool") if self.is_forked else ClosedError("pool")

    def service(self, name: str, version: str) -> ServiceEndpoints[ChannelT]:
        """Returns a service's endpoints, always the same object, since it holds whose turn it is.

        Raises:
            ClosedError: If the pool was closed, or is that of the process before a fork.
        """
        if self.closed:
            raise self.refusal()
        with self._lock:
            service = self._services.get((name, version))
            if service is None:
                balancer = self._balancers.get(name, RoundRobin)()
                service = ServiceEndpoints(self, name, version, balancer)
                self._services[name, version] = service
            return service

    def refresh(self) -> None:
        """Brings all services up to date, so that who left the mesh is dropped by all at once."""
        with self._lock:
            # What is dropped must go after the lock was released: closing a channel takes a while.
            before = [service.view for service in self._services.values()]
            for service in self._services.values():
                service.refresh()
        del before

    def judge_again(self) -> None:
        """Asks of every provider again whether it may provide what it declares."""
        with self._lock:
            before = [service.view for service in self._services.values()]
            for service in self._services.values():
                service.view = service.view._replace(nodes=())
                service.refresh()
        del before

    def renew(self) -> None:
        """Goes on with new endpoints, and so new channels; calls under way keep the old ones."""
        with self._lock:
            before = [service.view for service in self._services.values()]
            self._known = weakref.WeakValueDictionary()
            for service in self._services.values():
                service.view = _View((), service.view.denied, (), ((),))
                service.refresh()
        del before

    def allowed(self, nodes: tuple[NodeInfo, ...], name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns those of some nodes that may provide a service."""
        may = self._may_provide
        return nodes if may is None else tuple(node for node in nodes if may(node, name, version))

    def distance(self, node: NodeInfo) -> int:
        """Returns 0 for a node of the own zone, 1 for one of the own region, else 2."""
        if node.region != self._region:
            return 2
        if self._zone and node.zone == self._zone:
            return 0
        return 1 if self._region else 2

    def endpoint_of(self, node: NodeInfo) -> Endpoint[ChannelT]:
        """Returns the endpoint of a node at its present address; the lock is held meanwhile."""
        key = (node.id, node.address)
        endpoint = self._known.get(key)
        if endpoint is None:
            endpoint = self._known[key] = Endpoint(node.id, node.address)
        return endpoint

    def open_endpoints(self) -> list[Endpoint[ChannelT]]:
        """Returns the endpoints that have a channel, by node id."""
        with self._lock:
            views = [service.view for service in self._services.values()]
        found = {e for view in views for e in view.everyone if e.channel is not None}
        return sorted(found, key=lambda endpoint: endpoint.node_id)

    def stats(self) -> PoolStats:
        """Returns a snapshot of all services."""
        if not self.closed:
            self.refresh()
        with self._lock:
            services = sorted(self._services.items())
        return PoolStats(tuple(service.stats() for _, service in services))

    def close(self) -> list[Endpoint[ChannelT]]:
        """Takes no more picks and lets go of every endpoint; returns those that have a channel."""
        held = self.open_endpoints()
        self.closed = True
        with self._lock:
            services = list(self._services.values())
        for service in services:
            service.view = _View((), frozenset(), (), ((),))
        return held


def _ignore(endpoint: Endpoint[Any]) -> None:
    endpoint.probed(False, time.monotonic())
