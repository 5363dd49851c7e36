from __future__ import annotations

import pytest
from aegis_core._membership.membership import REPEAT
from aegis_core._membership.regions import TAKE_UP_AFTER
from aegis_core.simulation import Simulation
from aegis_discovery import NodeStatus
from aegis_discovery.records import UNREFUTED_ELSEWHERE

ALIVE, FAILED, UNREACHABLE = NodeStatus.ALIVE, NodeStatus.FAILED, NodeStatus.UNREACHABLE
NAMES = ("eu", "us", "asia")


@pytest.fixture
def simulation() -> Simulation:
    return Simulation(8, regions=NAMES, boundary="region", seed=3)


def of(simulation: Simulation, region: str) -> list[str]:
    return [i for i in simulation.live if simulation.region_of(i) == region]


def deaths(simulation: Simulation) -> set[str]:
    return {event.subject for event in simulation.events if event.kind == "failed"}


def test_a_change_crosses_each_line_three_times_and_is_known_everywhere(
    simulation: Simulation,
) -> None:
    assert simulation.feeds_across() == 3 * 3 * 2
    simulation.run(3)
    spread = simulation.update("eu-000")
    simulation.run_until(lambda: len(spread.hops) == 24, within=2)
    assert max(s for i, s in spread.seconds.items() if simulation.region_of(i) == "eu") < 0.1
    assert simulation.is_one_mesh()
    for server, watcher in simulation.traffic:
        across = simulation.region_of(server) != simulation.region_of(watcher)
        assert not across or watcher in simulation.bridges_of(
            simulation.region_of(watcher), by=server
        )


def test_every_node_derives_the_status_of_a_node_in_another_region(simulation: Simulation) -> None:
    simulation.kill("us-003")
    simulation.run_until(lambda: simulation.everywhere("us-003", FAILED), within=5)
    simulation.restart("us-003")
    simulation.run_until(simulation.is_one_mesh, within=10)
    simulation.leave("asia-002")
    simulation.run_until(lambda: simulation.everywhere("asia-002", NodeStatus.LEFT), within=3)
    assert deaths(simulation) == {"us-003"}


def test_a_region_that_is_cut_off_is_unreachable_and_nobody_fails(simulation: Simulation) -> None:
    simulation.kill("eu-007")
    simulation.run_until(lambda: simulation.everywhere("eu-007", FAILED), within=5)
    simulation.cut("eu")
    inside, outside = of(simulation, "eu"), [*of(simulation, "us"), *of(simulation, "asia")]
    simulation.run_until(
        lambda: (
            all(simulation.everywhere(i, UNREACHABLE, by=outside) for i in inside)
            and all(simulation.everywhere(i, UNREACHABLE, by=inside) for i in outside)
        ),
        within=15,
    )
    assert simulation.everywhere("eu-007", FAILED, by=outside), "as it was before the cut"
    simulation.kill("eu-001")
    simulation.run_until(
        lambda: simulation.everywhere("eu-001", FAILED, by=of(simulation, "eu")), within=5
    )
    simulation.run(60)
    assert simulation.status_of("eu-001", by="us-000") is UNREACHABLE
    assert deaths(simulation) == {"eu-001", "eu-007"}
    simulation.heal()
    simulation.run_until(simulation.is_one_mesh, within=6)
    assert simulation.everywhere("eu-001", FAILED)
    assert {e.kind for e in simulation.events} >= {"unreachable"}


def test_two_bridges_of_three_die_at_once_and_the_third_one_carries(simulation: Simulation) -> None:
    first, second, _ = simulation.bridges_of("eu", by="us-000")
    simulation.kill(first)
    simulation.kill(second)
    simulation.kill("us-005")
    simulation.run_until(
        lambda: all(simulation.everywhere(i, FAILED) for i in (first, second, "us-005")), within=5
    )
    simulation.run_until(lambda: simulation.feeds_across() == 18, within=10)
    assert deaths(simulation) == {first, second, "us-005"}


def test_a_bridge_and_a_remote_node_that_lie_change_nothing(simulation: Simulation) -> None:
    liar, honest, _ = simulation.bridges_of("eu", by="us-000")
    served = {server for (server, watcher) in simulation.traffic if watcher == honest}
    [remote] = [i for i in served if simulation.region_of(i) == "us"]
    for one in (liar, remote):
        simulation.withhold(one)
    simulation.accuse(liar, *of(simulation, "us"))
    victim = next(i for i in of(simulation, "us") if i not in {*served, remote})
    simulation.kill(victim)
    simulation.run_until(lambda: simulation.everywhere(victim, FAILED), within=6)
    simulation.run(20)
    simulation.restart(victim)
    simulation.run_until(lambda: simulation.everywhere(victim, ALIVE), within=6)
    assert deaths(simulation) == {victim}


def test_a_mesh_takes_boundaries_up_and_gives_them_up_while_it_runs() -> None:
    simulation = Simulation(5, regions=NAMES, seed=2)
    assert simulation.bridges_of("eu", by="us-000") == ()
    for node_id in simulation.live:
        simulation.kill(node_id)
        others = [i for i in simulation.live if i != node_id]
        simulation.join(node_id, seeds=others[:2], boundary="region")
        simulation.run_until(lambda i=node_id: simulation.everywhere(i, ALIVE), within=10)
    simulation.run_until(lambda: simulation.feeds_across() == 18, within=2 * TAKE_UP_AFTER)
    simulation.run_until(simulation.is_one_mesh, within=10)

    simulation.join("old", seeds=["asia-001"], region="eu", boundary="")
    simulation.run_until(simulation.is_one_mesh, within=5)
    assert simulation.bridges_of("eu", by="us-000") == ()
    simulation.kill("us-001")
    simulation.run_until(lambda: simulation.everywhere("us-001", FAILED), within=5)
    simulation.leave("old")
    simulation.run_until(lambda: simulation.feeds_across() == 18, within=2 * TAKE_UP_AFTER)
    assert deaths(simulation) <= {*simulation.live, "us-001"}
    assert simulation.everywhere("us-001", FAILED)


def test_a_new_region_of_one_node_joins_through_another_one(simulation: Simulation) -> None:
    simulation.join("moon-1", seeds=["eu-004"], region="moon")
    simulation.run_until(simulation.is_one_mesh, within=5)
    simulation.run_until(lambda: simulation.feeds_across() == 18 + 3 * 3 + 3, within=5)
    simulation.kill("moon-1")
    simulation.run_until(lambda: simulation.everywhere("moon-1", UNREACHABLE), within=15)
    assert deaths(simulation) == set(), "nobody in its region could say that it failed"
    simulation.restart("moon-1")
    simulation.run_until(simulation.is_one_mesh, within=10)
    simulation.leave("moon-1")
    simulation.run_until(lambda: simulation.everywhere("moon-1", NodeStatus.LEFT), within=5)


def test_a_slow_line_delays_changes_and_accuses_nobody(simulation: Simulation) -> None:
    simulation.lines(round_trip=0.25, bandwidth=4_000)
    spreads = [simulation.update(node_id) for node_id in of(simulation, "eu")]
    simulation.run_until(lambda: all(len(s.hops) == 24 for s in spreads), within=20)
    slowest = max(max(spread.seconds.values()) for spread in spreads)
    assert slowest > 1, "eight records of 600 bytes, for three bridges, over a line of 4 kB/s"
    simulation.run(5)
    assert deaths(simulation) == set()
    assert not any(event.kind == "unreachable" for event in simulation.events)


def test_what_changed_during_a_cut_arrives_over_a_slow_line() -> None:
    simulation = Simulation(40, regions=("eu", "us"), boundary="region", seed=5)
    simulation.cut("us")
    simulation.run(1)
    for node_id in of(simulation, "us"):
        simulation.update(node_id)
    simulation.run(4)
    simulation.lines(bandwidth=4_000)
    simulation.heal()
    # 40 records of 600 bytes for each of three bridges.
    simulation.run_until(simulation.is_one_mesh, within=60)


def test_a_new_region_learns_all_over_a_slow_line() -> None:
    simulation = Simulation(60, regions=("eu", "us"), boundary="region", seed=5)
    simulation.lines(bandwidth=4_000)
    simulation.join("asia-0", seeds=["eu-001"], region="asia")
    simulation.run_until(simulation.is_one_mesh, within=60)
    assert not any(event.kind in ("failed", "unreachable") for event in simulation.events)


def test_a_region_learns_from_others_what_its_own_dead_node_wrote_last() -> None:
    simulation = Simulation(3, regions=("eu", "us"), boundary="region", seed=1)
    simulation.partition(["eu-000", "eu-001"])
    for other in ("eu-000", "eu-001"):
        simulation.break_streams("eu-002", other)
    simulation.update("eu-002")
    simulation.run(0.5)
    record = simulation.topology_of("us-000").get_record("eu-002")
    simulation.kill("eu-002")
    simulation.heal()
    assert simulation.topology_of("eu-000").get_record("eu-002") != record
    # Verdicts about the older record do not count in the other region, which knows the newer one.
    simulation.run_until(lambda: simulation.everywhere("eu-002", FAILED), within=30)
    assert simulation.topology_of("eu-000").get_record("eu-002") == record


def test_what_a_dead_node_wrote_last_arrives_over_a_slow_line() -> None:
    simulation = Simulation(40, regions=("eu", "us"), boundary="region", seed=1)
    bridge, *_ = simulation.bridges_of("us", by="us-000")
    feeds = simulation._world.processes[bridge].session.feeds.values()
    [dead] = [feed.peer.id for feed in feeds if feed.region == "eu"]
    rest = [node_id for node_id in of(simulation, "eu") if node_id != dead]
    simulation.partition(rest)
    for other in rest:
        simulation.break_streams(dead, other)
    simulation.update(dead)
    simulation.run(0.5)
    record = simulation.topology_of("us-000").get_record(dead)
    simulation.kill(dead)
    simulation.lines(bandwidth=4_000)
    simulation.heal()
    # Its record comes last, 24 kB after the first one, to each of three bridges.
    simulation.run_until(
        lambda: all(simulation.topology_of(other).get_record(dead) == record for other in rest),
        within=30,
    )


def test_a_node_that_was_held_as_failed_is_alive_again_without_observers() -> None:
    simulation = Simulation(1, regions=("eu", "us", "asia"), boundary="region", seed=1)
    simulation.join("old", seeds=["us-000"], region="us", boundary="")
    simulation.run_until(simulation.is_one_mesh, within=5)
    for _ in range(2):
        simulation.stall("eu-000", 8)
        simulation.run_until(
            lambda: simulation.everywhere("eu-000", FAILED, by=["us-000", "asia-000"]), within=8
        )
        simulation.run(9)
    simulation.leave("old")
    simulation.run_until(lambda: simulation.everywhere("eu-000", ALIVE), within=40)


@pytest.mark.parametrize("dead", ["us-000", "us-001"])
def test_a_node_whose_last_neighbour_accused_it_and_died_is_alive_everywhere(dead: str) -> None:
    """Each of the two holds the other one as failed, and nobody else is in their region."""
    simulation = Simulation(2, regions=("eu", "us"), boundary="region", seed=1)
    for _ in range(2):
        simulation.block("us-000", "us-001")
        simulation.run(9)
        simulation.unblock("us-000", "us-001")
        simulation.run(4)
    [living] = {"us-000", "us-001"} - {dead}
    for one, other in ((dead, living), (living, dead)):
        verdict = simulation.topology_of(one).get_verdict(other, one)
        assert verdict is not None
        assert verdict.verdict.held
    simulation.kill(dead)
    simulation.run_until(
        lambda: simulation.everywhere(living, ALIVE) and simulation.everywhere(dead, FAILED),
        within=REPEAT + UNREFUTED_ELSEWHERE + 5,
    )


def test_a_held_verdict_stands_while_its_accuser_answers() -> None:
    simulation = Simulation(4, regions=("eu", "us"), boundary="region", seed=1)
    for _ in range(2):
        simulation.stall("us-003", 9)
        simulation.run(12)
    assert simulation.everywhere("us-003", FAILED), "it comes and goes"
    simulation.accuse("us-003", "us-000", "us-001", "us-002")
    for _ in range(30):
        simulation.run(1)
        assert simulation.everywhere("us-003", FAILED)
        assert simulation.everywhere("us-000", ALIVE, by=["eu-000", "us-001"])


def test_a_region_whose_clocks_were_ahead_by_a_day_is_back_when_they_are_right() -> None:
    simulation = Simulation(4, regions=("eu", "us"), boundary="region", seed=1)
    for node_id in of(simulation, "us"):
        simulation.kill(node_id)
        simulation.join(node_id, seeds=["eu-000", "us-000", "us-001"])
        simulation.run_until(simulation.is_one_mesh, within=10)
    for node_id in of(simulation, "us"):
        simulation.skew(node_id, 86_400)
    simulation.run(60)  # they renew their records, which only they accept
    assert simulation.everywhere("us-000", ALIVE)
    assert simulation.status_of("eu-000", by="us-000") is None, "its lease ended, by that clock"
    for node_id in of(simulation, "us"):
        simulation.skew(node_id, 0)
    simulation.run_until(simulation.is_one_mesh, within=20)
    assert deaths(simulation) <= set(of(simulation, "us"))
