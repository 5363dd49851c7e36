"""Rows of a mesh with boundaries: ten regions, with a round trip of 150 ms between them.

Spread and traffic of 10 000 nodes run over the real rings, bridges and feeds; what fails does so in
a simulation of fewer nodes.
"""

from __future__ import annotations

import time

from aegis_core._membership.bridge import Bridge
from aegis_core.simulation import Simulation, spread
from aegis_core.simulation._process import Process, fake_signer
from aegis_core.simulation._warm_start import shared_state  # 10 000 nodes in seconds
from aegis_core.simulation._world import World
from aegis_discovery import NodeStatus
from aegis_discovery.feed import HEARTBEAT
from aegis_discovery.records import REPUBLISH_EVERY
from large import FRAMING
from simulated import SEED, deaths
from table import Measured, Row

REGIONS = tuple(f"region-{number}" for number in range(10))
CUT = 300.0
CHANGES = 3
FAILED, UNREACHABLE = NodeStatus.FAILED, NodeStatus.UNREACHABLE


def mesh(nodes: int, seed: int = SEED) -> Simulation:
    """Makes a mesh of so many nodes in all."""
    return Simulation(nodes // len(REGIONS), regions=REGIONS, boundary="region", seed=seed)


def members(simulation: Simulation, region: str) -> list[str]:
    return [i for i in simulation.live if simulation.region_of(i) == region]


def change(nodes: int, number: int = 0) -> tuple[int, int, float, float]:
    """One node changes its record: feeds and bytes across, seconds in its region and everywhere."""
    size = nodes // len(REGIONS)
    origin = number * (nodes // CHANGES)
    found = spread(size, seed=SEED, origin=origin, regions=REGIONS)
    assert len(found.hops) == nodes
    home = found.subject.rpartition("-")[0]
    near = max(seconds for i, seconds in found.seconds.items() if i.startswith(f"{home}-"))
    messages, octets = found.across
    return messages, octets + messages * FRAMING, near, max(found.seconds.values())


def feeds(nodes: int) -> Measured:
    """Feeds between regions that the real rings and bridges of all nodes hold."""
    world, size = World[Process](SEED), nodes // len(REGIONS)
    ids = [f"{region}-{number}" for region in REGIONS for number in range(size)]
    world.network.regions = {node_id: node_id.rpartition("-")[0] for node_id in ids}
    signers = {node_id: fake_signer(world, node_id) for node_id in ids}
    across = world.network.is_across
    counts = []
    for boundary in ("region", ""):
        _, regions = shared_state(world, signers, boundary)
        count = 0
        for node_id in ids:
            bridge = Bridge(node_id, regions)
            bridge.review(frozenset(), 0.0)
            read = regions.subjects(node_id) | bridge.targets(0.0).keys()
            count += sum(across(node_id, other) for other in read)
        counts.append(count)
    return Measured((counts[0],), f"without boundaries {counts[1]:,}")


def bytes_across(nodes: int) -> Measured:
    found = [change(nodes, number)[1] for number in range(CHANGES)]
    return Measured((max(found) / 1000,), f"the most of {CHANGES} changes, framing included")


def times(nodes: int) -> Measured:
    found = [change(nodes, number)[2:] for number in range(CHANGES)]
    near, everywhere = (max(values) for values in zip(*found, strict=True))
    return Measured((near, everywhere), f"the most of {CHANGES} changes")


def idle(nodes: int) -> Measured:
    """Heartbeats of all feeds across, measured on a small mesh, and renewed leases."""
    small = mesh(100)
    before, began = _across(small), small.now
    small.run(60)
    after = _across(small)
    messages, octets = (now - then for now, then in zip(after, before, strict=True))
    seconds = small.now - began
    heartbeats = (octets + messages * FRAMING) / seconds
    renewals = nodes / REPUBLISH_EVERY * change(nodes)[1]
    note = (
        f"{messages / seconds * HEARTBEAT:.0f} heartbeats each {HEARTBEAT:.0f} s are "
        f"{heartbeats / 1000:.1f} kB/s, renewed leases {renewals / 1000:.1f} kB/s"
    )
    return Measured(((heartbeats + renewals) / 1000,), note)


def _across(simulation: Simulation) -> tuple[int, int]:
    region_of = simulation.region_of
    counts = [c for (s, w), c in simulation.traffic.items() if region_of(s) != region_of(w)]
    return sum(c.messages for c in counts), sum(c.octets for c in counts)


def cut(nodes: int) -> Measured:
    """A region is cut off for 5 minutes, and the cut heals."""
    simulation = mesh(nodes)
    alone = REGIONS[0]
    inside = members(simulation, alone)
    simulation.cut(alone)
    apart = simulation.run_until(
        lambda: all(
            simulation.everywhere(i, UNREACHABLE, by=inside[:1])
            for i in simulation.live
            if simulation.region_of(i) != alone
        ),
        within=20,
    )
    simulation.run(CUT - apart)
    dead = deaths(simulation, by=set(simulation.live))
    simulation.heal()
    taken = simulation.run_until(simulation.is_one_mesh, within=60, every=0.5)
    dead |= deaths(simulation, by=set(simulation.live))
    return Measured((len(dead), taken), f"unreachable after {apart:.1f} s")


def bridges(nodes: int) -> Measured:
    """Two of three bridges of a region are killed at once, and a node of another region."""
    simulation = mesh(nodes)
    first, second, third = simulation.bridges_of(REGIONS[0], by=simulation.live[-1])
    victim = members(simulation, REGIONS[1])[7]
    killed = (first, second, victim)
    for node_id in killed:
        simulation.kill(node_id)
    taken = simulation.run_until(
        lambda: all(simulation.everywhere(i, FAILED) for i in killed), within=30
    )
    others = deaths(simulation, by=set(simulation.live)) - set(killed)
    return Measured((float("inf") if others else taken,), f"{third} remained")


def liars(nodes: int) -> Measured:
    """A bridge and a node that another bridge reads lie: 0 wrong statuses."""
    simulation = mesh(nodes)
    liar, honest, _ = simulation.bridges_of(REGIONS[0], by=simulation.live[-1])
    served = {server for server, watcher in simulation.traffic if watcher == honest}
    remote = next(i for i in sorted(served) if simulation.region_of(i) == REGIONS[1])
    simulation.withhold(liar)
    simulation.withhold(remote)
    simulation.accuse(liar, *members(simulation, REGIONS[1])[:20])
    victims = [i for i in members(simulation, REGIONS[1]) if i not in served][:3]
    for node_id in victims:
        simulation.kill(node_id)
    began = time.monotonic()
    simulation.run(10)
    wrong = sum(
        simulation.status_of(i, by=by) is not (FAILED if i in victims else NodeStatus.ALIVE)
        for by in members(simulation, REGIONS[0])
        for i in {*victims, *simulation.live} - {by}
    )
    note = f"after 10 s, of {len(simulation.live):,} nodes; {time.monotonic() - began:.0f} s of CPU"
    return Measured((wrong,), note)


ROWS = (
    Row("across", "feeds between 10 regions, over the real rings", (270,), "feeds", 10_000, feeds),
    Row(
        *("across-bytes", "bytes between 10 regions for one change, all together"),
        *((30,), "kB", 10_000, bytes_across),
    ),
    Row(
        *("across-idle", "idle traffic between 10 regions, the whole mesh"),
        *((150,), "kB/s", 10_000, idle),
    ),
    Row(
        *("across-time", "a change is known in its region / everywhere, RTT 150 ms"),
        *((0.1, 1.0), "s", 10_000, times),
    ),
    Row(
        *("cut", "a region cut off for 5 min: false deaths / one mesh again, simulated"),
        *((0, 5), "nodes / s", 500, cut),
    ),
    Row(
        *("bridges", "two of three bridges killed: all statuses are right, simulated"),
        *((5,), "s", 500, bridges),
    ),
    Row(
        *("liars", "wrong statuses with a lying bridge and a lying remote node, simulated"),
        *((0,), "nodes", 500, liars),
    ),
)
