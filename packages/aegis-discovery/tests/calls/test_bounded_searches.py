"""What a call costs does not grow with the providers of its service, in whatever state they are.

The steps of the interpreter are counted, so that no slow machine can change the result.
"""

from __future__ import annotations

import functools
import math
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from aegis_discovery._calls.balancers import Balancer, LeastRequests, RoundRobin
from aegis_discovery._calls.endpoint import FIRST_BACKOFF, Endpoint
from aegis_discovery._calls.registry import EndpointRegistry
from aegis_discovery._calls.router import MAX_UNREACHED, Router
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery._calls.views import TIERS
from aegis_discovery._model import HealthStatus, NodeInfo, ServiceInfo
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import NoProvidersError
from grpc import StatusCode

S = ServiceInfo("s", "v1")
NOW, LATER = 100.0, 200.0
FEW, MANY = 300, 1_200
Service = ServiceEndpoints[object]


def node(number: int, **changes: Any) -> NodeInfo:
    return replace(NodeInfo(f"n{number:05}", address=f"h:{number + 1}", services=(S,)), **changes)


@functools.cache
def topology_of(count: int) -> Topology:
    topology = Topology()
    for number in range(count):
        topology.add_node(node(number))
    return topology


def mesh(count: int, balancer: type[Balancer] = RoundRobin) -> tuple[Topology, Service, list[Any]]:
    """A mesh of so many providers; also the probes that are started."""
    topology = topology_of(count)
    registry = EndpointRegistry[object](topology, balancers={"s": balancer})
    probed: list[Any] = []
    registry.probe = probed.append
    service = registry.service("s", "v1")
    keep.append(registry)
    return topology, service, probed


keep: list[object] = []


@pytest.fixture(autouse=True)
def _drop() -> Iterator[None]:
    random.seed(1)
    yield
    keep.clear()


def steps(work: Callable[[], object]) -> int:
    """Counts the steps that the interpreter takes for some work."""
    count = 0

    def trace(frame: Any, event: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def exclude(endpoints: Any) -> None:
    for endpoint in endpoints:
        endpoint.connection_failed(NOW)


def all_but_one_down(service: Service) -> None:
    exclude(endpoint for endpoint in service.view.endpoints if endpoint.node_id != "n00030")


def all_down(service: Service) -> None:
    exclude(service.view.endpoints)


def half_ejected(service: Service) -> None:
    for endpoint in islice(service.view.endpoints, len(service.view.endpoints) // 2):
        endpoint.eject(NOW)


def all_frozen(service: Service) -> None:
    for endpoint in service.view.endpoints:
        endpoint.call_started(NOW - 50, object())


def fail(service: Service) -> None:
    for _ in range(5):
        service.call_failed(service.view.endpoints[-1], NOW)


def wait_in_vain(service: Service) -> None:
    router = Router(service, lambda *args, code, **more: NoProvidersError(*args, **more))
    error = router.waiting_error(StatusCode.DEADLINE_EXCEEDED, "its deadline")
    assert len(error.unreached) == MAX_UNREACHED
    assert "n00004, ...;" in str(error)


WORK: dict[str, Callable[[Service], object]] = {
    "pick": lambda service: service.pick(NOW),
    "pick_retry": lambda service: service.pick_retry((service.view.endpoints[0],), NOW),
    "pick_in_use": lambda service: service.pick_in_use(NOW),
    "due probes": lambda service: service.pick_in_use(LATER),
    "next_probe": lambda service: service.next_probe,
    "eject": fail,
    "unreached": wait_in_vain,
}


@pytest.mark.parametrize(
    "state", [all_but_one_down, all_down, half_ejected, all_frozen], ids=lambda f: f.__name__
)
def test_no_step_of_a_call_grows_with_the_providers(state: Callable[[Service], None]) -> None:
    taken = {}
    for count in (FEW, MANY):
        taken[count] = []
        for work in WORK.values():
            _, service, _ = mesh(count)
            state(service)
            taken[count].append(steps(functools.partial(work, service)))
    # 32 draws take 2 700 steps, if they are needed. A look at all would take tens of thousands.
    for name, few, many in zip(WORK, *taken.values(), strict=True):
        assert many <= 1.5 * max(few, 3_000), (name, few, many)


@pytest.mark.parametrize("balancer", [RoundRobin, LeastRequests])
def test_the_only_provider_in_use_is_found_at_once_among_many(
    balancer: type[Balancer],
) -> None:
    _, service, _ = mesh(MANY, balancer)
    all_but_one_down(service)
    picked = {service.pick(NOW) for _ in range(3)} | {service.pick_in_use(NOW)}
    assert [endpoint.node_id for endpoint in picked if endpoint] == ["n00030"]


def test_a_change_is_late_or_not_without_a_look_at_all_providers() -> None:
    taken = []
    for count in (FEW, MANY):
        topology, service, _ = mesh(count)
        all_but_one_down(service)
        topology.add_node(node(count))  # to the topology of both, so it is removed again
        taken.append(steps(lambda s=service: s.pick(NOW)))
        assert service.view.endpoints[-1].excluded, "it waits for a probe, as one is in use"
        topology.remove_node(f"n{count:05}")
    assert taken[1] <= 1.5 * max(taken[0], 3_000)


def test_one_call_starts_some_of_the_probes_and_the_next_calls_the_others() -> None:
    _, service, probed = mesh(100)
    all_down(service)
    assert service.next_probe == NOW + FIRST_BACKOFF
    assert service.pick_in_use(NOW) is None
    assert not probed
    assert service.pick_in_use(LATER) is None
    assert 32 <= len(probed) <= 64, "those that it looks for, and those that it draws"
    assert service.next_probe == NOW + FIRST_BACKOFF
    for _ in range(3):
        service.pick_in_use(LATER)
    assert len(probed) == len(set(probed)) == 100
    assert service.next_probe == math.inf
    for endpoint in probed:
        endpoint.probe_ended(False, LATER)
    assert service.next_probe > LATER
    probed[7].probe_ended(True, LATER)
    assert service.pick_in_use(LATER) is probed[7]


def test_what_follows_the_states_of_endpoints_agrees_with_them_after_any_changes() -> None:
    chance = random.Random(7)
    topology, service, _ = mesh(12)
    now = NOW
    for _ in range(2_000):
        now += 0.05
        endpoints: list[Endpoint[object]] = list(service.view.endpoints)
        what, one = chance.randrange(8), chance.choice(endpoints)
        if what == 0:
            one.connection_failed(now)
        elif what == 1:
            one.call_succeeded()
        elif what == 2:
            fail(service)
        elif what == 3 and one.claim_probe(now):
            one.probe_ended(chance.random() < 0.5, now)
        elif what == 4:
            topology.update_node(
                node(int(one.node_id[1:]), health=chance.choice(list(HealthStatus)))
            )
        elif what == 5 and len(endpoints) > 2:
            topology.remove_node(one.node_id)
            gone = one
            assert service.pick(now) is not gone
            assert not gone._listeners
        elif what == 6:
            topology.add_node(node(chance.randrange(12)))
        service.pick(now)
        view = service.view
        for tier in (*range(TIERS), None):
            endpoints = list(view.endpoints if tier is None else view.tiers[tier])
            assert view.all_in_use(tier) == [e for e in endpoints if not e.excluded]
        assert service.next_probe == min((e.probe_at for e in view.endpoints), default=math.inf)
        assert len(view._probes) <= 2 * 12 + 9
