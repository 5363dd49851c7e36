"""Regions and nodes that begin at the same moment, and know each other by a third one only."""

from __future__ import annotations

import pytest
from aegis_core._peers.exchanges import REGION_TIMEOUT
from aegis_core.simulation import Simulation
from aegis_discovery.feed import ReceiveResult

MEETING = 10.0
"""Seconds in which two regions meet that a third one knows: three heartbeats, and an exchange."""


def begin(*regions: str, nodes: int = 4) -> Simulation:
    return Simulation(nodes, regions=regions, boundary="region", seed=5)


def strangers(simulation: Simulation) -> set[tuple[str, str]]:
    """Returns the pairs of running nodes of which the first one does not know the second one."""
    live = simulation.live
    return {
        (one, other)
        for one in live
        for other in live
        if other not in simulation.topology_of(one).nodes
    }


@pytest.mark.parametrize("names", [("us", "asia"), ("asia", "us"), ("us", "asia", "moon", "mars")])
@pytest.mark.parametrize("nodes", [1, 3])
def test_regions_meet_that_join_through_nodes_of_another_one_at_once(
    names: tuple[str, ...], nodes: int
) -> None:
    simulation = begin("eu")
    for number, name in enumerate(names):
        for k in range(nodes):
            seeds = [f"eu-00{number}", f"{name}-{(k + 1) % nodes}"]
            simulation.join(f"{name}-{k}", seeds=seeds, region=name)
    simulation.run(2)
    assert strangers(simulation), "each was told what its seed peer knew before"
    simulation.run_until(simulation.is_one_mesh, within=MEETING)


def test_regions_meet_of_which_each_joins_through_the_next_one() -> None:
    """All know equally many regions, so a number of them would tell nothing."""
    simulation, names = Simulation([], boundary="region", seed=5), "abcdef"
    for name, other in zip(names, names[1:] + names[0], strict=True):
        simulation.join(f"{name}-0", seeds=[f"{other}-0"], region=name)
    simulation.run_until(simulation.is_one_mesh, within=2 * MEETING)


def test_regions_meet_whose_bridges_die_meanwhile() -> None:
    simulation = begin("eu")
    for k in range(5):
        simulation.join(f"us-{k}", seeds=["eu-000"], region="us")
        simulation.join(f"asia-{k}", seeds=["eu-001"], region="asia")
    simulation.run(4)
    for region in ("us", "asia"):
        for bridge in simulation.bridges_of(region, by=f"{region}-0")[:2]:
            simulation.kill(bridge)
    simulation.run_until(lambda: not strangers(simulation), within=2 * MEETING)


def test_regions_meet_whose_seed_peer_restarts_while_they_join() -> None:
    simulation = begin("eu", nodes=1)
    simulation.join("us-0", seeds=["eu-000"], region="us")
    simulation.run(0.4)
    simulation.kill("eu-000")
    simulation.join("asia-0", seeds=["eu-000"], region="asia")
    simulation.run(1)
    simulation.join("eu-000", seeds=[])
    simulation.run_until(simulation.is_one_mesh, within=MEETING)


def test_a_liar_that_always_claims_to_know_more_is_asked_now_and_then() -> None:
    simulation = begin("eu", "us")
    bridge, *_ = simulation.bridges_of("eu", by="us-000")
    session = simulation._world.processes[bridge].session
    [feed] = [feed for feed in session.feeds.values() if feed.region == "us"]
    claim = ReceiveResult(complete=False, lacks_home=True, lacks_regions=True)
    asked, began = 0, simulation.now
    while simulation.now < began + 4 * REGION_TIMEOUT - 1:
        before = set(session._exchanges)
        for _ in range(10):
            session.message_received(feed, claim, simulation.now)
        asked += len(session._exchanges.keys() - before)
        simulation.run(0.5)
    assert asked == 4
    assert not session._exchanges, "each ended as soon as it was complete"
