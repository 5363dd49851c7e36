from __future__ import annotations

import gc
import json
import logging
import math
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from aegis_discovery._calls.balancers import Balancer, LeastRequests, RoundRobin
from aegis_discovery._calls.endpoint import FIRST_BACKOFF, Endpoint
from aegis_discovery._calls.registry import EndpointRegistry
from aegis_discovery._calls.views import ViewBuilder
from aegis_discovery._model import HealthStatus, NodeInfo, NodeStatus, ServiceInfo
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import ClosedError

GREETER = ServiceInfo("greeter", "v1")


NOW = 100.0


def node(node_id: str, **changes: Any) -> NodeInfo:
    return replace(
        NodeInfo(node_id, address=f"{node_id}.example:1", services=(GREETER,)), **changes
    )


def registry_of(
    *nodes: NodeInfo, balancers: Any = None, **preferences: Any
) -> tuple[Topology, EndpointRegistry[object]]:
    topology = Topology()
    for info in nodes:
        topology.add_node(info)
    views = ViewBuilder[object](**preferences)
    return topology, EndpointRegistry(topology, balancers=balancers, views=views)


def answer_probes(registry: EndpointRegistry[object]) -> None:
    registry.probe = lambda endpoint: endpoint.probe_ended(True, NOW)


def picks(registry: EndpointRegistry[object], count: int, now: float = NOW) -> list[str]:
    service = registry.service("greeter", "v1")
    return [endpoint.node_id for _ in range(count) if (endpoint := service.pick(now))]


def by_id(registry: EndpointRegistry[object]) -> dict[str, Endpoint[object]]:
    service = registry.service("greeter", "v1")
    service.pick(NOW)
    return {endpoint.node_id: endpoint for endpoint in service.view.endpoints}


def test_round_robin_takes_providers_in_turn_by_node_id() -> None:
    _, registry = registry_of(node("c"), node("a"), node("b"))
    turns = picks(registry, 6)
    assert turns[:3] == turns[3:]
    assert "".join(turns[:3]) in {"abc", "bca", "cab"}


def test_each_service_has_its_own_balancer_and_the_same_endpoints() -> None:
    both = (GREETER, ServiceInfo("other", "v1"))
    _, registry = registry_of(node("a", services=both), node("b", services=both))
    first = {registry.service("greeter", "v1").pick(NOW) for _ in range(2)}
    second = {registry.service("other", "v1").pick(NOW) for _ in range(2)}
    assert first == second
    assert registry.service("greeter", "v1") is registry.service("greeter", "v1")


def test_round_robin_begins_at_the_start_that_it_is_given() -> None:
    ends = [Endpoint[object](name, "") for name in "abc"]
    balancer = RoundRobin(start=4)
    assert [balancer.pick(ends).node_id for _ in range(4)] == ["b", "c", "a", "b"]


def test_no_endpoint_is_picked_without_providers() -> None:
    _, registry = registry_of(node("a", services=()))
    assert registry.service("greeter", "v1").pick(NOW) is None


def test_picks_follow_the_topology() -> None:
    topology, registry = registry_of(node("a"))
    answer_probes(registry)
    assert set(picks(registry, 2)) == {"a"}
    topology.add_node(node("b"))
    assert set(picks(registry, 4)) == {"a", "b"}
    topology.remove_node("a")
    assert set(picks(registry, 2)) == {"b"}


def test_a_new_provider_among_others_gets_calls_once_it_answered_a_probe() -> None:
    topology, registry = registry_of(node("a"))
    probed: list[Endpoint[object]] = []
    registry.probe = probed.append
    assert picks(registry, 1) == ["a"]
    topology.add_node(node("b"))
    assert picks(registry, 6) == ["a"] * 6
    (new,) = probed
    assert new.node_id == "b"
    new.probe_ended(True, NOW)
    assert Counter(picks(registry, 6)) == {"a": 3, "b": 3}
    topology.update_node(node("b", address="elsewhere:2"))
    assert picks(registry, 6) == ["a"] * 6
    assert len(probed) == 2


def test_new_providers_get_calls_at_once_if_no_other_is_in_use_or_they_are_most() -> None:
    topology, registry = registry_of(node("a"))
    by_id(registry)["a"].connection_failed(NOW)
    topology.add_node(node("b"))
    assert picks(registry, 2) == ["b"] * 2
    others = Topology()
    for node_id in "cdef":
        others.add_node(node(node_id))
    topology.merge(others)
    assert set(picks(registry, 10)) == set("bcdef")


def test_a_provider_with_a_new_address_is_a_new_endpoint() -> None:
    topology, registry = registry_of(node("a"))
    service = registry.service("greeter", "v1")
    before = service.pick(NOW)
    assert before is service.pick(NOW)
    topology.update_node(node("a", address="elsewhere:2"))
    after = service.pick(NOW)
    assert after is not None
    assert (after.node_id, after.address) == ("a", "elsewhere:2")
    assert after is not before


def test_a_change_of_services_alone_keeps_the_endpoint() -> None:
    topology, registry = registry_of(node("a"))
    service = registry.service("greeter", "v1")
    before = service.pick(NOW)
    topology.update_node(node("a", services=(GREETER, ServiceInfo("more", "v1"))))
    assert service.pick(NOW) is before


def suspect(topology: Topology, node_id: str) -> None:
    record = topology.get_record(node_id)
    assert record is not None
    assert topology.set_status(node_id, record.stamp, NodeStatus.SUSPECTED)


def make_unhealthy(topology: Topology, node_id: str) -> None:
    topology.update_node(node(node_id, health=HealthStatus.UNHEALTHY))


@pytest.mark.parametrize("trouble", [make_unhealthy, suspect])
def test_unhealthy_and_suspected_providers_are_skipped_unless_all_are(
    trouble: Callable[[Topology, str], None],
) -> None:
    topology, registry = registry_of(node("a"), node("b"))
    trouble(topology, "a")
    assert set(picks(registry, 4)) == {"b"}
    trouble(topology, "b")
    assert Counter(picks(registry, 4)) == {"a": 2, "b": 2}


def test_a_provider_without_a_valid_address_is_never_picked() -> None:
    nonsense = ("", "no-port", "unix:/tmp/socket", "dns:///host:1", "host:0", "a b:1")
    nodes = [node(f"bad-{number}", address=text) for number, text in enumerate(nonsense)]
    _, registry = registry_of(*nodes, node("good"))
    assert set(picks(registry, 20)) == {"good"}
    _, registry = registry_of(*nodes)
    assert registry.service("greeter", "v1").pick(NOW) is None


def test_an_unreached_endpoint_is_skipped_and_its_share_is_spread_evenly() -> None:
    _, registry = registry_of(*map(node, "abcd"))
    service = registry.service("greeter", "v1")
    down = service.pick(NOW)
    assert down is not None
    down.connection_failed(NOW)
    counts = Counter(picks(registry, 300))
    assert set(counts.values()) == {100}
    assert down.node_id not in counts


@pytest.mark.parametrize("count", range(1, 8))
def test_if_all_endpoints_are_unreached_all_are_tried_in_turn(count: int) -> None:
    _, registry = registry_of(*map(node, "abcdefg"[:count]))
    for endpoint in by_id(registry).values():
        endpoint.connection_failed(NOW)
    assert Counter(picks(registry, 3 * count)) == dict.fromkeys("abcdefg"[:count], 3)


@pytest.mark.parametrize("count", range(2, 8))
def test_retries_do_not_change_the_spread_of_first_attempts(count: int) -> None:
    _, registry = registry_of(*map(node, "abcdefg"[:count]))
    service = registry.service("greeter", "v1")
    firsts: Counter[str] = Counter()
    for _ in range(3 * count):
        first = service.pick(NOW)
        assert first is not None
        firsts[first.node_id] += 1
        service.pick_retry((first,), NOW)
    assert set(firsts.values()) == {3}


def test_a_retry_goes_to_another_endpoint_or_is_not_made() -> None:
    topology, registry = registry_of(node("a"), node("b"))
    service = registry.service("greeter", "v1")
    first = service.pick(NOW)
    assert first is not None
    others = {service.pick_retry((first,), NOW) for _ in range(4)}
    assert first not in others
    assert len(others) == 1
    (other,) = others
    assert other is not None
    other.connection_failed(NOW)
    again = service.pick_retry((first,), NOW)
    assert again is other, "an unreached endpoint is better than none"
    assert service.pick_retry((first, other), NOW) is None
    topology.remove_node(other.node_id)
    service.pick(NOW)
    assert service.pick_retry((first,), NOW) is None
    assert service.retries_refused == 0


def test_a_retry_follows_the_topology_and_the_policy() -> None:
    topology, registry = registry_of(
        node("a"), may_provide=lambda provider, *_: provider.type != "rogue"
    )
    service = registry.service("greeter", "v1")
    first = service.pick(NOW)
    assert first is not None
    topology.add_node(node("b"))
    other = service.pick_retry((first,), NOW)
    assert other is not None
    assert other.node_id == "b", "it joined after the first attempt"
    topology.update_node(node("b", type="rogue"))
    assert service.pick_retry((first,), NOW) is None


def test_a_retry_recognizes_the_same_provider_after_a_change_of_identity() -> None:
    _, registry = registry_of(node("a"))
    service = registry.service("greeter", "v1")
    first = service.pick(NOW)
    assert first is not None
    registry.replace_endpoints()
    assert service.pick(NOW) is not first
    assert service.pick_retry((first,), NOW) is None


def test_a_retry_that_the_budget_refuses_is_counted() -> None:
    _, registry = registry_of(node("a"), node("b"))
    service = registry.service("greeter", "v1")
    first = service.pick(NOW)
    assert first is not None
    further = [service.pick_retry((first,), NOW) for _ in range(12)]
    assert [endpoint is not None for endpoint in further] == [True] * 10 + [False] * 2
    assert (service.calls, service.retries, service.retries_refused) == (1, 10, 2)


def test_a_call_that_waits_gets_only_an_endpoint_in_use_even_an_unhealthy_one() -> None:
    topology, registry = registry_of(node("a"), node("b"))
    probed: list[str] = []
    registry.probe = lambda endpoint: probed.append(endpoint.node_id)
    service = registry.service("greeter", "v1")
    a, b = sorted(filter(None, {service.pick(NOW), service.pick(NOW)}), key=lambda e: e.node_id)
    a.connection_failed(NOW)
    assert {service.pick_in_use(NOW) for _ in range(4)} == {b}
    topology.update_node(replace(node("b"), health=HealthStatus.UNHEALTHY))
    assert service.pick_in_use(NOW) is b
    b.connection_failed(NOW)
    assert service.pick_in_use(NOW) is None
    assert service.next_probe == NOW + FIRST_BACKOFF
    assert service.pick_in_use(NOW + FIRST_BACKOFF) is None
    assert probed == ["a", "b"]
    assert service.next_probe == math.inf
    b.probe_ended(True, NOW + 1)
    assert service.pick_in_use(NOW + 1) is b


def test_every_service_drops_an_endpoint_that_left_if_any_of_them_is_used() -> None:
    both = (GREETER, ServiceInfo("other", "v1"))
    topology, registry = registry_of(node("a"), node("b", services=both))
    only_b = registry.service("other", "v1").pick(NOW)
    assert only_b is not None
    assert len(set(picks(registry, 2))) == 2
    gone = weakref.ref(only_b)
    del only_b
    topology.remove_node("b")
    gc.collect()
    assert gone() is None


def test_many_threads_share_one_balancer_exactly() -> None:
    _, registry = registry_of(*map(node, "abcd"))
    counts: list[Counter[str]] = []

    def work() -> None:
        counts.append(Counter(picks(registry, 1000)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(sum(counts, Counter()).values()) == {2000}


def test_threads_pick_while_the_topology_changes() -> None:
    topology, registry = registry_of(node("a"), node("b"))
    stop = threading.Event()
    picked: list[int] = []

    def work() -> None:
        while not stop.is_set():
            picked.append(len(picks(registry, 10)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        topology.add_node(node("c"))
        topology.remove_node("c")
    stop.set()
    for thread in threads:
        thread.join()
    assert set(picked) == {10}


def test_a_closed_pool_refuses_picks() -> None:
    _, registry = registry_of(node("a"))
    service = registry.service("greeter", "v1")
    registry.close()
    with pytest.raises(ClosedError, match="the pool is closed"):
        service.pick(NOW)
    with pytest.raises(ClosedError):
        registry.service("greeter", "v1")


def test_an_unresponsive_endpoint_is_ejected_and_probed_after_its_backoff() -> None:
    _, registry = registry_of(*map(node, "abc"))
    probed: list[Endpoint[object]] = []
    registry.probe = probed.append
    silent = by_id(registry)["b"]
    silent.call_started(NOW, object())
    assert set(picks(registry, 6, NOW + 0.9)) == {"a", "b", "c"}
    assert set(picks(registry, 6, NOW + 1.0)) == {"a", "c"}
    assert silent.ejected
    assert probed == []
    picks(registry, 9, NOW + 2.0)
    assert probed == [silent], "one probe at a time"
    silent.probe_ended(True, NOW + 2.1)
    silent.waiting.clear()
    assert set(picks(registry, 6, NOW + 2.2)) == {"a", "b", "c"}
    assert registry.service("greeter", "v1").ejections == 1


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (10, 5)])
def test_at_most_half_of_the_endpoints_are_ejected(count: int, most: int) -> None:
    _, registry = registry_of(*map(node, "abcdefghij"[:count]))
    for endpoint in by_id(registry).values():
        endpoint.call_started(NOW, object())
    counts = Counter(picks(registry, 60, NOW + 5))
    assert len(counts) == count - most
    assert set(Counter(picks(registry, 60, NOW + 5)).values()) == {60 // len(counts)}
    assert registry.service("greeter", "v1").ejections == most


def test_unreached_endpoints_do_not_count_against_the_limit_of_ejections() -> None:
    _, registry = registry_of(*map(node, "abcd"))
    known = by_id(registry)
    known["a"].connection_failed(NOW)
    known["b"].connection_failed(NOW)
    known["c"].call_started(NOW, object())
    assert set(picks(registry, 8, NOW + 5)) == {"d"}
    known["d"].call_started(NOW + 5, object())
    assert set(picks(registry, 8, NOW + 10)) == {"d"}, "the last endpoint in use is not ejected"


def test_the_last_healthy_endpoint_is_never_ejected() -> None:
    unwell = {"health": HealthStatus.UNHEALTHY}
    _, registry = registry_of(node("a"), node("b", **unwell), node("c", **unwell))
    by_id(registry)["a"].call_started(NOW, object())
    assert set(picks(registry, 9, NOW + 5)) == {"a"}


def test_threads_that_eject_at_the_same_time_eject_at_most_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, registry = registry_of(*map(node, "abc"))
    service = registry.service("greeter", "v1")
    known = list(by_id(registry).values())
    ready = threading.Barrier(len(known))
    eject = Endpoint.eject

    def slowly(endpoint: Endpoint[object], now: float) -> None:
        threading.Event().wait(0.02)  # a thread may be suspended this long
        eject(endpoint, now)

    monkeypatch.setattr(Endpoint, "eject", slowly)

    def fail(endpoint: Endpoint[object]) -> None:
        ready.wait()
        for _ in range(5):
            service.call_failed(endpoint, NOW)

    threads = [threading.Thread(target=fail, args=(endpoint,)) for endpoint in known]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(endpoint.ejected for endpoint in known) == service.ejections == 1


@pytest.mark.parametrize("balancer", [RoundRobin, LeastRequests])
def test_the_only_usable_endpoint_is_found_with_any_balancer(
    balancer: type[Balancer],
) -> None:
    nodes = [node(f"n{number:02}") for number in range(30)]
    _, registry = registry_of(*nodes, balancers={"greeter": balancer})
    known = by_id(registry)
    for _ in range(50):
        known["n17"].call_started(NOW, object())  # the busiest endpoint, and the only reachable one
    for node_id, endpoint in known.items():
        if node_id != "n17":
            endpoint.connection_failed(NOW)
    assert set(picks(registry, 20, NOW + 0.1)) == {"n17"}


def test_each_service_has_its_configured_balancer() -> None:
    both = (GREETER, ServiceInfo("other", "v1"))
    _, registry = registry_of(
        node("a", services=both), node("b", services=both), balancers={"greeter": LeastRequests}
    )
    by_id(registry)["a"].call_started(NOW, object())
    assert set(picks(registry, 20)) == {"b"}
    other = registry.service("other", "v1")
    assert {endpoint.node_id for _ in range(2) if (endpoint := other.pick(NOW))} == {"a", "b"}


def near(*places: str, **own: str) -> EndpointRegistry[object]:
    """Makes a node in each place (`region/zone`), and the registry of a caller."""
    nodes = []
    for number, place in enumerate(places):
        region, _, zone = place.partition("/")
        nodes.append(node(f"n{number}", region=region, zone=zone))
    return registry_of(*nodes, **own)[1]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"n0", "n1", "n2", "n3"}),
        ({"region": "eu", "zone": "a"}, {"n0"}),
        ({"region": "eu", "zone": "c"}, {"n0", "n1"}),
        ({"region": "eu"}, {"n0", "n1"}),
        ({"region": "asia", "zone": "a"}, {"n0", "n1", "n2", "n3"}),
        ({"zone": "a"}, {"n3"}),
    ],
)
def test_near_providers_are_preferred(own: dict[str, str], expected: set[str]) -> None:
    assert set(picks(near("eu/a", "eu/b", "us/a", "/a", **own), 12)) == expected


def test_a_priority_is_used_while_one_of_its_endpoints_is_usable() -> None:
    registry = near("eu/a", "eu/b", "us/a", region="eu", zone="a")
    known = by_id(registry)
    assert set(picks(registry, 6)) == {"n0"}
    known["n0"].connection_failed(NOW)
    assert set(picks(registry, 6)) == {"n1"}
    known["n1"].connection_failed(NOW)
    assert set(picks(registry, 6)) == {"n2"}
    known["n2"].connection_failed(NOW)
    assert set(picks(registry, 30)) == {"n0"} | {"n1", "n2"}, "if none is usable, all are tried"
    known["n0"].call_succeeded()
    assert set(picks(registry, 6)) == {"n0"}


def test_a_retry_may_go_to_another_region() -> None:
    registry = near("eu/a", "us/a", region="eu", zone="a")
    service = registry.service("greeter", "v1")
    first = service.pick(NOW)
    assert first is not None
    other = service.pick_retry((first,), NOW)
    assert other is not None
    assert (first.node_id, other.node_id) == ("n0", "n1")


def test_a_denied_node_is_skipped_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[tuple[str, str, str]] = []

    def may(info: NodeInfo, name: str, version: str) -> bool:
        asked.append((info.id, name, version))
        return info.id != "mallory"

    topology, registry = registry_of(node("a"), node("mallory"), may_provide=may)
    answer_probes(registry)
    assert set(picks(registry, 6)) == {"a"}
    assert asked == [("a", "greeter", "v1"), ("mallory", "greeter", "v1")], "not for every call"
    topology.add_node(node("b"))
    assert set(picks(registry, 6)) == {"a", "b"}
    assert asked[2:] == [("b", "greeter", "v1")], "only for what changed"
    registry.replace_endpoints()
    picks(registry, 1)
    assert [record.message for record in caplog.records] == [
        "mallory declares greeter/v1 and may not"
    ]
    (service,) = registry.stats().services
    assert service.denials == 1
    assert [endpoint.node_id for endpoint in service.endpoints] == ["a", "b"]


def test_the_stats_are_a_frozen_snapshot_that_can_be_written_as_json() -> None:
    _, registry = registry_of(
        node("a"), node("b"), node("c"), node("d", health=HealthStatus.UNHEALTHY)
    )
    known = by_id(registry)
    known["a"].connection_failed(NOW)
    known["b"].call_started(NOW, object())
    picks(registry, 3, NOW + 2)
    stats = registry.stats()
    with pytest.raises(AttributeError):
        stats.services = ()  # type: ignore[misc]  # that is what is tested
    assert json.loads(json.dumps(asdict(stats))) == {
        "services": [
            {
                "name": "greeter",
                "version": "v1",
                "picks": 4,
                "retries": 0,
                "retries_refused": 0,
                "ejections": 1,
                "sheds": 0,
                "denials": 0,
                "endpoints": [
                    {
                        "node_id": "a",
                        "address": "a.example:1",
                        "state": "unreached",
                        "under_way": 0,
                    },
                    {"node_id": "b", "address": "b.example:1", "state": "ejected", "under_way": 1},
                    {"node_id": "c", "address": "c.example:1", "state": "ready", "under_way": 0},
                    {"node_id": "d", "address": "d.example:1", "state": "unwell", "under_way": 0},
                ],
            }
        ],
        "edges": [],
    }


def test_the_stats_of_an_endpoint_are_one_object_until_they_change() -> None:
    _, registry = registry_of(node("a"), node("b"))
    known = by_id(registry)
    (before,) = registry.stats().services
    known["a"].call_started(NOW, object())
    (after,) = registry.stats().services
    assert [endpoint.under_way for endpoint in after.endpoints] == [1, 0]
    assert after.endpoints[1] is before.endpoints[1]


def test_names_without_a_provider_and_without_use_are_forgotten() -> None:
    topology, registry = registry_of(node("a"))
    for number in range(1000):
        assert registry.service(f"no-{number}", "v1").pick(NOW) is None
    used = registry.service("used", "v1")
    gc.collect()
    assert [service.name for service in registry.stats().services] == ["used"]
    picks(registry, 2)
    del used
    gc.collect()
    (greeter,) = registry.stats().services
    assert (greeter.name, greeter.picks) == ("greeter", 2)
    topology.remove_node("a")
    gc.collect()
    assert registry.stats().services == ()


def test_a_service_in_use_keeps_its_counters_while_it_has_no_provider() -> None:
    topology, registry = registry_of(node("a"))
    picks(registry, 3)
    in_use = registry.service("greeter", "v1")
    topology.remove_node("a")
    assert picks(registry, 1) == []
    gc.collect()
    topology.add_node(node("a"))
    assert picks(registry, 2) == ["a", "a"]
    assert registry.service("greeter", "v1") is in_use
    assert in_use.calls == 5


def test_counters_survive_a_change_of_identity_and_the_end_of_the_pool() -> None:
    _, registry = registry_of(node("a"))
    picks(registry, 3)
    registry.replace_endpoints()
    picks(registry, 2)
    registry.close()
    (service,) = registry.stats().services
    assert (service.picks, service.endpoints) == (5, ())


@pytest.mark.parametrize("far", [1, 2, 3, 4])
def test_the_share_of_an_excluded_near_endpoint_is_spread_over_the_others(far: int) -> None:
    registry = near("eu/1", *["us/1"] * far, region="eu", zone="1")
    by_id(registry)["n0"].connection_failed(NOW)
    counts = Counter(picks(registry, 12 * far))
    assert counts == {f"n{number}": 12 for number in range(1, far + 1)}


def test_a_reevaluation_drops_providers_that_left() -> None:
    topology, registry = registry_of(node("a"), may_provide=lambda *_: True)
    service = registry.service("greeter", "v1")
    assert service.pick(NOW) is not None
    topology.remove_node("a")
    registry.refresh(force=True)
    assert service.pick(NOW) is None
    assert service.stats().endpoints == ()


def test_a_log_handler_may_use_the_pool() -> None:
    _, registry = registry_of(node("a"), may_provide=lambda *_: False)

    class Calling(logging.Handler):
        picked: list[object] = []  # noqa: RUF012 - of this one test

        def emit(self, record: logging.LogRecord) -> None:
            self.picked.append(registry.service("greeter", "v1").pick(NOW))
            registry.stats()

    handler = Calling()
    logging.getLogger("aegis.pool").addHandler(handler)
    try:
        assert registry.service("greeter", "v1").pick(NOW) is None
    finally:
        logging.getLogger("aegis.pool").removeHandler(handler)
    assert handler.picked == [None]
