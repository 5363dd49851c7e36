"""A tier takes 1.4 times its share of healthy endpoints, and the rest spills to the next one."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import pytest
from aegis_discovery._calls.balancers import Balancer, LeastRequests, RoundRobin
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.registry import EndpointRegistry
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery._calls.spillover import shares_of
from aegis_discovery._calls.views import ViewBuilder
from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery._topology.topology import Topology
from hypothesis import given, settings
from hypothesis import strategies as st

S = ServiceInfo("s", "v1")
NOW = 100.0
PLACES = (("eu", "1"), ("eu", "2"), ("us", "1"))
BALANCERS = (RoundRobin, LeastRequests)

tiers = st.integers(0, 40).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


class Mesh:
    """Providers in the caller's zone, in the rest of its region, and elsewhere."""

    def __init__(self, *sizes: int, make: Callable[[], Balancer] = RoundRobin) -> None:
        self.topology = Topology()
        for tier, size in enumerate(sizes):
            for number in range(size):
                self.put(tier, number)
        self.registry: EndpointRegistry[object] = EndpointRegistry(
            self.topology, balancers={"s": make}, views=ViewBuilder("eu", "1")
        )
        self.service: ServiceEndpoints[object] = self.registry.service("s", "v1")

    def put(self, tier: int, number: int, health: HealthStatus = HealthStatus.HEALTHY) -> None:
        region, zone = PLACES[tier]
        node_id = f"{tier}-{number}"
        self.topology.add_node(
            NodeInfo(
                node_id,
                address=f"{node_id}.example:1",
                services=(S,),
                health=health,
                region=region,
                zone=zone,
            )
        )

    def fail(self, tier: int, number: int, status: NodeStatus = NodeStatus.FAILED) -> None:
        node_id = f"{tier}-{number}"
        record = self.topology.get_record(node_id)
        assert record is not None
        self.topology.set_status(node_id, record.stamp, status)

    def endpoint(self, tier: int, number: int) -> Endpoint[object]:
        self.registry.refresh()
        (found,) = [e for e in self.service.view.endpoints if e.node_id == f"{tier}-{number}"]
        return found

    def picks(self, count: int, now: float = NOW) -> Counter[str]:
        picked = (self.service.pick(now) for _ in range(count))
        return Counter(endpoint.node_id for endpoint in picked if endpoint is not None)

    def shares(self, count: int = 3000) -> list[float]:
        """Returns the share of the load of each tier."""
        found = self.picks(count)
        return [
            sum(calls for node_id, calls in found.items() if node_id[0] == str(tier)) / count
            for tier in range(3)
        ]


@given(st.lists(tiers, max_size=4))
@settings(max_examples=60, deadline=None)
def test_the_shares_are_those_of_envoy(figures: list[tuple[int, int]]) -> None:
    able = [
        min(Fraction(1), Fraction(7, 5) * healthy / total) if total else Fraction(0)
        for healthy, total in figures
    ]
    together = min(Fraction(1), sum(able, Fraction(0)))
    left, expected = Fraction(1), []
    for part in able:
        expected.append(min(left, part / together) if together else Fraction(0))
        left -= expected[-1]
    found = shares_of(figures)
    assert found == pytest.approx([float(share) for share in expected])
    assert math.isclose(sum(found), 1.0 if together else 0.0)


@given(
    st.tuples(*[st.integers(0, 6)] * 3),
    st.data(),
    st.sampled_from(BALANCERS),
    st.sampled_from(("failed", "unhealthy", "unreached", "ejected")),
)
@settings(max_examples=60, deadline=None)
def test_calls_follow_the_shares_at_any_size(
    sizes: tuple[int, int, int], data: st.DataObject, make: type[Balancer], how: str
) -> None:
    mesh = Mesh(*sizes, make=make)
    healthy = [data.draw(st.integers(0, size)) for size in sizes]
    for tier, (size, up) in enumerate(zip(sizes, healthy, strict=True)):
        for number in range(up, size):
            match how:
                case "failed":
                    mesh.fail(tier, number)
                case "unhealthy":
                    mesh.put(tier, number, HealthStatus.UNHEALTHY)
                case "unreached":
                    mesh.endpoint(tier, number).connection_failed(NOW)
                case _:
                    mesh.endpoint(tier, number).eject(NOW)
    if not sum(healthy):
        return
    expected = shares_of(zip(healthy, sizes, strict=True))
    count = 300
    found = mesh.picks(count)
    for tier, up in enumerate(healthy):
        calls = [found[f"{tier}-{number}"] for number in range(up)]
        assert sum(calls) == pytest.approx(expected[tier] * count, abs=4)
        if make is RoundRobin and how in ("failed", "unhealthy") and calls:
            assert max(calls) - min(calls) <= 1
    assert sum(found.values()) == count
    assert all(int(node_id[2:]) < healthy[int(node_id[0])] for node_id in found)


def test_a_service_of_a_region_is_offered_to_callers_there_only() -> None:
    topology = Topology()
    local = ServiceInfo("s", "v1", scope="region")
    topology.add_node(NodeInfo("eu-1", address="h:1", services=(local,), region="eu"))
    topology.add_node(NodeInfo("us-1", address="h:2", services=(local,), region="us"))
    topology.add_node(NodeInfo("none", address="h:3", services=(local,)))

    def caller(region: str) -> ServiceEndpoints[object]:
        registry: EndpointRegistry[object] = EndpointRegistry(topology, views=ViewBuilder(region))
        return registry.service("s", "v1")

    callers = {region: caller(region) for region in ("eu", "us", "", "asia")}
    found = {
        region: {endpoint.node_id for _ in range(6) if (endpoint := service.pick(NOW))}
        for region, service in callers.items()
    }
    assert found == {"eu": {"eu-1"}, "us": {"us-1"}, "": {"none"}, "asia": set()}
    assert callers["asia"].other_regions == ["", "eu", "us"]
    topology.add_node(NodeInfo("eu-1", address="h:1", services=(S,), region="eu"))
    assert callers["asia"].pick(NOW) is not None, "the provider offers it to the whole mesh now"
    topology.add_node(NodeInfo("eu-1", address="h:1", services=(local,), region="eu"))
    assert callers["asia"].pick(NOW) is None
    assert str(local) == "s/v1@region"


@pytest.mark.parametrize("make", BALANCERS)
def test_the_last_endpoint_of_a_zone_does_not_take_everything(make: type[Balancer]) -> None:
    mesh = Mesh(3, 3, make=make)
    assert mesh.shares() == [1, 0, 0]
    mesh.fail(0, 0)
    assert mesh.shares() == pytest.approx([1.4 * 2 / 3, 1 - 1.4 * 2 / 3, 0], abs=0.002)
    mesh.fail(0, 1)
    assert mesh.shares() == pytest.approx([1.4 / 3, 1 - 1.4 / 3, 0], abs=0.002)
    mesh.fail(0, 2)
    assert mesh.shares() == [0, 1, 0]


def test_the_rest_spills_past_a_region_that_lacks_endpoints_too() -> None:
    mesh = Mesh(5, 5, 1)
    for number in range(4):
        mesh.fail(0, number)
    for number in range(3):
        mesh.endpoint(1, number).connection_failed(NOW)
    assert mesh.shares() == pytest.approx([0.28, 0.56, 0.16], abs=0.002)


def test_where_all_tiers_together_lack_endpoints_their_parts_are_in_proportion() -> None:
    mesh = Mesh(10, 10)
    for number in range(1, 10):
        mesh.fail(0, number)
        mesh.fail(1, number)
    assert mesh.shares() == pytest.approx([0.5, 0.5, 0], abs=0.002)


def test_an_unreachable_region_takes_no_part_until_nothing_else_is_left() -> None:
    mesh = Mesh(3, 1, 40)
    for number in range(39):
        mesh.fail(2, number, NodeStatus.UNREACHABLE)
    mesh.fail(0, 0)
    mesh.fail(0, 1)
    mesh.endpoint(1, 0).connection_failed(NOW)
    assert mesh.shares() == pytest.approx([1.4 / 3, 0, 1 - 1.4 / 3], abs=0.002)
    assert "2-39" in mesh.picks(10)
    mesh.endpoint(2, 39).connection_failed(NOW)
    assert mesh.shares() == [1, 0, 0]
    mesh.fail(0, 2, NodeStatus.SUSPECTED)
    assert mesh.shares() == [1, 0, 0], "a suspected provider before a region that is cut off"
    mesh.fail(0, 2)
    found = mesh.picks(390)
    assert set(found) == {f"2-{number}" for number in range(39)}
    mesh.endpoint(1, 0).call_succeeded()
    assert mesh.shares() == [0, 1, 0]


def test_a_few_lost_endpoints_move_no_call_to_another_zone() -> None:
    mesh = Mesh(10, 10)
    for number in range(2):
        mesh.fail(0, number)
    assert mesh.shares() == [1, 0, 0]


def test_a_provider_that_left_does_not_count() -> None:
    mesh = Mesh(3, 3)
    mesh.fail(0, 0)
    mesh.topology.remove_node("0-0")
    mesh.topology.remove_node("0-1")
    assert mesh.shares() == [1, 0, 0]


def test_a_tier_without_load_is_probed_and_gets_its_load_back() -> None:
    mesh = Mesh(2, 1)
    for number in range(2):
        mesh.endpoint(0, number).connection_failed(NOW)
    assert mesh.shares() == [0, 1, 0]
    mesh.registry.probe = lambda endpoint: endpoint.probe_ended(True, NOW)
    mesh.picks(2, NOW + 1)
    assert mesh.shares() == [1, 0, 0]


def test_new_providers_count_once_they_answered_a_probe() -> None:
    mesh = Mesh(1, 3)
    probed: list[Endpoint[object]] = []
    mesh.registry.probe = probed.append
    for number in range(1, 4):
        mesh.put(0, number)
    assert mesh.shares() == [1, 0, 0]
    assert {endpoint.node_id for endpoint in probed} == {"0-1", "0-2", "0-3"}
    for endpoint in probed:
        endpoint.probe_ended(endpoint.node_id == "0-1", NOW)
    assert mesh.shares() == pytest.approx([0.7, 0.3, 0], abs=0.002)


def test_a_new_provider_in_a_zone_that_has_none_is_probed() -> None:
    mesh = Mesh(0, 1)
    mesh.picks(1)
    mesh.registry.probe = lambda endpoint: endpoint.probe_ended(True, NOW)
    mesh.put(0, 1)
    assert mesh.picks(1)
    assert mesh.picks(2) == {"0-1": 2}


def test_a_retry_reaches_other_tiers() -> None:
    mesh = Mesh(2, 1, 1)
    tried: tuple[Endpoint[object], ...] = ()
    first = mesh.service.pick(NOW)
    while first is not None:
        tried += (first,)
        first = mesh.service.pick_retry(tried, NOW)
    assert [endpoint.node_id[0] for endpoint in tried] == ["0", "0", "1", "2"]


def test_the_counts_are_right_after_threads_excluded_and_returned_endpoints() -> None:
    mesh = Mesh(4, 4, 4)
    endpoints = tuple(mesh.service.view.endpoints)

    def work(number: int) -> None:
        for turn in range(400):
            endpoint = endpoints[(number + turn) % len(endpoints)]
            if turn % 2:
                endpoint.connection_failed(NOW + turn * 20)
            else:
                endpoint.call_succeeded()
            mesh.service.pick(NOW)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    view = mesh.service.view
    assert set(view.excluded) == {endpoint for endpoint in endpoints if endpoint.excluded}
    for tier in range(3):
        in_use = sum(not endpoint.excluded for endpoint in view.tiers[tier])
        assert view.in_use(tier) == in_use


def test_an_endpoint_remembers_no_views_of_the_past() -> None:
    mesh = Mesh(2)
    endpoint = mesh.endpoint(0, 0)
    for _ in range(3):
        mesh.registry.refresh(force=True)
    assert endpoint is mesh.endpoint(0, 0)
    assert len(endpoint._listeners) <= 2, "views that exist no more are not kept"
    endpoint.connection_failed(NOW)
    assert mesh.service.view.in_use() == 1
