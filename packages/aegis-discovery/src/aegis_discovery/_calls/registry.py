"""All endpoints of a pool: the part that both pools share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic

from aegis_discovery._calls.balancers import Balancer, RoundRobin
from aegis_discovery._calls.endpoint import ChannelT, Endpoint
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery._calls.stats import PoolStats
from aegis_discovery._calls.views import MayProvide, ProviderSource, View, ViewBuilder
from aegis_discovery._runtime.fork_guard import register_at_fork
from aegis_discovery.errors import ClosedError, ForkedError


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
        ejecting: Held while it is decided whether one more endpoint may be ejected.
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
        self._views: ViewBuilder[ChannelT] = ViewBuilder(region, zone, may_provide)
        self._lock = threading.Lock()
        self.ejecting = threading.Lock()
        self._services: dict[tuple[str, str], ServiceEndpoints[ChannelT]] = {}
        register_at_fork(self)

    def after_fork_in_child(self) -> None:
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
                make_balancer = self._balancers.get(name, RoundRobin)
                service = ServiceEndpoints(self, name, version, make_balancer)
                self._services[name, version] = service
            return service

    def refresh(self, *, anew: bool = False) -> None:
        """Brings all services up to date, so that who left the mesh is dropped by all at once.

        Args:
            anew: Those too whose providers are the same as before.
        """
        with self._lock:
            services = list(self._services.values())
            # What is dropped must go after the lock was released: closing a channel takes a while.
            before = [service.view for service in services]
            denied = [self._update(service, anew) for service in services]
        del before
        # Without the lock too: whoever handles the log may use the pool.
        for service, node_ids in zip(services, denied, strict=True):
            service.tell_of(node_ids)

    def _update(self, service: ServiceEndpoints[ChannelT], anew: bool) -> frozenset[str]:
        """Gives a service its present view; returns the ids of nodes that are newly denied."""
        before = service.view
        nodes = self.source.get_service_providers(service.name, service.version)
        if nodes is before.nodes and not anew:
            return frozenset()
        service.view = self._views.build(nodes, service.name, service.version)
        return service.view.denied - before.denied

    def reevaluate(self) -> None:
        """Asks of every provider again whether it may provide what it declares."""
        self.refresh(anew=True)

    def renew(self) -> None:
        """Goes on with new endpoints, and so new channels; calls under way keep the old ones."""
        with self._lock:
            self._views.forget_endpoints()
        self.refresh(anew=True)

    def open_endpoints(self) -> list[Endpoint[ChannelT]]:
        """Returns the endpoints that have a channel, by node id."""
        with self._lock:
            views = [service.view for service in self._services.values()]
        found = {e for view in views for e in view.everyone if e.channel is not None}
        return sorted(found, key=lambda endpoint: endpoint.node_id)

    def stats(self) -> PoolStats:
        """Returns a snapshot of all services.

        Raises:
            ForkedError: If the pool is that of the process before a fork.
        """
        if self.is_forked:
            raise self.refusal()
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
            service.view = View((), frozenset(), (), ((),))
        return held


def _ignore(endpoint: Endpoint[Any]) -> None:
    endpoint.probed(False, time.monotonic())
