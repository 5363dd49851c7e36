"""Views: the endpoints of a service by tier, which follow the topology change by change."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeAlias

from aegis_discovery._calls.endpoint import ChannelT, Endpoint, put
from aegis_discovery._calls.probes import Probes
from aegis_discovery._calls.spillover import Part, parts_of
from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus

SHARED = 3
"""The tiers that share the load: the caller's zone, the rest of its region, everywhere else."""

UNWELL = SHARED
"""The tier of nodes that the mesh, or they themselves, report as not healthy."""

UNREACHABLE = SHARED + 1
"""The last tier: nodes of regions that are silent as a whole. The two get calls only while nothing
in the tiers before is in use."""

TIERS = UNREACHABLE + 1

_ALL = TIERS
"""The place of all endpoints, behind the tiers."""

MayProvide: TypeAlias = Callable[[NodeInfo, str, str], bool]
"""Returns whether a node may provide the service of this name and version."""


class View(Generic[ChannelT]):
    """The endpoints of one service, in the order of their node ids.

    One thread at a time updates a view, while others read it. A list of endpoints changes in place,
    for copies of thousands of endpoints would cost more than all else. It never becomes empty in
    place, so a reader that asked whether it is empty may go on. It may become shorter.

    Args:
        builder: Makes the endpoints.
        name: The name of the service.
        version: Its version.
        is_copied: Whether readers get copies that never change, for balancers that are not made for
            lists that do.

    Attributes:
        denied: The ids of nodes that declare the service and may not provide it.
        regions: The regions of nodes that provide it only there, and not here, by their ids.
        tiers: The endpoints by tier; each is in one.
        nearest: The endpoints of the tier that takes all load, as nearly always one does. Empty
            where picks must look at `parts` and `excluded`.
        parts: How the load is divided; empty if no endpoint is in use.
        excluded: The endpoints that are not in use, the longest unvisited first.
    """

    __slots__ = (
        "__weakref__", "_builder", "_counts", "_in_use", "_is_copied", "_is_stale", "_lists",
        "_lock", "_name", "_out", "_placed", "_probes", "_version", "_weak", "denied", "excluded",
        "nearest", "parts", "regions", "tiers",
    )  # fmt: skip

    def __init__(
        self, builder: ViewBuilder[ChannelT], name: str, version: str, *, is_copied: bool = False
    ) -> None:
        self._builder = builder
        self._name = name
        self._version = version
        self._is_copied = is_copied
        self._lists: list[list[Endpoint[ChannelT]]] = [[] for _ in range(TIERS + 1)]
        self._in_use: list[list[Endpoint[ChannelT]]] = [[] for _ in range(TIERS + 1)]
        # The tier of each endpoint: a search in lists of thousands takes longer than all else.
        self._placed: dict[str, tuple[Endpoint[ChannelT], int]] = {}
        self._probes = Probes[ChannelT]()
        # Endpoints change by the calls of any thread, also while the view is updated.
        self._lock = threading.Lock()
        self._is_stale = False
        self._weak: weakref.ref[Any] = weakref.ref(self)
        self._out: dict[str, int] = {}
        self._counts = [_Counts() for _ in range(TIERS)]
        self.denied: set[str] = set()
        self.regions: dict[str, str] = {}
        self.excluded: OrderedDict[Endpoint[ChannelT], _Exclusion] = OrderedDict()
        self.tiers: tuple[Sequence[Endpoint[ChannelT]], ...] = ((),) * TIERS
        self.nearest: Sequence[Endpoint[ChannelT]] = ()
        self.parts: tuple[Part[ChannelT], ...] = ()

    @property
    def endpoints(self) -> Sequence[Endpoint[ChannelT]]:
        """All endpoints, healthy or not, but not the denied and the failed ones."""
        return self._lists[_ALL]

    @property
    def unwell(self) -> Collection[str]:
        """The ids of providers that the mesh, or they themselves, report as not healthy."""
        return self._out

    def all_in_use(self, tier: int | None = None) -> Sequence[Endpoint[ChannelT]]:
        """Returns the endpoints of a tier, or all whether or not healthy, that are in use."""
        return self._in_use[_ALL if tier is None else tier]

    @property
    def healthy(self) -> int:
        """The number of healthy endpoints, in use or not."""
        return sum(map(len, self._lists[:SHARED]))

    @property
    def ejected(self) -> int:
        """How many of them are ejected."""
        return sum(counts.ejected for counts in self._counts[:SHARED])

    def in_use(self, tier: int | None = None) -> int:
        """Returns how many endpoints of a tier, or of all healthy ones, are in use."""
        tiers = range(SHARED) if tier is None else (tier,)
        return sum(len(self._lists[tier]) - self._counts[tier].excluded for tier in tiers)

    def update(
        self, node_id: str, node: NodeInfo | None, *, is_late: bool = False
    ) -> Endpoint[ChannelT] | None:
        """Follows the change of one provider; `publish` has to follow.

        Args:
            node_id: Its id.
            node: The provider as it is now, failed or not; None if it does not declare the service.
            is_late: Whether a new endpoint waits for a probe before it gets calls.

        Returns:
            The endpoint that is not used any more, if there is one.
        """
        endpoint = place = out = None
        self.denied.discard(node_id)
        self.regions.pop(node_id, None)
        has_failed = node is not None and node.status is NodeStatus.FAILED
        if node is not None and not self._builder.is_offered(node, self._name, self._version):
            if not has_failed:
                self.regions[node_id] = node.region
            node = None
        if node is not None:
            if self._builder.may_provide(node, self._name, self._version):
                place = out = self._builder.tier_of(node)
                if place < SHARED and is_unwell(node):
                    place = UNWELL
                elif place < SHARED:
                    out = None
                if not has_failed:
                    endpoint = self._builder.endpoint_of(node, is_late=is_late)
            elif not has_failed:
                self.denied.add(node_id)
        with self._lock:
            self._is_stale = True
            was_out = self._out.pop(node_id, None)
            if was_out is not None:
                self._counts[was_out].out -= 1
            if out is not None and (has_failed or endpoint is not None):
                self._out[node_id] = out
                self._counts[out].out += 1
            before = self._place(node_id, endpoint, place)
            if before is not None:
                self._count(before, None)
                before.remove_listener(self._weak)
            if endpoint is not None:
                endpoint.add_listener(self._weak)
                self._count(endpoint, place)
                self._follow(endpoint, self._places_of(endpoint))
        return before

    def _place(
        self, node_id: str, endpoint: Endpoint[ChannelT] | None, place: int | None
    ) -> Endpoint[ChannelT] | None:
        """Makes this the endpoint of a node; returns what it replaces."""
        before, was_in = self._placed.get(node_id, (None, None))
        if before is endpoint and (endpoint is None or was_in == place):
            return None
        if was_in is not None and (endpoint is None or was_in != place):
            self._take_out(node_id, was_in)
        if endpoint is None or place is None:
            del self._placed[node_id]
            self._take_out(node_id, _ALL)
            return before
        self._placed[node_id] = (endpoint, place)
        self._lists[place], _ = put(self._lists[place], node_id, endpoint)
        if before is endpoint:
            return None
        self._lists[_ALL], _ = put(self._lists[_ALL], node_id, endpoint)
        return before

    def _take_out(self, node_id: str, place: int) -> None:
        self._lists[place], _ = put(self._lists[place], node_id, None)
        self._in_use[place], _ = put(self._in_use[place], node_id, None)

    def endpoint_changed(self, endpoint: Endpoint[ChannelT]) -> None:
        """Follows a change of whether an endpoint is in use."""
        with self._lock:
            places = self._places_of(endpoint)
            self._count(endpoint, places[0] if places else None)
            if places:
                self._follow(endpoint, places)
            if not self._is_stale:  # else `publish` follows
                self._divide()

    def next_probe(self) -> float:
        """Returns when the next probe of an endpoint is due; infinity for never."""
        with self._lock:
            return self._probes.next(self._find)

    def due_probes(self, now: float, at_most: int) -> list[Endpoint[ChannelT]]:
        """Returns endpoints whose probes are due; each probe is returned once."""
        with self._lock:
            return self._probes.take(now, at_most, self._find)

    def next_excluded(self) -> Endpoint[ChannelT] | None:
        """Returns one endpoint that is not in use: each of them in turn."""
        with self._lock:
            for endpoint in self.excluded:
                self.excluded.move_to_end(endpoint)
                return endpoint
        return None

    def has_others_in_use(self, node_ids: Collection[str]) -> bool:
        """Returns whether an endpoint of another node is in use, and these nodes are not most."""
        in_use = islice(self._in_use[_ALL], len(node_ids) + 1)
        return len(node_ids) <= len(self.endpoints) and any(
            endpoint.node_id not in node_ids for endpoint in in_use
        )

    def publish(self) -> None:
        """Shows readers the lists, after updates."""
        with self._lock:
            tiers = self._lists[:_ALL]
            self.tiers = tuple(map(tuple, tiers)) if self._is_copied else tuple(tiers)
            self._is_stale = False
            self._divide()

    def _divide(self) -> None:
        """Divides the load among the tiers; costs the same whatever their sizes are."""
        tiers, counts = self.tiers, self._counts
        used = [tier for tier in range(SHARED) if len(tiers[tier]) > counts[tier].excluded]
        if len(used) > 1:
            figures = [
                (len(tiers[tier]) - one.excluded, len(tiers[tier]) - one.new + one.out)
                for tier, one in enumerate(counts[:SHARED])
            ]
            self.parts = parts_of(tiers, figures)
        else:  # one takes all, as nearly always
            if not used:
                used = [tier for tier in (UNWELL, UNREACHABLE) if self.in_use(tier)][:1]
            self.parts = tuple([Part(1.0, tier, tiers[tier]) for tier in used])
        nearest: Sequence[Endpoint[ChannelT]] = ()
        if len(self.parts) == 1:
            tier = self.parts[0].tier
            # An excluded endpoint of a tier without load is probed only if picks look for it.
            if not any(one.excluded for one in counts[:tier]):
                nearest = tiers[tier]
        self.nearest = nearest

    def _count(self, endpoint: Endpoint[ChannelT], place: int | None) -> None:
        """Counts an endpoint of a place if it is not in use; None for one of no place."""
        before = self.excluded.get(endpoint)
        now = None
        if place is not None and endpoint.excluded:
            now = _Exclusion(place, endpoint.is_new, endpoint.ejected)
        if now is before or now == before:
            return
        if before is not None:
            self._counts[before.place].add(before, -1)
        if now is None:
            del self.excluded[endpoint]
        else:
            self._counts[now.place].add(now, 1)
            self.excluded[endpoint] = now

    def _places_of(self, endpoint: Endpoint[ChannelT]) -> tuple[int, ...]:
        placed, place = self._placed.get(endpoint.node_id, (None, _ALL))
        return (place, _ALL) if placed is endpoint else ()

    def _find(self, node_id: str) -> Endpoint[ChannelT] | None:
        placed = self._placed.get(node_id)
        return None if placed is None else placed[0]

    def _follow(self, endpoint: Endpoint[ChannelT], places: Iterable[int]) -> None:
        """Follows whether an endpoint of these places is in use, and when it is to be probed."""
        node_id, wanted = endpoint.node_id, None if endpoint.excluded else endpoint
        for place in places:
            self._in_use[place], _ = put(self._in_use[place], node_id, wanted)
        if endpoint.excluded:
            self._probes.add(endpoint, self.excluded)


class _Exclusion(NamedTuple):
    """The tier of an endpoint that is not in use, and why it is not."""

    place: int
    is_new: bool
    is_ejected: bool


class _Counts:
    """What the lists do not show of one place.

    Attributes:
        out: Providers that failed or are not healthy, and belong here by their distance.
        excluded: Endpoints that are not in use.
        new: Those of them that wait for their first probe.
        ejected: Those of them that are ejected.
    """

    __slots__ = ("ejected", "excluded", "new", "out")

    def __init__(self) -> None:
        self.out = self.excluded = self.new = self.ejected = 0

    def add(self, exclusion: _Exclusion, count: int) -> None:
        self.excluded += count
        self.new += count * exclusion.is_new
        self.ejected += count * exclusion.is_ejected


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

    def is_offered(self, node: NodeInfo, name: str, version: str) -> bool:
        """Returns whether a node provides a service to callers in this region."""
        return node.offers(name, version, region=self._region)

    def tier_of(self, node: NodeInfo) -> int:
        """Returns the tier of a node, were it healthy: how far it is from the callers."""
        if node.status is NodeStatus.UNREACHABLE:
            return UNREACHABLE
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


def is_unwell(node: NodeInfo) -> bool:
    """Returns whether the mesh, or a node itself, reports it as not healthy."""
    return node.health is HealthStatus.UNHEALTHY or node.status is not NodeStatus.ALIVE
