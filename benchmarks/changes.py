"""What one change of the topology costs, in small and in large meshes.

    uv run python benchmarks/changes.py

All nodes provide one service. A change costs what that change is worth: the same with 100 providers
and with 10 000. The first pick after it pays that in a pool that was not used for some seconds.
A pool in use follows a change in the thread that makes it: fifty changes a second at 10 000
providers cost little CPU and delay no pick. `get_service_providers`, `nodes` and `stats()` return
all providers, so they grow with their answer; the table shows how much.
"""

from __future__ import annotations

import gc
import itertools
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import monotonic

from aegis_discovery import HealthStatus, NodeInfo, ServiceInfo, Topology
from aegis_discovery._calls.registry import EndpointRegistry  # to measure picks without calls
from harness import Row, estimate, judge, parser_of, print_rows
from machine import speed

SIZES = (100, 1_000, 10_000)
SERVICE = ServiceInfo("common", "v1")
MAX_PICK = 50.0
"""Microseconds of a pick right after a change, in a pool that was not used for some seconds."""

FLAT = 2.0
"""The ratio of such a pick in the largest mesh to one in the smallest that still counts as flat:
of 10 000 endpoints most are in no cache of the processor."""

CHANGES_PER_SECOND = 50
MAX_SHARE = 5.0
"""Percent of a core that the changes of a second may take."""

MAX_P99 = 0.2
"""Milliseconds of a pick while the topology changes."""


class Unannounced(Topology):
    """Its pool learns of changes by its picks alone, as one that was not used for some seconds."""

    def subscribe_changed(self, listener: Callable[[], object]) -> Callable[[], None]:
        return lambda: None


class Mesh:
    """A mesh in which all nodes provide one service, and a pool that calls it."""

    def __init__(self, size: int, make: type[Topology] = Topology) -> None:
        self.topology = make()
        for number in range(size):
            address = f"10.0.{number >> 8}.{number & 255}:50051"
            self.topology.add_node(
                NodeInfo(f"node-{number:06}", address=address, services=(SERVICE,))
            )
        self.registry: EndpointRegistry[object] = EndpointRegistry(self.topology)
        self.service = self.registry.service(SERVICE.name, SERVICE.version)
        self._size = size
        self._random = random.Random(size)
        self._numbers = itertools.count()
        self.pick()

    def pick(self) -> object:
        return self.service.pick(monotonic())

    def change(self) -> None:
        """Changes one provider: its health, its address, or whether it is there."""
        topology, number = self.topology, next(self._numbers)
        node_id = f"node-{self._random.randrange(self._size):06}"
        node = topology.get_node(node_id)
        if node is None:
            topology.add_node(
                NodeInfo(node_id, address=f"10.1.1.1:{number + 1}", services=(SERVICE,))
            )
        elif number % 4 == 0:
            topology.remove_node(node_id)
        elif number % 4 == 1:
            topology.update_node(replace(node, address=f"10.1.1.1:{number + 1}"))
        elif node.health is HealthStatus.UNHEALTHY:
            topology.update_node(replace(node, health=HealthStatus.HEALTHY))
        else:
            topology.update_node(replace(node, health=HealthStatus.UNHEALTHY))


def after_changes(mesh: Mesh, read: Callable[[], object], changes: int) -> list[float]:
    """Returns the CPU microseconds of a read right after each of some changes."""
    taken = []
    for number in range(changes):
        if number % 50 == 0:
            speed.look()
        mesh.change()
        began = time.process_time_ns()
        read()
        taken.append((time.process_time_ns() - began) / 1e3)
    return taken


def growth(meshes: Mapping[int, Mesh], changes: int) -> list[Row]:
    print("microseconds of CPU after a change, by the number of providers (median)\n")
    print(f"{'':24}" + "".join(f"{size:>10,}" for size in meshes) + "     ratio")
    rows = []
    for what in ("pick", "get_service_providers", "nodes", "stats"):
        taken: dict[int, list[float]] = {}
        for size, mesh in meshes.items():
            read = {
                "pick": mesh.pick,
                "get_service_providers": lambda m=mesh: m.topology.get_service_providers(
                    SERVICE.name, SERVICE.version
                ),
                "nodes": lambda m=mesh: m.topology.nodes,
                "stats": mesh.registry.stats,
            }[what]
            taken[size] = after_changes(mesh, read, changes)
        costs = [statistics.median(times) for times in taken.values()]
        figures = "".join(f"{cost:10.1f}" for cost in costs)
        print(f"{what:24}{figures}{costs[-1] / costs[0]:10.1f}", flush=True)
        if what == "pick":
            few, many = taken[SIZES[0]], taken[SIZES[-1]]
            name = f"a pick after a change, {SIZES[-1]:,} providers"
            rows.append(judge(name, estimate(many), MAX_PICK, ".1f", "us"))
            ratio = estimate([large / small for small, large in zip(few, many, strict=True)])
            rows.append(judge(f"the same, {SIZES[-1]:,} / {SIZES[0]:,}", ratio, FLAT, ".2f"))
    return rows


def busy(mesh: Mesh, seconds: float, changes_per_second: int) -> tuple[float, list[float]]:
    """Picks while another thread changes the mesh; returns CPU seconds and times of picks in ms."""
    stop = threading.Event()

    def change() -> None:
        while not stop.wait(1 / changes_per_second):
            mesh.change()

    thread = threading.Thread(target=change)
    began, cpu = monotonic(), time.process_time()
    if changes_per_second:
        thread.start()
    taken = []
    while monotonic() - began < seconds:
        time.sleep(0.0005)
        started = time.perf_counter_ns()
        mesh.pick()
        taken.append((time.perf_counter_ns() - started) / 1e6)
    spent = time.process_time() - cpu
    stop.set()
    if changes_per_second:
        thread.join()
    return spent, taken


def under_change(mesh: Mesh, rounds: int, seconds: float = 2.0) -> list[Row]:
    shares, tails = [], []
    for _ in range(rounds):
        idle, _ = busy(mesh, seconds, 0)
        spent, taken = busy(mesh, seconds, CHANGES_PER_SECOND)
        shares.append((spent - idle) / seconds * 100)
        tails.append(statistics.quantiles(taken, n=100)[-1])
    what = f"{CHANGES_PER_SECOND} changes a second, {SIZES[-1]:,} providers"
    return [
        judge(f"{what}: share of a core", estimate(shares), MAX_SHARE, ".2f", "%"),
        judge(f"{what}: p99 of a pick", estimate(tails), MAX_P99, ".3f", "ms"),
    ]


def report(rounds: int = 5, changes: int = 400) -> list[Row]:
    meshes = {size: Mesh(size, Unannounced) for size in SIZES}
    in_use = Mesh(SIZES[-1])
    gc.collect()
    gc.freeze()  # so that the garbage collector does not walk over a large mesh
    rows = growth(meshes, changes)
    rows += under_change(in_use, rounds)
    gc.unfreeze()
    return rows


def main() -> None:
    arguments = parser_of(__doc__, rounds=5, quick=2).parse_args()
    sys.exit(print_rows(report(arguments.rounds)))


if __name__ == "__main__":
    main()
