"""Views: the endpoints of a service by priority, built from one answer of the topology."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sized
from typing import Generic, NamedTuple, Protocol, TypeAlias

from aegis_discovery._calls.endpoint import ChannelT, Endpoint
from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus

PRIORITIES = 3
"""The caller's zone, the caller's region, everywhere."""

MayProvide: TypeAlias = Callable[[NodeInfo, str, str], bool]
"""Returns whether a node may provide the service of this name and version."""


class ProviderSource(Protocol):
    """What the pool needs of a topology."""

    @property
    def nodes(self) -> Sized:
        """All known nodes."""

    def get_service_providers(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the providers by node id, and the same object until one of them changes."""

    def get_service_versions(self, name: str) -> tuple[str, ...]:
        """Returns the versions of a service that nodes provide."""

    def subscribe_changed(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Calls `listener` after every change; returns what unsubscribes it."""


class View(NamedTuple, Generic[ChannelT]):
    """The endpoints of one answer of the topology.

    Attributes:
        nodes: The answer.
        denied: The ids of nodes that declare the service and may not provide it.
        endpoints: All others, healthy or not, by node id.
        priorities: The healthy ones in the caller's zone, in its region, and everywhere. Each
            priority contains the one before it; empty ones are left out. Where no endpoint is
            healthy, all endpoints are the only priority.
    """

    nodes: tuple[NodeInfo, ...]
    denied: frozenset[str]
    endpoints: tuple[Endpoint[ChannelT], ...]
    priorities: tuple[tuple[Endpoint[ChannelT], ...], ...]


class ViewBuilder(Generic[ChannelT]):
    """Builds views, and keeps one endpoint for each provider and address.

    Args:
        region: The region of the callers; its providers are preferred.
        zone: The zone of the callers in that region; its providers are preferred above all.
        may_provide: Decides whether a node may provide what it declares; None allows all.
    """

    def __init__(
        self, region: str = "", zone: str = "", may_provide: MayProvide | None = None
    ) -> None:
        self._region = region
        self._zone = zone
        self._may_provide = may_provide
        self._known: weakref.WeakValueDictionary[tuple[str, str], Endpoint[ChannelT]] = (
            weakref.WeakValueDictionary()
        )

    def forget_endpoints(self) -> None:
        """Makes later views use new endpoints, and so new channels."""
        self._known = weakref.WeakValueDictionary()

    def build(self, nodes: tuple[NodeInfo, ...], name: str, version: str) -> View[ChannelT]:
        may = self._may_provide
        allowed = nodes
        if may is not None:
            allowed = tuple(node for node in nodes if may(node, name, version))
        denied: frozenset[str] = frozenset()
        if len(allowed) < len(nodes):
            denied = frozenset(node.id for node in nodes) - {node.id for node in allowed}
        endpoints: list[Endpoint[ChannelT]] = []
        priorities: tuple[list[Endpoint[ChannelT]], ...] = tuple([] for _ in range(PRIORITIES))
        for node in allowed:
            endpoint = self._endpoint_of(node)
            if endpoint.is_dialable:
                endpoints.append(endpoint)
                if node.health is not HealthStatus.UNHEALTHY and node.status is NodeStatus.ALIVE:
                    for priority in priorities[self._priority_of(node) :]:
                        priority.append(endpoint)
        used = tuple(tuple(priority) for priority in priorities if priority)
        return View(nodes, denied, tuple(endpoints), used or (tuple(endpoints),))

    def _priority_of(self, node: NodeInfo) -> int:
        if node.region != self._region:
            return 2
        if self._zone and node.zone == self._zone:
            return 0
        return 1 if self._region else 2

    def _endpoint_of(self, node: NodeInfo) -> Endpoint[ChannelT]:
        key = (node.id, node.address)
        endpoint = self._known.get(key)
        if endpoint is None:
            endpoint = self._known[key] = Endpoint(node.id, node.address)
        return endpoint
