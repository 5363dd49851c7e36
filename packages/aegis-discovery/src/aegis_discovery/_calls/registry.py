"""All endpoints of a pool: what the sync and the async pool share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic

from aegis_discovery._calls.balancers import Balancer, RoundRobin
from aegis_discovery._calls.endpoint import ChannelT, Endpoint
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery._calls.stats import PoolStats
from aegis_discovery._calls.views import ProviderSource, View, ViewBuilder
from aegis_discovery._calls.waiting import Waiters
from aegis_discovery._runtime.fork_guard import register_at_fork
from aegis_discovery.errors import ClosedError, ForkedError


class EndpointRegistry(Generic[ChannelT]):
    """All endpoints of a pool, shared by its services.

    An endpoint lives as long as the view of a service or a call holds it. Its channel is dropped
    with the last reference, which ends no call: gRPC keeps a dropped channel until its calls end.

    Args:
        source: The topology.
        balancers: By a service's name, what makes its balancer; round robin by default.
        views: Builds the views of the services.

    Attributes:
        ejection_lock: Held while deciding whether one more endpoint may be ejected.
        waiters: The calls that wait for a provider.
        probe: Finds out in the background whether an excluded endpoint is back; set by the pool,
            which has the channels.
    """

    def __init__(
        self,
        source: ProviderSource,
        *,
        balancers: Mapping[str, Callable[[], Balancer]] | None = None,
        views: ViewBuilder[ChannelT] | None = None,
    ) -> None:
        self.source = source
        self.closed = self.is_forked = False
        self.waiters = Waiters(source)
        self.probe: Callable[[Endpoint[ChannelT]], None] = _no_probe
        self._balancers = dict(balancers or {})
        self._views: ViewBuilder[ChannelT] = views or ViewBuilder()
        self._lock = threading.Lock()
        self.ejection_lock = threading.Lock()
        self._services: dict[tuple[str, str], ServiceEndpoints[ChannelT]] = {}
        register_at_fork(self)

    def after_fork_in_child(self) -> None:
        """Closes the registry in a forked child: the channels belong to the parent process."""
        self.is_forked = self.closed = True

    def closed_error(self) -> ClosedError:
        return ForkedError("pool") if self.is_forked else ClosedError("pool")

    def service(self, name: str, version: str) -> ServiceEndpoints[ChannelT]:
        """Returns a service's endpoints: always the same object, which holds the balancer.

        Raises:
            ClosedError: If the pool was closed, or belongs to the process before a fork.
        """
        if self.closed:
            raise self.closed_error()
        with self._lock:
            service = self._services.get((name, version))
            if service is None:
                make_balancer = self._balancers.get(name, RoundRobin)
                service = ServiceEndpoints(self, name, version, make_balancer)
                self._services[name, version] = service
            return service

    def refresh(self, *, force: bool = False) -> None:
        """Updates the views of all services, so that all drop a node that left at the same time.

        Args:
            force: Also rebuild the views whose providers did not change. This asks `may_provide`
                again.
        """
        with self._lock:
            services = list(self._services.values())
            # Keep the old views until the lock is released: closing their channels takes a while.
            before = [service.view for service in services]
            denied = [self._update(service, force) for service in services]
        del before
        # Also without the lock: a log handler may use the pool.
        for service, node_ids in zip(services, denied, strict=True):
            service.log_denied(node_ids)
        if force:
            self.waiters.changed()

    def _update(self, service: ServiceEndpoints[ChannelT], force: bool) -> frozenset[str]:
        """Gives a service its present view; returns the ids of newly denied nodes."""
        before = service.view
        nodes = self.source.get_service_providers(service.name, service.version)
        if nodes is before.nodes and not force:
            return frozenset()
        service.view = self._views.build(nodes, service.name, service.version)
        return service.view.denied - before.denied

    def replace_endpoints(self) -> None:
        """Uses new endpoints, and so new channels, from now on; calls under way keep the old."""
        with self._lock:
            self._views.forget_endpoints()
        self.refresh(force=True)

    def connected_endpoints(self) -> list[Endpoint[ChannelT]]:
        """Returns the endpoints that have a channel, by node id."""
        with self._lock:
            views = [service.view for service in self._services.values()]
        found = {e for view in views for e in view.endpoints if e.channel is not None}
        return sorted(found, key=lambda endpoint: endpoint.node_id)

    def stats(self) -> PoolStats:
        """Returns a snapshot of all services.

        Raises:
            ForkedError: If the pool belongs to the process before a fork.
        """
        if self.is_forked:
            raise self.closed_error()
        if not self.closed:
            self.refresh()
        with self._lock:
            services = sorted(self._services.items())
        return PoolStats(tuple(service.stats() for _, service in services))

    def close(self) -> list[Endpoint[ChannelT]]:
        """Refuses further picks and drops all endpoints; returns those that have a channel."""
        connected = self.connected_endpoints()
        self.closed = True
        with self._lock:
            services = list(self._services.values())
        for service in services:
            service.view = View((), frozenset(), (), ((),))
        self.waiters.wake_all()
        return connected


def _no_probe(endpoint: Endpoint[Any]) -> None:
    endpoint.probe_ended(False, time.monotonic())
