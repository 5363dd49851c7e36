"""The cost of picking a provider, in small and in large meshes.

    uv run python benchmarks/picks.py

A pick among three providers costs at most 1 us, however many nodes there are. Picks where all nodes
are providers are shown and not judged: they include cache misses. `changes.py` measures the first
pick after a change of the topology. Where tiers divide the load, because most of the caller's zone
is out, a pick costs at most 5 us.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from time import monotonic

from aegis_discovery import Balancer, LeastRequests, NodeInfo, RoundRobin, ServiceInfo, Topology
from aegis_discovery._calls.registry import EndpointRegistry  # to measure picks without calls
from aegis_discovery._calls.views import ViewBuilder
from harness import Row, estimate, judge, paired_rounds, parser_of, print_rows

SIZES = (10, 1_000, 100_000)
COMMON = ServiceInfo("common", "v1")
RARE = ServiceInfo("rare", "v1")
BALANCERS = (RoundRobin, LeastRequests)
MAX_NANOSECONDS = 1000
MAX_DIVIDED = 5000
FLAT = 1.25
"""The ratio of a pick in the largest mesh to one in the smallest that still counts as flat."""


def mesh_of(size: int) -> Topology:
    """Returns a mesh in which all nodes provide one service, and three of them another one."""
    topology = Topology()
    for number in range(size):
        services = (COMMON, RARE) if number < 3 else (COMMON,)
        zone = "a" if number < 3 else "b"
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:50051"
        topology.add_node(
            NodeInfo(f"node-{number:06}", "", "", address, services, region="eu", zone=zone)
        )
    return topology


def picker(
    topology: Topology,
    service: ServiceInfo,
    balancer: Callable[[], Balancer],
    zone: str = "",
) -> Callable[[int], object]:
    registry: EndpointRegistry[object] = EndpointRegistry(
        topology, balancers={service.name: balancer}, views=ViewBuilder(zone and "eu", zone)
    )
    endpoints = registry.service(service.name, service.version)
    pick = endpoints.pick
    if zone:
        for endpoint in endpoints.view.tiers[0][1:]:
            endpoint.connection_failed(monotonic())
        assert len(endpoints.view.parts) == 2

    def run(picks: int) -> None:
        for _ in range(picks):
            pick(monotonic())

    return run


def compare(
    meshes: Mapping[int, Topology],
    service: ServiceInfo,
    balancer: type[Balancer],
    **how_often: int,
) -> list[Row]:
    """Picks in all meshes in turn; judges only the service with three providers."""
    name = balancer.__name__
    variants = {f"{size}": picker(mesh, service, balancer) for size, mesh in meshes.items()}
    taken = paired_rounds(variants, **how_often)
    rows = []
    for size in meshes:
        cost = estimate([microseconds * 1e3 for microseconds in taken[f"{size}"]])
        providers = 3 if service is RARE else size
        print(f"{size:7,}  {providers:9,}  {name:14}  {cost:5.0f}", flush=True)
        what = f"a pick, 3 providers of {size:,} nodes, {name}"
        rows.append(judge(what, cost, MAX_NANOSECONDS, ".0f", "ns"))
    few, many = taken[f"{SIZES[0]}"], taken[f"{SIZES[-1]}"]
    growth = estimate([large / small for small, large in zip(few, many, strict=True)])
    rows.append(judge(f"the same, {SIZES[-1]:,} / {SIZES[0]:,} nodes, {name}", growth, FLAT, ".2f"))
    return rows if service is RARE else []


def divided(
    meshes: Mapping[int, Topology], balancer: type[Balancer], **how_often: int
) -> list[Row]:
    """Picks where two of three endpoints in the caller's zone are out, and the rest spills over."""
    variants = {f"{size}": picker(mesh, COMMON, balancer, "a") for size, mesh in meshes.items()}
    taken = paired_rounds(variants, **how_often)
    rows = []
    for size in meshes:
        cost = estimate([microseconds * 1e3 for microseconds in taken[f"{size}"]])
        what = f"a pick, divided load, {size:,} providers, {balancer.__name__}"
        rows.append(judge(what, cost, MAX_DIVIDED, ".0f", "ns"))
    return rows


def report(rounds: int = 15, picks: int = 20_000) -> list[Row]:
    print("                                    a pick, CPU ns")
    print("  nodes  providers  balancer        median [95 % interval]")
    meshes = {size: mesh_of(size) for size in SIZES}
    gc.collect()
    gc.freeze()  # so that the garbage collector does not walk over a large mesh
    rows = []
    for service in (RARE, COMMON):
        for balancer in BALANCERS:
            rows += compare(meshes, service, balancer, rounds=rounds, calls=picks)
    for balancer in BALANCERS:
        rows += divided(meshes, balancer, rounds=rounds, calls=picks)
    gc.unfreeze()
    return rows


def main() -> None:
    parser = parser_of(__doc__, rounds=15, quick=5)
    parser.add_argument("--picks", type=int, default=20_000, help="picks a round (default 20000)")
    arguments = parser.parse_args()
    sys.exit(print_rows(report(arguments.rounds, arguments.picks)))


if __name__ == "__main__":
    main()
