"""Links between hosts go down, lose one direction or flap; afterwards the mesh is one again."""

from __future__ import annotations

import signal
import time

import pytest

from .cluster import Cluster, let_pass

STEADY = 60.0
"""Seconds without an interruption after which a node that failed repeatedly is alive again."""

LONG = 15.0
"""Seconds in which a wrongly accused node would fail several times."""


def test_an_isolated_node_fails_and_is_alive_again_when_packets_pass(
    cluster: Cluster,
) -> None:
    others = cluster.others("f")
    positions = cluster.positions()
    cluster.network.isolate(cluster.hosts["f"])
    cluster.wait_event("failed f", others, positions)
    cluster.network.heal()
    cluster.wait_until_one_mesh()
    assert cluster.failures(positions, others) == [(node_id, "f") for node_id in others]


def test_two_halves_see_each_other_as_failed_and_later_merge_the_changes_of_both(
    cluster: Cluster,
) -> None:
    halves = ("a", "c", "e", "g"), ("b", "d", "f")
    positions = cluster.positions()
    cluster.network.cut(*(cluster.host_of(*half) for half in halves))
    for half, other_half in (halves, halves[::-1]):
        for lost in other_half:
            cluster.wait_event(f"failed {lost}", half, positions)
    for half in halves:
        assert {subject for _, subject in cluster.failures(positions, half)}.isdisjoint(half)
        cluster.nodes[half[0]].send("provide extra")
    cluster.network.heal()
    cluster.wait_until_one_mesh()
    for node in cluster.nodes.values():
        services = node.ask("topology")["services"]
        assert {node_id for node_id in services if "extra" in services[node_id]} == {"a", "b"}


@pytest.mark.soak
@pytest.mark.timeout(4 * STEADY)
def test_halves_that_live_apart_for_a_minute_become_one_mesh_with_the_changes_of_both(
    cluster: Cluster,
) -> None:
    halves = ("a", "c", "e", "g"), ("b", "d", "f")
    positions = cluster.positions()
    cluster.network.cut(*(cluster.host_of(*half) for half in halves))
    for half, other_half in (halves, halves[::-1]):
        for lost in other_half:
            cluster.wait_event(f"failed {lost}", half, positions)
    apart_since = time.monotonic()
    # In one half a node restarts, in the other one leaves; both get new services meanwhile.
    cluster.start("f")
    cluster.nodes["g"].signal(signal.SIGTERM)
    assert cluster.nodes["g"].wait_exit() == 0
    for number in range(6):
        for half in halves:
            cluster.nodes[half[0]].send(f"provide {half[0]}-{number}")
        let_pass(STEADY / 6)
    assert time.monotonic() - apart_since >= STEADY
    cluster.network.heal()
    remaining = cluster.others("g")
    cluster.wait_until_one_mesh(remaining, within=STEADY)
    for node_id in remaining:
        services = cluster.nodes[node_id].ask("topology")["services"]
        assert {name for name in services["a"] if "-" in name} == {f"a-{n}" for n in range(6)}
        assert {name for name in services["b"] if "-" in name} == {f"b-{n}" for n in range(6)}


@pytest.mark.soak
def test_only_the_node_fails_whose_link_goes_down(
    cluster: Cluster,
) -> None:
    others = cluster.others("g")
    positions = cluster.positions()
    cluster.network.unplug(cluster.hosts["g"])
    cluster.wait_event("failed g", others, positions)
    cluster.network.plug(cluster.hosts["g"])
    cluster.wait_until_one_mesh()
    assert cluster.failures(positions, others) == [(node_id, "g") for node_id in others]


@pytest.mark.soak
def test_only_the_node_fails_whose_packets_are_all_dropped(
    cluster: Cluster,
) -> None:
    others = cluster.others("e")
    positions = cluster.positions()
    cluster.network.drop(cluster.host_of("e"), cluster.network.hosts)
    cluster.wait_event("failed e", others, positions)
    cluster.network.heal()
    cluster.wait_until_one_mesh()
    assert cluster.failures(positions, others) == [(node_id, "e") for node_id in others]


@pytest.mark.soak
def test_a_node_that_large_packets_do_not_reach_fails_alone_and_comes_back(
    cluster: Cluster,
) -> None:
    others = cluster.others("c")
    positions = cluster.positions()
    cluster.network.swallow_large(cluster.hosts["c"])
    # Its feeds still bring small messages, so it takes a large one to show.
    for node_id in others:
        for number in range(3):
            cluster.nodes[node_id].send(f"provide {'x' * 200}-{number}")
    cluster.wait_event("failed c", others, positions)
    cluster.network.heal()
    cluster.wait_until_one_mesh(within=60)
    assert cluster.failures(positions, others) == [(node_id, "c") for node_id in others]


@pytest.mark.soak
def test_no_node_fails_when_links_between_a_few_lose_one_direction(
    cluster: Cluster,
) -> None:
    positions = cluster.positions()
    cluster.network.drop(cluster.host_of("a", "d"), cluster.host_of("e"))
    let_pass(LONG)
    cluster.network.heal()
    cluster.wait_until_one_mesh()
    assert cluster.failures(positions) == []


@pytest.mark.soak
@pytest.mark.timeout(4 * STEADY)
def test_a_node_with_a_flapping_link_stays_failed_until_the_link_was_steady_for_a_minute(
    cluster: Cluster,
) -> None:
    others = cluster.others("c")
    positions = cluster.positions()
    flap(cluster, "c", others)
    cluster.wait_until_one_mesh()
    flap(cluster, "c", others)
    steady_since = time.monotonic()
    cluster.wait_until_one_mesh(within=2 * STEADY)
    assert time.monotonic() - steady_since >= STEADY
    assert cluster.failures(positions, others) == [
        (node_id, "c") for node_id in others for _ in "12"
    ]


def flap(cluster: Cluster, node_id: str, others: list[str]) -> None:
    """Takes a node's link down until all others see the node as failed."""
    positions = cluster.positions()
    cluster.network.unplug(cluster.hosts[node_id])
    cluster.wait_event(f"failed {node_id}", others, positions)
    cluster.network.plug(cluster.hosts[node_id])
