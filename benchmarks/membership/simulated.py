"""Rows in virtual time: those with hundreds of nodes, broken links, or half an hour."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from aegis_core.simulation import Simulation, spread
from aegis_discovery import NodeStatus
from table import Measured, Row

SEED = 1
MINUTES = 30
LATE_PARTS = 6
FAILED = NodeStatus.FAILED

# In a partition hundreds of nodes log warnings, all in this process.
logging.getLogger("aegis").setLevel(logging.ERROR)


def deaths(simulation: Simulation, *, by: set[str]) -> set[str]:
    """Ids of the nodes that any node of `by` saw fail."""
    return {
        event.subject for event in simulation.events if event.kind == "failed" and event.by in by
    }


def hops(nodes: int) -> Measured:
    """Nodes change their records, one after the other."""
    simulation = Simulation(nodes, seed=SEED)
    most = []
    seconds = []
    for node_id in simulation.live[:: max(1, nodes // 10)][:10]:
        spread = simulation.update(node_id)
        simulation.run_until(lambda s=spread: len(s.hops) == nodes, within=1, every=0.005)
        most.append(max(spread.hops.values()))
        seconds.append(max(spread.seconds.values()))
    note = f"the most of {len(most)} changes; {max(seconds) * 1000:.0f} ms of virtual time"
    return Measured((max(most),), note)


def hops_of_one_change(nodes: int) -> Measured:
    """As `hops`, with only the nodes in memory that pass the change on."""
    changes = [spread(nodes, seed=SEED, origin=number * nodes // 10) for number in range(10)]
    assert all(len(change.hops) == nodes for change in changes)
    most = max(max(change.hops.values()) for change in changes)
    seconds = max(max(change.seconds.values()) for change in changes)
    note = f"the most of {len(changes)} changes; {seconds * 1000:.0f} ms of virtual time"
    return Measured((most,), note)


def black_hole(nodes: int) -> Measured:
    """A node is cut off without a broken connection."""
    taken = []
    for number in range(5):
        simulation = Simulation(nodes, seed=SEED + number)
        lost = simulation.live[number]
        rest = set(simulation.live) - {lost}
        simulation.block(lost)
        taken.append(
            simulation.run_until(lambda s=simulation, i=lost: s.everywhere(i, FAILED), within=60)
        )
        assert deaths(simulation, by=rest) == {lost}
    return Measured((max(taken),), f"the slowest of {len(taken)}, looked at every 0.1 s")


def late(nodes: int) -> Measured:
    """30 % of all heartbeats come 1 to 3 s too late.

    Each of some thousand suspicions, and its answer, reaches every node: with 50 nodes that takes
    4 to 5 minutes of CPU time, with 100 four times as much. Parts of the time run side by side.
    """
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        parts = list(processes.map(late_part, [nodes] * LATE_PARTS, range(LATE_PARTS)))
    suspected, dead = map(sum, zip(*parts, strict=True))
    note = f"{suspected:,} suspicions were seen, and refuted; {LATE_PARTS} meshes, each for a while"
    return Measured((dead,), note)


def late_part(nodes: int, number: int) -> tuple[int, int]:
    """Returns the suspicions and the deaths in a part of the time, in a mesh of its own."""
    simulation = Simulation(nodes, seed=SEED + number)
    simulation.delay(0.3, least=1.0, most=3.0)
    simulation.run(MINUTES * 60 / LATE_PARTS)
    suspected = sum(event.kind == "suspected" for event in simulation.events)
    return suspected, len(deaths(simulation, by=set(simulation.live)))


def stalls(nodes: int) -> Measured:
    """One node stops for 3 s in each minute."""
    simulation = Simulation(nodes, seed=SEED)
    simulation.stall(simulation.live[0], 3.0, every=60)
    simulation.run(MINUTES * 60)
    return Measured((len(deaths(simulation, by=set(simulation.live))),), f"{MINUTES} stalls")


def links(nodes: int) -> Measured:
    """Of 1 % of the nodes, four fifths lose one direction, the others flap, for 150 s in all."""
    simulation = Simulation(nodes, seed=SEED)
    bad = simulation.live[:: max(1, nodes // 10)][:10]
    for number, node_id in enumerate(bad):
        if number < 4:
            simulation.block(node_id, None)
        elif number < 8:
            simulation.block(None, node_id)
        else:
            simulation.flap(node_id)
    rest = sorted(set(simulation.live) - set(bad))
    began = simulation.now
    right_since = None
    while simulation.now - began < 150:
        simulation.run(1.0)
        if not all(simulation.everywhere(node_id, FAILED, by=rest) for node_id in bad):
            right_since = None
        elif right_since is None:
            right_since = simulation.now - began
    others = deaths(simulation, by=set(rest)) - set(bad)
    note = f"{len(others)} others failed; from then on they stayed so, to the end at 150 s"
    return Measured((float("inf") if right_since is None or others else right_since,), note)


def halves(nodes: int) -> Measured:
    """Two halves see each other fail, and the partition heals."""
    simulation = Simulation(nodes, seed=SEED)
    near, far = simulation.live[::2], simulation.live[1::2]
    simulation.partition(near)
    apart = simulation.run_until(
        lambda: all(simulation.everywhere(i, FAILED, by=near) for i in far), within=120
    )
    simulation.heal()
    taken = simulation.run_until(simulation.is_one_mesh, within=60)
    return Measured((taken,), f"after {apart:.0f} s until each half had failed the other one")


ROWS = (
    Row("hops-100", "hops to everyone, simulated", (6,), "hops", 100, hops),
    Row("hops-1000", "hops to everyone, simulated", (8,), "hops", 1_000, hops),
    Row(
        "hops-10000",
        "hops to everyone, real rings and feeds over one state",
        (9,),
        "hops",
        10_000,
        hops_of_one_change,
    ),
    Row(
        "black-hole",
        "a black-holed node is known everywhere, simulated",
        (6,),
        "s",
        100,
        black_hole,
    ),
    Row(
        "late",
        "false deaths, 30 % of heartbeats late for 30 min, simulated",
        (0,),
        "nodes",
        50,
        late,
    ),
    Row(
        "stalls", "false deaths, a node stalls 3 s a minute, simulated", (0,), "nodes", 100, stalls
    ),
    Row("links", "one-way and flapping nodes, and no others, are failed", (30,), "s", 1_000, links),
    Row(
        "halves", "two halves are one mesh again after healing, simulated", (10,), "s", 100, halves
    ),
)
