"""Who can be called, and whose turn it is: the pure part that both pools share."""

from __future__ import annotations

import itertools
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence, Sized
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus
from aegis_discovery._seed import split_address
from aegis_discovery.errors import ClosedError, InvalidAddressError

ChannelT = TypeVar("ChannelT")
EndpointT = TypeVar("EndpointT", bound="Endpoint[Any]")

FIRST_BACKOFF = 0.25
"""Seconds that an endpoint is left alone after its first failure: a restart takes about as long."""

MAX_BACKOFF = 10.0
"""Seconds at most, so that a provider that comes back is found soon by one call in ten seconds."""


class ProviderSource(Protocol):
    """What the pool asks of a topology."""

    @property
    def nodes(self) -> Sized:
        """All nodes that are known."""

    def get_service_providers(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the providers by node id, and the same object until one of them changes."""


class Endpoint(Generic[ChannelT]):
    """One provider at one address: its channel, and what our own calls learned about it.

    Attributes:
        channel: Set by the shell when the first call goes there.
        callables: The channel's methods, by the stub callables that use them.
        backoff: Seconds of the current backoff; 0 while nothing speaks against the endpoint.
        is_dialable: Whether its address is one; what a node publishes need not be.
    """

    __slots__ = (
        "__weakref__", "_probing", "_retry_at", "address", "backoff", "callables", "channel",
        "is_dialable", "node_id",
    )  # fmt: skip

    def __init__(self, node_id: str, address: str) -> None:
        self.node_id = node_id
        self.address = address
        self.is_dialable = _is_dialable(address)
        self.channel: ChannelT | None = None
        self.callables: dict[object, Any] = {}
        self.backoff = 0.0
        self._retry_at = 0.0
        self._probing = False

    def __repr__(self) -> str:
        state = f" backoff={self.backoff:g}s" if self.backoff else ""
        return f"<Endpoint {self.node_id} at {self.address}{state}>"

    def failed(self, now: float) -> None:
        """Notes a call that did not reach the provider, at a monotonic time."""
        if now < self._retry_at and not self._probing:
            return  # calls that were under way together fail together: that is one failure
        self.backoff = min(self.backoff * 2, MAX_BACKOFF) if self.backoff else FIRST_BACKOFF
        self._retry_at = now + self.backoff
        self._probing = False

    def succeeded(self) -> None:
        """Notes a call that the provider answered."""
        self.backoff = self._retry_at = 0.0
        self._probing = False

    def ready(self, now: float) -> bool:
        """Tells whether a call may go here; when a backoff ends, only one may, as a probe."""
        if not self.backoff:
            return True
        if now < self._retry_at:
            return False
        self._probing = True
        self._retry_at = now + self.backoff
        return True


class Balancer(Protocol):
    """Chooses one of a service's endpoints for each call; each service has its own."""

    def pick(self, endpoints: Sequence[EndpointT]) -> EndpointT:
        """Returns one of at least one endpoints, in constant time, from any thread."""


class RoundRobin:
    """Takes the endpoints in turn.

    Args:
        start: The first turn; random by default, else every short-lived client would begin
            with the same provider.
    """

    __slots__ = ("_turns",)

    def __init__(self, start: int | None = None) -> None:
        # next() on this counter is atomic, so threads need no lock.
        self._turns = itertools.count(random.getrandbits(16) if start is None else start)

    def pick(self, endpoints: Sequence[EndpointT]) -> EndpointT:
        """Returns the endpoint whose turn it is."""
        return endpoints[next(self._turns) % len(endpoints)]


class _View(NamedTuple, Generic[ChannelT]):
    """The endpoints of one answer of the topology."""

    nodes: tuple[NodeInfo, ...]
    everyone: tuple[Endpoint[ChannelT], ...]
    preferred: tuple[Endpoint[ChannelT], ...]


class ServiceEndpoints(Generic[ChannelT]):
    """The endpoints of one service, kept up with the topology."""

    __slots__ = ("_balancer", "_endpoints", "_lookup", "name", "version", "view")

    def __init__(
        self, endpoints: Endpoints[ChannelT], name: str, version: str, balancer: Balancer
    ) -> None:
        self.name = name
        self.version = version
        self._endpoints = endpoints
        self._lookup = endpoints.source.get_service_providers
        self._balancer = balancer
        self.view: _View[ChannelT] = _View((), (), ())

    def pick(self, avoid: Endpoint[ChannelT] | None = None) -> Endpoint[ChannelT] | None:
        """Returns the endpoint for the next call, or None where there is none.

        Endpoints that say they are unhealthy, that the mesh suspects or that our calls did not
        reach are passed over; where that leaves none, all are tried rather than none.

        Args:
            avoid: The endpoint that the call was at before.

        Raises:
            ClosedError: If the pool was closed.
        """
        if self._endpoints.closed:
            raise ClosedError("pool")
        if self._lookup(self.name, self.version) is not self.view.nodes:
            self._endpoints.refresh()
        view = self.view
        preferred = view.preferred
        choose = self._balancer.pick
        # Each turn is drawn anew: to take the neighbour of one that is down would load it twice.
        for _ in preferred:
            endpoint = choose(preferred)
            if endpoint is not avoid and (
                not endpoint.backoff or endpoint.ready(self._endpoints.clock())
            ):
                return endpoint
        others = view.everyone
        if avoid is not None:
            others = tuple(endpoint for endpoint in others if endpoint is not avoid)
        return choose(others) if others else None

    @property
    def is_alternative_known(self) -> bool:
        """Whether a call that fails at one endpoint has another one to go to."""
        return len(self.view.everyone) > 1

    @property
    def known_nodes(self) -> int:
        """How many nodes the topology has, whatever they provide."""
        return len(self._endpoints.source.nodes)

    def refresh(self) -> None:
        """Takes over the topology's present answer; the registry holds its lock meanwhile."""
        nodes = self._lookup(self.name, self.version)
        if nodes is self.view.nodes:
            return
        known = [self._endpoints.endpoint_of(node) for node in nodes]
        everyone = tuple(endpoint for endpoint in known if endpoint.is_dialable)
        preferred = tuple(
            endpoint
            for node, endpoint in zip(nodes, known, strict=True)
            if endpoint.is_dialable and _in_order(node)
        )
        self.view = _View(nodes, everyone, preferred or everyone)

    def __repr__(self) -> str:
        everyone = self.view.everyone
        names = [endpoint.node_id for endpoint in everyone[:8]]
        if len(everyone) > len(names):
            names.append(f"... {len(everyone)} in all")
        return f"<{self.name}/{self.version}: {', '.join(names)}>"


def _in_order(node: NodeInfo) -> bool:
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
        clock: Monotonic seconds.
    """

    def __init__(self, source: ProviderSource, clock: Callable[[], float] = time.monotonic) -> None:
        self.source = source
        self.clock = clock
        self.closed = False
        self._lock = threading.Lock()
        self._services: dict[tuple[str, str], ServiceEndpoints[ChannelT]] = {}
        self._known: weakref.WeakValueDictionary[tuple[str, str], Endpoint[ChannelT]] = (
            weakref.WeakValueDictionary()
        )

    def service(self, name: str, version: str) -> ServiceEndpoints[ChannelT]:
        """Returns a service's endpoints, always the same object, since it holds whose turn it is.

        Raises:
            ClosedError: If the pool was closed.
        """
        if self.closed:
            raise ClosedError("pool")
        with self._lock:
            service = self._services.get((name, version))
            if service is None:
                service = ServiceEndpoints(self, name, version, RoundRobin())
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

    def renew(self) -> None:
        """Goes on with new endpoints, and so new channels; calls under way keep the old ones."""
        with self._lock:
            before = [service.view for service in self._services.values()]
            self._known = weakref.WeakValueDictionary()
            for service in self._services.values():
                service.view = _View((), (), ())
                service.refresh()
        del before

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

    def close(self) -> list[Endpoint[ChannelT]]:
        """Takes no more picks and lets go of every endpoint; returns those that have a channel."""
        held = self.open_endpoints()
        self.closed = True
        with self._lock:
            services, self._services = self._services, {}
        for service in services.values():
            service.view = _View((), (), ())
        return held
