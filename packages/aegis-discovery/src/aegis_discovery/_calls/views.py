"""Views: the endpoints of a service in tiers, made from one answer of the topology."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sized
from typing import Generic, NamedTuple, Protocol, TypeAlias

from aegis_discovery._calls.endpoint import ChannelT, Endpoint
from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus

TIERS = 3
"""Own zone, own region, everywhere."""

MayProvide: TypeAlias = Callable[[NodeInfo, str, str], bool]
"""Tells whether a node may provide the service of this name and version."""


class ProviderSource(Protocol):
    """What the pool asks of a topology."""

    @property
    def nodes(self) -> Sized:
        """All nodes that are known."""

    def get_service_providers(self, name: str, version: str) -> tuple[NodeInfo, ...]:
        """Returns the providers by node id, and the same object until one of them changes."""


class View(NamedTuple, Generic[ChannelT]):
    """The endpoints of one answer of the topology.

    Each of the tiers is a part of the next one: the own zone, the own region, all that are well.
    """

    nodes: tuple[NodeInfo, ...]
    denied: frozenset[str]
    everyone: tuple[Endpoint[ChannelT], ...]
    tiers: tuple[tuple[Endpoint[ChannelT], ...], ...]


class ViewBuilder(Generic[ChannelT]):
    """Makes views, and keeps one endpoint for each provider and address.

    Args:
        region: Where the callers are; providers there come first.
        zone: A part of the region; providers there come before the others of the region.
        may_provide: Tells whether a node may provide what it declares; None allows all.
    """

    def __init__(self, region: str, zone: str, may_provide: MayProvide | None) -> None:
        self._region = region
        self._zone = zone
        self._may_provide = may_provide
        self._known: weakref.WeakValueDictionary[tuple[str, str], Endpoint[ChannelT]] = (
            weakref.WeakValueDictionary()
        )

    def forget_endpoints(self) -> None:
        """Makes new endpoints, and so new channels, for the views that are built from now on."""
        self._known = weakref.WeakValueDictionary()

    def build(self, nodes: tuple[NodeInfo, ...], name: str, version: str) -> View[ChannelT]:
        """Builds the view of a service from its providers."""
        may = self._may_provide
        allowed = nodes
        if may is not None:
            allowed = tuple(node for node in nodes if may(node, name, version))
        denied: frozenset[str] = frozenset()
        if len(allowed) < len(nodes):
            denied = frozenset(node.id for node in nodes) - {node.id for node in allowed}
        everyone: list[Endpoint[ChannelT]] = []
        tiers: tuple[list[Endpoint[ChannelT]], ...] = tuple([] for _ in range(TIERS))
        for node in allowed:
            endpoint = self._endpoint_of(node)
            if endpoint.is_dialable:
                everyone.append(endpoint)
                if _is_well(node):
                    for tier in tiers[self._distance(node) :]:
                        tier.append(endpoint)
        used = tuple(tuple(tier) for tier in tiers if tier)
        return View(nodes, denied, tuple(everyone), used or (tuple(everyone),))

    def _distance(self, node: NodeInfo) -> int:
        """Returns 0 for a node of the own zone, 1 for one of the own region, else 2."""
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


def _is_well(node: NodeInfo) -> bool:
    return node.health is not HealthStatus.UNHEALTHY and node.status is NodeStatus.ALIVE
