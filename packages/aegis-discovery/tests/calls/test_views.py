"""Views follow the topology change by change, and are then as if built from scratch."""

from __future__ import annotations

import itertools
import math
import random
import sys
import threading
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from aegis_discovery._calls.balancers import Balancer, EndpointT, LeastRequests, RoundRobin
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.registry import USED_FOR, EndpointRegistry
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery._calls.views import ViewBuilder
from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery._topology.providers import MAX_LOG
from aegis_discovery._topology.topology import Topology
from hypothesis import given, settings
from hypothesis import strategies as st

S, T = ServiceInfo("s", "v1"), ServiceInfo("t", "v1")
NOW = 100.0


def node(node_id: str, **changes: Any) -> NodeInfo:
    return replace(NodeInfo(node_id, address=f"{node_id}.example:1", services=(S,)), **changes)


class Silent(Topology):
    """It announces no change, so that a test decides when a pool follows it."""

    def subscribe_changed(self, listener: Callable[[], object]) -> Callable[[], None]:
        return lambda: None


nodes = st.builds(
    NodeInfo,
    st.sampled_from("abcdef"),
    type=st.sampled_from(("honest", "rogue", "accused")),
    address=st.sampled_from(("h:1", "h:2", "nonsense")),
    services=st.sampled_from(((S,), (S, T), (T,), ())),
    health=st.sampled_from((HealthStatus.HEALTHY, HealthStatus.UNHEALTHY)),
    region=st.sampled_from(("eu", "us")),
    zone=st.sampled_from(("1", "2")),
)
steps = st.one_of(
    nodes.map(lambda info: ("put", info)),
    st.sampled_from("abcdef").map(lambda node_id: ("remove", node_id)),
    st.tuples(
        st.sampled_from(
            (NodeStatus.ALIVE, NodeStatus.SUSPECTED, NodeStatus.UNREACHABLE, NodeStatus.FAILED)
        ),
        st.sampled_from("abcdef"),
    ),
    st.tuples(st.sampled_from(("unreached", "ejected", "probed")), st.sampled_from("abcdef")),
    st.sampled_from((("look", S), ("look", T), ("rules", None), ("identity", None))),
)


class Seen:
    """What a pool should see of a topology, computed from all nodes."""

    def __init__(self, topology: Topology, service: ServiceInfo, denied_types: set[str]) -> None:
        declaring = [info for info in topology.nodes.values() if service in info.services]
        honest = [info for info in declaring if info.type not in denied_types]
        failed = [info for info in honest if info.status is NodeStatus.FAILED]
        self.denied = {
            info.id
            for info in declaring
            if info.type in denied_types and info.status is not NodeStatus.FAILED
        }
        usable = [info for info in honest if info not in failed and info.address != "nonsense"]
        unwell = [
            info
            for info in usable
            if info.status is not NodeStatus.ALIVE or info.health is HealthStatus.UNHEALTHY
        ]
        self.endpoints = [(info.id, info.address) for info in usable]
        self.unwell = {info.id for info in (*failed, *unwell)}
        self.tiers: list[list[tuple[str, str]]] = [[], [], [], [], []]
        self.out = [0, 0, 0, 0, 0]
        for info in usable:
            tier = 3 if info in unwell and tier_of(info) < 3 else tier_of(info)
            self.tiers[tier].append((info.id, info.address))
        for info in (*failed, *unwell):
            self.out[tier_of(info)] += 1

    def shares(self, endpoints: Sequence[Any]) -> list[tuple[int, float]]:
        """The rule, from the states of the endpoints."""
        state = {(e.node_id, e.address): e for e in endpoints}
        able, in_use = [], []
        for tier, out in zip(self.tiers, self.out, strict=True):
            known = [state[key] for key in tier]
            healthy = sum(not e.excluded for e in known)
            total = out + sum(not e.is_new for e in known)
            able.append(min(1.0, 1.4 * healthy / total) if healthy else 0.0)
            in_use.append(healthy)
        able = able[:3]
        if not any(able):
            return [(tier, 1.0) for tier in (3, 4) if in_use[tier]][:1]
        left, shares = 1.0, []
        for part in able:
            shares.append(min(left, part / min(1.0, sum(able))) if part else 0.0)
            left -= shares[-1]
        return [(tier, share) for tier, share in enumerate(shares) if share > 0]


def tier_of(info: NodeInfo) -> int:
    if info.status is NodeStatus.UNREACHABLE:
        return 4
    if info.region != "eu":
        return 2
    return 0 if info.zone == "1" else 1


def shown(endpoints: Sequence[Any]) -> list[tuple[str, str]]:
    return [(endpoint.node_id, endpoint.address) for endpoint in endpoints]


def set_status(topology: Topology, node_id: str, status: NodeStatus) -> None:
    record = topology.get_record(node_id)
    if record is not None:
        topology.set_status(node_id, record.stamp, status)


@given(
    st.lists(steps, max_size=40),
    st.sampled_from((RoundRobin, LeastRequests, lambda: First())),
    st.sampled_from((2, 8, MAX_LOG)),
    st.sampled_from((Topology, Silent)),
)
@settings(max_examples=200, deadline=None)
def test_after_any_changes_a_view_is_as_if_built_from_scratch(
    script: list[tuple[Any, Any]],
    balancer: Callable[[], Balancer],
    log: int,
    make: Callable[[], Topology],
) -> None:
    topology = make()
    topology.provider_index._log = deque(maxlen=log)  # so that a pool may be too far behind
    denied = {"rogue"}
    views = ViewBuilder[object]("eu", "1", lambda info, *_: info.type not in denied)
    registry: EndpointRegistry[object] = EndpointRegistry(
        topology, balancers=dict.fromkeys("st", balancer), views=views
    )
    services = {service: registry.service(service.name, service.version) for service in (S, T)}

    def look(asked: ServiceInfo) -> None:
        picked = services[asked].pick(NOW)
        for service, endpoints in services.items():  # all services follow with the first pick
            seen, view = Seen(topology, service, denied), endpoints.view
            assert shown(view.endpoints) == seen.endpoints
            assert [shown(tier) for tier in view.tiers] == seen.tiers
            assert (view.denied, set(view.unwell)) == (seen.denied, seen.unwell)
            assert set(view.excluded) == {e for e in view.endpoints if e.excluded}
            shares = seen.shares(view.endpoints)
            assert [part.tier for part in view.parts] == [tier for tier, _ in shares]
            until = itertools.accumulate(share for _, share in shares)
            assert [part.until for part in view.parts] == pytest.approx(list(until))
            fresh = endpoints.new_view(topology.get_service_providers(*key_of(service)))
            assert [list(tier) for tier in fresh.tiers] == [list(tier) for tier in view.tiers]
        usable = Seen(topology, asked, denied).endpoints
        assert (picked is None and usable == []) or shown([picked])[0] in usable

    for operation, argument in script:
        match operation:
            case "put":
                topology.add_node(argument)
            case "remove" if topology.get_node(argument) is not None:
                topology.remove_node(argument)
            case NodeStatus():
                set_status(topology, argument, operation)
            case "unreached" | "ejected" | "probed":
                for endpoint in services[S].view.endpoints:
                    if endpoint.node_id == argument:
                        change_use(endpoint, operation)
            case "rules":
                denied ^= {"accused"}
                registry.refresh(force=True)
            case "identity":
                registry.replace_endpoints()
            case "look":
                look(argument)
    look(S)


def change_use(endpoint: Endpoint[object], what: str) -> None:
    if what == "unreached":
        endpoint.connection_failed(NOW)
    elif what == "ejected":
        endpoint.eject(NOW)
    elif endpoint.claim_probe(math.inf):
        endpoint.probe_ended(True, NOW)


def key_of(service: ServiceInfo) -> tuple[str, str]:
    return service.name, service.version


class First:
    """A balancer of a user; it notices a change by the object that it is given."""

    def __init__(self) -> None:
        self.known: tuple[Sequence[Any], list[str]] = ((), [])

    def pick(self, endpoints: Sequence[EndpointT]) -> EndpointT:
        known, ids = self.known
        if endpoints is not known:
            ids = [endpoint.node_id for endpoint in endpoints]
            self.known = endpoints, ids
        assert [endpoint.node_id for endpoint in endpoints] == ids
        return endpoints[0]


def service_of(
    *infos: NodeInfo, make: Callable[[], Balancer] = RoundRobin
) -> tuple[Topology, ServiceEndpoints[object]]:
    topology = Topology()
    for info in infos:
        topology.add_node(info)
    registry: EndpointRegistry[object] = EndpointRegistry(topology, balancers={"s": make})
    return topology, registry.service(*key_of(S))


def test_one_change_asks_the_policy_about_one_provider() -> None:
    topology, asked = Topology(), []
    for number in range(300):
        topology.add_node(node(f"n{number}"))

    def may(info: NodeInfo, *_: str) -> bool:
        asked.append(info.id)
        return True

    registry: EndpointRegistry[object] = EndpointRegistry(
        topology, views=ViewBuilder(may_provide=may)
    )
    service = registry.service(*key_of(S))
    asked.clear()
    topology.update_node(node("n7", health=HealthStatus.UNHEALTHY))
    topology.remove_node("n8")
    topology.add_node(node("other", services=(T,)))
    service.pick(NOW)
    assert asked == ["n7"]


def is_up_to_date(service: ServiceEndpoints[object], topology: Topology) -> bool:
    view = service.view
    return [e.node_id for e in view.endpoints] == [
        info.id for info in topology.get_service_providers(*key_of(S))
    ]


def test_a_pool_in_use_follows_a_change_before_the_next_pick() -> None:
    topology, service = service_of(node("a"), node("b"))
    topology.add_node(node("c"))
    assert not is_up_to_date(service, topology)  # nobody has called yet
    service.pick(NOW)
    for number in range(3):
        topology.add_node(node(f"d{number}"))
        assert is_up_to_date(service, topology)
    topology.remove_node("a")
    assert is_up_to_date(service, topology)


def test_a_pool_that_was_not_used_for_a_while_leaves_changes_to_its_next_pick() -> None:
    topology = Silent()
    topology.add_node(node("a"))
    registry: EndpointRegistry[object] = EndpointRegistry(topology)
    service = registry.service(*key_of(S))
    service.pick(NOW)
    topology.add_node(node("b"))
    registry.refresh_ahead(NOW)
    assert is_up_to_date(service, topology)
    topology.add_node(node("c"))
    registry.refresh_ahead(NOW + USED_FOR)
    assert not is_up_to_date(service, topology)
    service.pick(NOW + USED_FOR)
    assert is_up_to_date(service, topology)
    topology.add_node(node("d"))
    registry.refresh_ahead(NOW + USED_FOR)  # there was a call again
    assert is_up_to_date(service, topology)


def test_a_change_waits_for_no_thread_that_updates_the_views() -> None:
    topology, service = service_of(node("a"))
    service.pick(NOW)
    registry = service._pool
    assert isinstance(registry, EndpointRegistry)
    with registry._lock:
        changing = threading.Thread(target=topology.add_node, args=(node("b"),), daemon=True)
        changing.start()
        changing.join(10)
        assert not changing.is_alive()
    assert not is_up_to_date(service, topology)
    service.pick(NOW)
    assert is_up_to_date(service, topology)


def test_a_rule_that_raises_fails_the_next_pick_and_no_change_of_the_topology() -> None:
    topology, is_broken = Topology(), False

    def may(*_: object) -> bool:
        if is_broken:
            raise LookupError
        return True

    registry: EndpointRegistry[object] = EndpointRegistry(
        topology, views=ViewBuilder(may_provide=may)
    )
    topology.add_node(node("a"))
    service = registry.service(*key_of(S))
    service.pick(NOW)
    is_broken = True
    topology.add_node(node("b"))
    with pytest.raises(LookupError):
        service.pick(NOW)
    is_broken = False
    service.pick(NOW)
    assert is_up_to_date(service, topology)


def test_a_topology_drops_a_pool_that_nobody_holds_or_that_was_closed() -> None:
    topology = Topology()
    for is_closed in (False, True):
        registry: EndpointRegistry[object] = EndpointRegistry(topology)
        assert len(topology._events._listeners.all) == 1
        held, reference = registry if is_closed else None, weakref.ref(registry)
        if is_closed:
            registry.close()
        del registry
        assert (reference() is None) is (held is None)
        topology.add_node(node(f"n{is_closed}"))
        assert topology._events._listeners.all == ()


def test_a_renewed_lease_changes_no_view_and_no_answer() -> None:
    topology = Topology(owner="a")
    topology.add_node(node("a"))
    service = EndpointRegistry[object](topology).service(*key_of(S))
    service.pick(NOW)
    position, found = topology.provider_index.position, topology.get_service_providers(*key_of(S))
    topology.republish()
    assert topology.provider_index.position == position
    assert topology.get_service_providers(*key_of(S)) is found


def test_a_view_far_behind_is_built_anew() -> None:
    topology, service = service_of(node("a"), node("b"))
    for number in range(2 * MAX_LOG):
        topology.update_node(node("b", address=f"h:{number % 9 + 1}"))
    topology.remove_node("a")
    picked = service.pick(NOW)
    assert picked is not None
    assert shown(service.view.endpoints) == shown([picked]) == [("b", f"h:{number % 9 + 1}")]


def test_a_list_that_becomes_shorter_during_a_pick_does_not_fail_it() -> None:
    topology, service = service_of(*map(node, "abc"))

    class LastTurn(int):
        def __mod__(self, count: int) -> int:
            topology.remove_node("c")
            service._pool.refresh()  # as another thread does at this moment
            return count - 1

    service._round = iter([LastTurn()])
    picked = service.pick(NOW)
    assert picked is not None
    assert picked.node_id in {"a", "b"}


def test_a_balancer_may_find_that_a_list_became_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    def pick_last(_: LeastRequests, endpoints: Sequence[EndpointT]) -> EndpointT:
        last = len(endpoints) - 1
        if topology.get_node("c") is not None:
            topology.remove_node("c")
            service._pool.refresh()
        return endpoints[last]

    monkeypatch.setattr(LeastRequests, "pick", pick_last)
    topology, service = service_of(*map(node, "abc"), make=LeastRequests)
    picked = service.pick(NOW)
    assert picked is not None
    assert picked.node_id == "b"


def test_a_change_of_one_provider_searches_only_the_lists_that_it_is_in() -> None:
    topology, service = service_of(*[node(f"n{number:03}") for number in range(200)])
    changes: dict[str, Callable[[], object]] = {
        "unwell": lambda: topology.update_node(
            replace(node("n100"), health=HealthStatus.UNHEALTHY)
        ),
        "well": lambda: topology.update_node(node("n100")),
        "moved": lambda: topology.update_node(node("n100", address="h:7")),
        "gone": lambda: topology.remove_node("n100"),
        "back": lambda: topology.add_node(node("n100")),
    }
    searches: dict[str, int] = {}

    def profile(_: object, event: str, argument: Any) -> None:
        if event == "c_call" and argument is bisect_left:
            searches[what] += 1

    for what, change in changes.items():
        searches[what] = 0
        change()
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            service.pick(NOW)
        finally:
            sys.setprofile(before)
    assert 0 < max(searches.values()) <= 6, searches


@pytest.mark.parametrize("make", [RoundRobin, LeastRequests, First])
def test_threads_pick_while_providers_come_and_go(make: Callable[[], Balancer]) -> None:
    topology, service = service_of(node("a"), node("m"), make=make)
    stop = threading.Event()
    failures: list[object] = []

    def work() -> None:
        while not stop.is_set():
            try:
                for _ in range(20):
                    picked = service.pick(NOW)
                    assert picked is not None
                    service.pick_retry((picked,), NOW)
            except Exception as error:  # noqa: BLE001 - reported by the main thread
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        chosen = random.Random(1)
        for _ in range(300):
            node_id = chosen.choice("bcnz")
            if topology.get_node(node_id) is None:
                topology.add_node(node(node_id))
            else:
                topology.remove_node(node_id)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert failures == []
    service.pick(NOW)
    assert [info.id for info in topology.nodes.values()] == [
        endpoint.node_id for endpoint in service.view.endpoints
    ]
