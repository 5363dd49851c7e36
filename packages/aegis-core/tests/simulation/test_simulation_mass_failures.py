"""Many nodes die at once, and most observers of the dead with them."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable

import pytest
from aegis_core.simulation import Simulation
from aegis_discovery import NodeStatus

ALIVE, FAILED = NodeStatus.ALIVE, NodeStatus.FAILED


def is_right(simulation: Simulation, dead: Collection[str], by: Iterable[str] = ()) -> bool:
    """Tells whether all living nodes, or `by`, see who died, and each other alive."""
    observers = sorted(by) or [i for i in simulation.live if i not in dead]
    return all(
        simulation.status_of(node_id, by=observer) is (FAILED if node_id in dead else ALIVE)
        for observer in observers
        for node_id in simulation.topology_of(observer).nodes
        if node_id != observer
    )


def lose_all_but(simulation: Simulation, *survivors: str, how: str = "kill") -> list[str]:
    """Kills all others, or cuts them off; returns their ids."""
    dead = [node_id for node_id in simulation.live if node_id not in survivors]
    for node_id in dead:
        if how == "kill":
            simulation.kill(node_id)
        else:
            simulation.block(node_id)
            simulation.block(None, node_id)
    return dead


@pytest.mark.parametrize("how", ["kill", "block"])
@pytest.mark.parametrize(
    ("nodes", "survivors", "within"),
    [(2, 1, 3), (3, 1, 3), (3, 2, 3), (6, 1, 4), (7, 1, 9), (8, 1, 12), (12, 2, 15), (12, 6, 7)],
)
def test_all_who_died_at_once_are_failed(
    nodes: int, survivors: int, within: float, how: str
) -> None:
    simulation = Simulation(nodes, seed=3)
    dead = lose_all_but(simulation, *simulation.live[::-1][:survivors], how=how)
    within *= 3 if how == "block" else 1
    simulation.run_until(lambda: is_right(simulation, dead), within=within)


@pytest.mark.parametrize("seed", [3, 29])
def test_one_half_of_the_mesh_sees_that_the_other_half_died(seed: int) -> None:
    """With the second choice, some of the dead have dead observers only."""
    simulation = Simulation([f"n{number:04}" for number in range(30)], seed=seed)
    survivors = random.Random(seed).sample(simulation.live, 15)
    dead = lose_all_but(simulation, *survivors)
    simulation.run_until(lambda: is_right(simulation, dead), within=8)


@pytest.mark.parametrize(("survivors", "within"), [(1, 60), (3, 30)])
def test_one_application_of_three_replicas_sees_that_all_others_died(
    survivors: int, within: float
) -> None:
    """Only workers of its own identity may be left that could observe its own dead ones."""
    names = [f"app-{number}#{replica}" for number in range(8) for replica in range(3)]
    simulation = Simulation(names, seed=1)
    dead = lose_all_but(simulation, *names[:survivors])
    simulation.run_until(lambda: is_right(simulation, dead), within=within)


@pytest.mark.parametrize("dies_too", [True, False])
def test_all_observers_of_a_node_die_at_once(dies_too: bool) -> None:
    simulation = Simulation(20, seed=1)
    membership = simulation._world.processes["node-000"].session.membership
    dead = {*membership.observers("node-007"), *(["node-007"] if dies_too else [])}
    for node_id in sorted(dead):
        simulation.kill(node_id)
    simulation.run_until(lambda: is_right(simulation, dead), within=8)


def test_those_who_died_at_once_are_alive_when_they_are_back() -> None:
    simulation = Simulation(12, seed=1)
    dead = lose_all_but(simulation, "node-004")
    simulation.run(6)  # some have failed, the observers of others were replaced
    for node_id in dead:
        simulation.join(node_id, seeds=["node-004"])
    simulation.run_until(simulation.is_one_mesh, within=10)


def test_a_region_whose_nodes_died_but_one_is_reached_by_the_others() -> None:
    """Its dead bridges would be bridges for ever, and say that they do not hear any region."""
    simulation = Simulation(7, regions=("eu", "us"), boundary="region", seed=1)
    simulation.cut("us")
    simulation.run(12)
    survivor = "eu-002"
    assert survivor not in simulation.bridges_of("eu", by=survivor)
    dead = [i for i in simulation.live if i.startswith("eu") and i != survivor]
    for node_id in dead:
        simulation.kill(node_id)
    simulation.heal()
    simulation.run_until(lambda: is_right(simulation, dead), within=45)
    assert simulation.bridges_of("eu", by="us-000") == (survivor,)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(("nodes", "survivors", "seed"), [(12, 3, 3), (12, 4, 1), (30, 8, 3)])
def test_a_liar_makes_none_of_the_living_fail_while_most_others_die(
    nodes: int, survivors: int, seed: int, held: bool
) -> None:
    simulation = Simulation(nodes, seed=seed)
    liar, *honest = random.Random(seed).sample(simulation.live, survivors)

    def lie(seconds: float) -> None:
        until = simulation.now + seconds
        while simulation.now < until:
            simulation.accuse(liar, *honest, held=held)
            simulation.run(0.5)
            seen = {(i, simulation.status_of(i, by=by)) for by in honest for i in honest}
            # One that lost all feeds but that of the liar misses the answers for a moment.
            assert sum(status is FAILED for _, status in seen) <= 1

    lie(3)
    dead = lose_all_but(simulation, liar, *honest)
    lie(15)
    simulation.run_until(lambda: is_right(simulation, dead, by=honest), within=3)


def test_a_node_is_alive_again_although_the_only_one_that_judged_it_has_died() -> None:
    """That one waited until it heard the flapping node for a minute, and died meanwhile."""
    simulation = Simulation([f"node-{number:03}" for number in range(8)], seed=270)
    simulation.flap("node-003")
    simulation.run(75)
    assert simulation.status_of("node-003", by="node-000") is FAILED
    simulation.kill("node-002")
    simulation.heal()
    simulation.run_until(lambda: is_right(simulation, ["node-002"]), within=10)
