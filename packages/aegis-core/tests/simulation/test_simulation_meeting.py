"""Regions and nodes that begin at the same moment, and know each other by a third one only."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from aegis_core._membership.bridge import SILENT_AFTER
from aegis_core._peers import exchanges, session
from aegis_core._peers.exchanges import REGION_TIMEOUT
from aegis_core.simulation import Simulation
from aegis_discovery import NodeStatus
from aegis_discovery.feed import ReceiveResult
from aegis_discovery.records import _signer

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


def test_regions_meet_whose_nodes_were_all_replaced_at_once() -> None:
    simulation = begin("eu")
    simulation.join("us-0", seeds=["eu-000"], region="us")
    simulation.join("asia-0", seeds=["eu-001"], region="asia")
    simulation.run_until(simulation.is_one_mesh, within=MEETING)
    for node_id in ("us-0", "asia-0"):
        simulation.kill(node_id)
    simulation.join("us-1", seeds=["eu-000"], region="us")
    simulation.join("asia-1", seeds=["eu-001"], region="asia")
    simulation.run(5)
    assert strangers(simulation) == {("us-1", "asia-1"), ("asia-1", "us-1")}
    simulation.run_until(lambda: not strangers(simulation), within=SILENT_AFTER + MEETING)
    simulation.run_until(lambda: simulation.everywhere("us-1", NodeStatus.ALIVE), within=MEETING)


def test_regions_meet_whose_nodes_were_all_replaced_during_a_cut_between_them() -> None:
    simulation = begin("eu", "us", "asia", nodes=2)
    for one, other in product(("us-000", "us-001", "us-2"), ("asia-000", "asia-001", "asia-2")):
        simulation.block(one, other)
        simulation.block(other, one)
    simulation.run(20)
    for region in ("us", "asia"):
        simulation.join(f"{region}-2", seeds=[f"{region}-000"], region=region)
    simulation.run(5)
    for node_id in ("us-000", "us-001", "asia-000", "asia-001"):
        simulation.leave(node_id)
    simulation.run_until(lambda: ("us-2", "asia-2") not in strangers(simulation), within=90)
    assert simulation.status_of("asia-2", by="us-2") is NodeStatus.UNREACHABLE, "and no more"
    simulation.heal()
    simulation.run_until(simulation.is_one_mesh, within=20)


def test_regions_meet_whose_line_was_cut_for_longer_than_a_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_signer, "LEASE", 120.0)
    monkeypatch.setattr(session, "LEASE", 120.0)
    monkeypatch.setattr(session, "REPUBLISH_EVERY", 40.0)
    simulation = begin("eu", "us", "asia", nodes=1)
    for node_id in simulation.live:
        simulation.update(node_id)
    simulation.run(1)
    simulation.block("us-000", "asia-000")
    simulation.block("asia-000", "us-000")
    for _ in range(3):
        simulation.run(80)
        assert not strangers(simulation)
        assert simulation.status_of("asia-000", by="us-000") is NodeStatus.UNREACHABLE
    simulation.heal()
    simulation.run_until(simulation.is_one_mesh, within=10)


def test_who_is_cut_off_from_a_region_asks_about_it_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchanges, "MAX_PAUSE", 4 * REGION_TIMEOUT)
    simulation = begin("eu", "us", "asia", nodes=1)
    bridging = simulation._world.processes["us-000"].session
    asked: list[float] = []
    exchange = bridging._exchange
    monkeypatch.setattr(
        bridging, "_exchange", lambda *args: (asked.append(simulation.now), exchange(*args))
    )
    simulation.block("us-000", "asia-000")
    simulation.block("asia-000", "us-000")
    began = simulation.now
    simulation.run(SILENT_AFTER + 11 * REGION_TIMEOUT)
    assert asked[0] - began == pytest.approx(SILENT_AFTER, abs=6)
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses == pytest.approx([n * REGION_TIMEOUT for n in (2, 4, 4)], abs=3)


def test_a_liar_that_always_claims_to_know_more_is_asked_now_and_then() -> None:
    simulation = begin("eu", "us")
    bridge, *_ = simulation.bridges_of("eu", by="us-000")
    bridging = simulation._world.processes[bridge].session
    [feed] = [feed for feed in bridging.feeds.values() if feed.region == "us"]
    claim = ReceiveResult(complete=False, lacks_home=True, lacks_regions=True)
    asked, began = 0, simulation.now
    while simulation.now < began + 4 * REGION_TIMEOUT - 1:
        before = set(bridging._exchanges)
        for _ in range(10):
            bridging.message_received(feed, claim, simulation.now)
        asked += len(bridging._exchanges.keys() - before)
        simulation.run(0.5)
    assert asked == 4
    assert not bridging._exchanges, "each ended as soon as it was complete"
