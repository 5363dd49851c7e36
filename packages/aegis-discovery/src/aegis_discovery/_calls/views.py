"""Views: the endpoints of a service by priority, which follow the topology change by change."""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from operator import attrgetter
from typing import Generic, Protocol, TypeAlias

from aegis_discovery._calls.endpoint import ChannelT, Endpoint
from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus

PRIORITIES = 3
"""The caller's zone, the caller's region, everywhere."""

_ALL = PRIORITIES
"""The place of the endpoints that are in no priority, behind the priorities."""

MayProvide: TypeAlias = Callable[[NodeInfo, str, str], bool]
"""Returns whether a node may provide the service of this name and version."""

_node_id = attrgetter("node_id")


class ProviderChange(Protocol):
    """One provider that changed: as it is now, or None if it provides the service no more."""

    @property
    def service(self) -> tuple[str, str]: ...

    @property
    def node_id(self) -> str: ...

    @property
    def node(self) -> NodeInfo | None: ...


class ProviderChanges(Protocol):
    """Changes, and the position that a reader reaches with them."""

    @property
    def position(self) -> int: ...

    @property
    def providers(self) -> Iterable[ProviderChange]: ...


class ProviderIndex(Protocol):
    """Tells, without a lock, whether providers changed."""

    position: int

    def changed_at(self, name: str, version: str) -> int:
        """Returns the position of a service's last change; 0 if it has no provider."""


class ProviderSource(Protocol):
    """What the pool needs of a topology."""

    @property
    def node_count(self) -> int:
        """The number of known nodes."""

    @property
    def provider_index(self) -> ProviderIndex:
        """The index of the providers."""

    def provider_changes_since(self, position: int) -> ProviderChanges | None:
        """Returns the providers that changed after a position; None if that is too long ago."""

    def get_service_providers(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the providers by node id."""

    def get_service_versions(self, name: str) -> tuple[str, ...]:
        """Returns the versions of a service that nodes provide."""

    def subscribe_changed(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Calls `listener` after every change; returns what unsubscribes it."""


class View(Generic[ChannelT]):
    """The endpoints of one service, in the order of their node ids.

    One thread at a time updates a view, while others read it. A list of endpoints changes in place,
    for copies of thousands of endpoints would cost more than all else. It never becomes empty in
    place, so a reader that asked whether it is empty may go on. It may become shorter.

    Args:
        builder: Makes the endpoints.
        name: The name of the service.
        version: Its version.
        is_copied: Whether `priorities` holds copies that never change, for balancers that are not
            made for lists that do.

    Attributes:
        denied: The ids of nodes that declare the service and may not provide it.
        priorities: The healthy endpoints in the caller's zone, in its region, and everywhere. Each
            priority contains the one before it; empty ones are left out. Where no endpoint is
            healthy, all endpoints are the only priority.
    """

    __slots__ = ("_builder", "_is_copied", "_lists", "_name", "_version", "denied", "priorities")

    def __init__(
        self, builder: ViewBuilder[ChannelT], name: str, version: str, *, is_copied: bool = False
    ) -> None:
        self._builder = builder
        self._name = name
        self._version = version
        self._is_copied = is_copied
        self._lists: list[list[Endpoint[ChannelT]]] = [[] for _ in range(PRIORITIES + 1)]
        self.denied: set[str] = set()
        self.priorities: tuple[Sequence[Endpoint[ChannelT]], ...] = ((),)

    @property
    def endpoints(self) -> Sequence[Endpoint[ChannelT]]:
        """All endpoints, healthy or not, but not the denied ones."""
        return self._lists[_ALL]

    def update(
        self, node_id: str, node: NodeInfo | None, *, is_late: bool = False
    ) -> Endpoint[ChannelT] | None:
        """Follows the change of one provider; `publish` has to follow.

        Args:
            node_id: Its id.
            node: The provider as it is now; None if it provides the service no more.
            is_late: Whether a new endpoint waits for a probe before it gets calls.

        Returns:
            The endpoint that is not used any more, if there is one.
        """
        endpoint, first = None, _ALL
        if node is not None and not self._builder.may_provide(node, self._name, self._version):
            self.denied.add(node_id)
        else:
            self.denied.discard(node_id)
            if node is not None:
                endpoint = self._builder.endpoint_of(node, is_late=is_late)
                first = self._builder.place_of(node)
        for place in range(PRIORITIES):
            self._put(place, node_id, endpoint if place >= first else None)
        return self._put(_ALL, node_id, endpoint)

    def has_others_in_use(self, node_ids: Collection[str]) -> bool:
        """Returns whether an endpoint of another node is in use, and these nodes are not most."""
        endpoints = self.endpoints
        return len(node_ids) <= len(endpoints) and any(
            not endpoint.excluded and endpoint.node_id not in node_ids for endpoint in endpoints
        )

    def publish(self) -> None:
        """Sets the priorities, after updates."""
        used = [endpoints for endpoints in self._lists[:_ALL] if endpoints]
        if not used:
            used = [self._lists[_ALL]]
        self.priorities = tuple(map(tuple, used)) if self._is_copied else tuple(used)

    def _put(
        self, place: int, node_id: str, endpoint: Endpoint[ChannelT] | None
    ) -> Endpoint[ChannelT] | None:
        """Makes this the endpoint of a node in one list; returns the one that it replaces."""
        endpoints = self._lists[place]
        at, before = len(endpoints), None
        if endpoints and node_id <= endpoints[-1].node_id:
            at = bisect_left(endpoints, node_id, key=_node_id)
            if endpoints[at].node_id == node_id:
                before = endpoints[at]
        if before is endpoint:
            return None
        if endpoint is None:
            if len(endpoints) == 1:
                self._lists[place] = []
            else:
                del endpoints[at]
        elif before is None:
            endpoints.insert(at, endpoint)
        else:
            endpoints[at] = endpoint
        return before


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
        self.may_provide: MayProvide = may_provide or (lambda *_: True)
        self._known: weakref.WeakValueDictionary[tuple[str, str], Endpoint[ChannelT]] = (
            weakref.WeakValueDictionary()
        )

    def forget_endpoints(self) -> None:
        """Makes later views use new endpoints, and so new channels."""
        self._known = weakref.WeakValueDictionary()

    def build(
        self, nodes: Iterable[NodeInfo], name: str, version: str, *, is_copied: bool = False
    ) -> View[ChannelT]:
        """Returns the view of these providers."""
        view = View(self, name, version, is_copied=is_copied)
        for node in nodes:
            view.update(node.id, node)
        view.publish()
        return view

    def place_of(self, node: NodeInfo) -> int:
        """Returns the first priority that a provider belongs to; one too many for none."""
        if node.health is HealthStatus.UNHEALTHY or node.status is not NodeStatus.ALIVE:
            return _ALL
        if node.region != self._region:
            return 2
        if self._zone and node.zone == self._zone:
            return 0
        return 1 if self._region else 2

    def endpoint_of(self, node: NodeInfo, *, is_late: bool) -> Endpoint[ChannelT] | None:
        """Returns the endpoint of a provider; None if its address is not valid."""
        key = (node.id, node.address)
        endpoint = self._known.get(key)
        if endpoint is None:
            endpoint = self._known[key] = Endpoint(node.id, node.address)
            if is_late:
                endpoint.await_probe()
        return endpoint if endpoint.is_dialable else None
