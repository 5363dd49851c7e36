"""What it costs to pick a provider, in small and in large meshes.

    uv run python benchmarks/picks.py

A pick must not cost more where there are more nodes or more providers, and at most 1 us. The first
one after a change of the providers reads all of them again; that is shown beside it.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from aegis_discovery import Balancer, LeastRequests, NodeInfo, RoundRobin, ServiceInfo, Topology
from aegis_discovery._endpoints import Endpoints  # the pick alone, without a call
from harness import estimate

SIZES = (10, 1_000, 100_000)
COMMON = ServiceInfo("common", "v1")
RARE = ServiceInfo("rare", "v1")
BALANCERS = (RoundRobin, LeastRequests)


def mesh_of(size: int) -> Topology:
    """Makes a mesh in which all nodes provide one service, and three of them another."""
    topology = Topology()
    for number in range(size):
        services = (COMMON, RARE) if number < 3 else (COMMON,)
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:50051"
        topology.add_node(NodeInfo(f"node-{number:06}", address=address, services=services))
    return topology


def pick_times(
    topology: Topology,
    service: ServiceInfo,
    balancer: Callable[[], Balancer],
    rounds: int,
    picks: int,
) -> list[float]:
    """Returns CPU nanoseconds per pick, by round."""
    endpoints: Endpoints[object] = Endpoints(topology, balancers={service.name: balancer})
    pick = endpoints.service(service.name, service.version).pick
    times = []
    for number in range(rounds + 1):
        began = time.process_time_ns()
        for _ in range(picks):
            pick(monotonic())
        if number:  # the first round reads the providers
            times.append((time.process_time_ns() - began) / picks)
    return times


def change_time(topology: Topology, service: ServiceInfo) -> float:
    """Returns the CPU milliseconds of the first pick after one provider has changed."""
    pick = Endpoints(topology).service(service.name, service.version).pick
    pick(monotonic())
    times = []
    for number in range(5):
        node = topology.get_node("node-000000")
        assert node is not None
        topology.update_node(replace(node, name=f"changed {number}"))
        began = time.process_time_ns()
        pick(monotonic())
        times.append((time.process_time_ns() - began) / 1e6)
    return statistics.median(times)


def report(rounds: int = 15, picks: int = 20_000) -> None:
    print("                                    a pick, CPU ns           after a change, CPU ms")
    print("  nodes  providers  balancer        median [95 % interval]   median")
    for size in SIZES:
        topology = mesh_of(size)
        gc.collect()
        gc.freeze()  # a large mesh must not be paid for by the collector's walks over it
        for service, providers in ((RARE, 3), (COMMON, size)):
            after = change_time(topology, service)
            for balancer in BALANCERS:
                times = estimate(pick_times(topology, service, balancer, rounds, picks))
                name = balancer.__name__
                print(f"{size:7,} {providers:10,}  {name:14}  {times:5.0f}      {after:10.3f}")
    print("target: at most 1000 ns, flat")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds per mesh (default 15)")
    parser.add_argument("--picks", type=int, default=20_000, help="picks a round (default 20000)")
    arguments = parser.parse_args()
    report(arguments.rounds, arguments.picks)


if __name__ == "__main__":
    main()
