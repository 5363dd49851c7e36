"""All endpoints of a pool: what the sync and the async pool share."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

from aegis_discovery._calls.balancers import Balancer, RoundRobin
from aegis_discovery._calls.endpoint import ChannelT, Endpoint
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery._calls.views import ViewBuilder
from aegis_discovery._calls.waiters import Waiters
from aegis_discovery._model import NodeInfo
from aegis_discovery._runtime.edges import EdgeTable
from aegis_discovery._runtime.fork_guard import register_at_fork
from aegis_discovery.errors import ClosedError, ForkedError

if TYPE_CHECKING:
    from aegis_discovery._calls.source import ProviderChange, ProviderChanges, ProviderSource
    from aegis_discovery._calls.stats import PoolStats

_CLOSED = -1
"""No position of a topology, so that the next pick finds out that the pool was closed."""

USED_FOR = 10.0
"""Seconds after a call in which a pool is in use, and follows each change at once. After that it
leaves changes to its next pick, so that a pool without calls costs nothing."""

_log = logging.getLogger("aegis.pool")

_Changed: TypeAlias = dict[ServiceEndpoints[ChannelT], set[str]]
"""The services whose views changed, with the ids of the nodes that are newly denied."""


class EndpointRegistry(Generic[ChannelT]):
    """All endpoints of a pool, shared by its services.

    An endpoint lives as long as the view of a service or a call holds it. Its channel is dropped
    with the last reference, which ends no call: gRPC keeps a dropped channel until its calls end.

    A service lives as long as it has providers, or a channel or a call holds it.

    Args:
        source: The topology.
        balancers: By a service's name, what makes its balancer; round robin by default.
        views: Builds the views of the services.

    Attributes:
        edges: The counts of the calls.
        identity: The id of this process, once it is known.
        position: The position of the topology that the views follow.
        ejection_lock: Held while deciding whether one more endpoint may be ejected.
        waiters: The calls that wait for a provider.
        probe: Finds out in the background whether an excluded endpoint is back; set by the pool,
            which has the channels.
    """

    # Each call reads some of them, and slots take fewer steps in memory.
    __slots__ = (
        "__weakref__", "_balancers", "_calls", "_lock", "_provided", "_services", "_used_until",
        "closed", "edges", "ejection_lock", "identity", "is_forked", "position", "probe", "source",
        "views", "waiters",
    )  # fmt: skip

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
        self.views: ViewBuilder[ChannelT] = views or ViewBuilder()
        self.edges = EdgeTable("client")
        self.identity = ""
        self.position = source.provider_index.position
        self._balancers = dict(balancers or {})
        self._lock = threading.Lock()
        self.ejection_lock = threading.Lock()
        self._services: weakref.WeakValueDictionary[tuple[str, str], ServiceEndpoints[ChannelT]] = (
            weakref.WeakValueDictionary()
        )
        self._provided: set[ServiceEndpoints[ChannelT]] = set()
        self._calls, self._used_until = 0, 0.0
        register_at_fork(self)
        _follow_changes(weakref.ref(self), source)

    def after_fork_in_child(self) -> None:
        """Closes the registry in a forked child: the channels belong to the parent process."""
        self.is_forked = self.closed = True
        self.position = _CLOSED

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
            if service is not None:
                return service
            make_balancer = self._balancers.get(name, RoundRobin)
            service = ServiceEndpoints(self, name, version, make_balancer)
            # What changes from here on is in the topology's log.
            service.view = service.new_view(self._nodes_of(name, version))
            self._services[name, version] = service
            self._keep(service)
        service.log_denied(service.view.denied)
        return service

    def refresh(self, *, force: bool = False) -> None:
        """Updates the views of all services, so that all drop a node that left at the same time.

        Args:
            force: Also rebuild the views whose providers did not change. This asks `may_provide`
                again.
        """
        # Keep what is dropped until the lock is released: closing its channels takes a while.
        dropped: list[object] = []
        with self._lock:
            changed = self._refresh(dropped, force=force)
        del dropped
        # Also without the lock: a log handler may use the pool.
        for service, denied in changed.items():
            service.log_denied(denied)
        if force:
            self.waiters.changed()

    def refresh_ahead(self, now: float) -> None:
        """Updates the views before the next pick has to, if this pool is in use.

        The thread that changes the topology calls it. So it neither waits for another thread that
        updates the views, nor rebuilds them, nor raises: the next pick does what is left.

        Args:
            now: Monotonic seconds.
        """
        dropped: list[object] = []
        changed: _Changed[ChannelT] = {}
        if self.position == self.source.provider_index.position:
            return
        if not self._lock.acquire(blocking=False):
            return
        try:
            calls = sum(service.calls for service in self._services.values())
            if calls != self._calls:
                self._calls, self._used_until = calls, now + USED_FOR
            if now < self._used_until:
                changed = self._refresh(dropped, may_rebuild=False)
        except Exception:  # noqa: BLE001 - it must not end the feed; the next pick raises it again
            _log.debug("the providers cannot be updated", exc_info=True)
        finally:
            self._lock.release()
        del dropped
        for service, denied in changed.items():
            service.log_denied(denied)

    def _refresh(
        self, dropped: list[object], *, force: bool = False, may_rebuild: bool = True
    ) -> _Changed[ChannelT]:
        position = self.source.provider_index.position
        if self.closed or (position == self.position and not force):
            return {}
        changes = None if force else self.source.provider_changes_since(self.position)
        if changes is not None:
            changed, position = self._follow(changes, dropped), changes.position
        elif may_rebuild:
            changed = self._rebuild(dropped)
        else:
            return {}
        for service in changed:
            self._keep(service)
        self.position = position
        return changed

    def _follow(self, changes: ProviderChanges, dropped: list[object]) -> _Changed[ChannelT]:
        """Updates the views of the services whose providers changed."""
        by_service: dict[ServiceEndpoints[ChannelT], list[ProviderChange]] = {}
        for change in changes.providers:
            service = self._services.get(change.service)
            if service is not None:
                by_service.setdefault(service, []).append(change)
        changed: _Changed[ChannelT] = {}
        for service, of_service in by_service.items():
            denied = changed[service] = set()
            view = service.view
            # While others can take its calls, no call waits for a process that has just started.
            is_late = view.has_others_in_use({change.node_id for change in of_service})
            for change in of_service:
                was_denied = change.node_id in view.denied
                dropped.append(view.update(change.node_id, change.node, is_late=is_late))
                if change.node_id in view.denied and not was_denied:
                    denied.add(change.node_id)
            view.publish()
        return changed

    def _rebuild(self, dropped: list[object]) -> _Changed[ChannelT]:
        """Replaces all views."""
        changed: _Changed[ChannelT] = {}
        for service in list(self._services.values()):
            before = service.view
            dropped.append(before)
            service.view = service.new_view(self._nodes_of(service.name, service.version))
            changed[service] = service.view.denied - before.denied
        return changed

    def _nodes_of(self, name: str, version: str) -> list[NodeInfo]:
        """Returns the nodes that declare a service, failed ones included."""
        failed = self.source.provider_index.failed(name, version)
        return [*self.source.get_service_providers(name, version), *failed]

    def _keep(self, service: ServiceEndpoints[ChannelT]) -> None:
        """Keeps a service as long as it has providers, whether or not anything uses it."""
        if service.view.endpoints or service.view.denied:
            self._provided.add(service)
        else:
            self._provided.discard(service)

    def replace_endpoints(self) -> None:
        """Uses new endpoints, and so new channels, from now on; calls under way keep the old."""
        with self._lock:
            self.views.forget_endpoints()
        self.refresh(force=True)

    def connected_endpoints(self) -> list[Endpoint[ChannelT]]:
        """Returns the endpoints that have a channel, by node id."""
        with self._lock:
            views = [tuple(service.view.endpoints) for service in self._services.values()]
        found = {e for endpoints in views for e in endpoints if e.channel is not None}
        return sorted(found, key=lambda endpoint: endpoint.node_id)

    def stats(self) -> PoolStats:
        """Returns a snapshot of all services.

        Raises:
            ForkedError: If the pool belongs to the process before a fork.
        """
        from aegis_discovery._calls.stats import PoolStats  # many programs never ask

        if self.is_forked:
            raise self.closed_error()
        if not self.closed:
            self.refresh()
        with self._lock:
            services = sorted(self._services.items())
        return PoolStats(
            tuple(service.stats() for _, service in services), self.edges.stats(self.identity)
        )

    def close(self) -> list[Endpoint[ChannelT]]:
        """Refuses further picks and drops all endpoints; returns those that have a channel."""
        connected = self.connected_endpoints()
        self.closed = True
        with self._lock:
            services = list(self._services.values())
            # Keep the old views until the lock is released, as in `refresh`.
            before = [service.view for service in services]
            for service in services:
                service.view = service.new_view(())
            self.position = _CLOSED
        del before
        self.waiters.wake_all()
        return connected


def _follow_changes(registry: weakref.ref[EndpointRegistry[Any]], source: ProviderSource) -> None:
    """Lets a registry follow each change of the topology, as long as it exists and is open."""

    def changed() -> None:
        follower = registry()
        if follower is None or follower.closed:
            unsubscribe()
        else:
            follower.refresh_ahead(time.monotonic())

    unsubscribe = source.subscribe_changed(changed)


def _no_probe(endpoint: Endpoint[Any]) -> None:
    endpoint.probe_ended(False, time.monotonic())
