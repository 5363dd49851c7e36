"""Links between hosts go down, lose one direction, flip and flop; the mesh is one again after."""

from __future__ import annotations

import time

import pytest

from .cluster import Cluster, pause

DAMPED = 60.0
"""Seconds for which a node that failed again and again has to be heard before it counts again."""

LONG = 15.0
"""Seconds in which a node that is wrongly accused would have been failed several times."""


def test_a_black_holed_node_is_failed_everywhere_and_comes_back_when_packets_pass(
    cluster: Cluster,
) -> None:
    others = cluster.others("f")
    marks = cluster.mark()
    cluster.network.isolate(cluster.hosts["f"])
    cluster.wait_event("failed f", others, marks)
    cluster.network.heal()
    cluster.become_one()
    assert cluster.failures(marks, others) == [(node_id, "f") for node_id in others]


def test_two_halves_fail_each_other_and_are_one_mesh_again_with_what_both_did_meanwhile(
    cluster: Cluster,
) -> None:
    halves = ("a", "c", "e", "g"), ("b", "d", "f")
    marks = cluster.mark()
    cluster.network.cut(*(cluster.host_of(*half) for half in halves))
    for half, other_half in (halves, halves[::-1]):
        for lost in other_half:
            cluster.wait_event(f"failed {lost}", half, marks)
    for half in halves:
        assert {whom for _, whom in cluster.failures(marks, half)}.isdisjoint(half)
        cluster.nodes[half[0]].say("provide news")
    cluster.network.heal()
    cluster.become_one()
    for node in cluster.nodes.values():
        services = node.ask("topology")["services"]
        assert {node_id for node_id in services if "news" in services[node_id]} == {"a", "b"}


@pytest.mark.soak
def test_a_link_that_goes_down_and_comes_up_fails_its_node_and_nobody_else(
    cluster: Cluster,
) -> None:
    others = cluster.others("g")
    marks = cluster.mark()
    cluster.network.unplug(cluster.hosts["g"])
    cluster.wait_event("failed g", others, marks)
    cluster.network.plug(cluster.hosts["g"])
    cluster.become_one()
    assert cluster.failures(marks, others) == [(node_id, "g") for node_id in others]


@pytest.mark.soak
def test_a_node_that_hears_all_and_is_heard_by_none_is_failed_and_nobody_else(
    cluster: Cluster,
) -> None:
    others = cluster.others("e")
    marks = cluster.mark()
    cluster.network.drop(cluster.host_of("e"), cluster.network.hosts)
    cluster.wait_event("failed e", others, marks)
    cluster.network.heal()
    cluster.become_one()
    assert cluster.failures(marks, others) == [(node_id, "e") for node_id in others]


@pytest.mark.soak
def test_a_link_between_two_nodes_that_loses_one_direction_fails_neither(
    cluster: Cluster,
) -> None:
    marks = cluster.mark()
    cluster.network.drop(cluster.host_of("a", "d"), cluster.host_of("e"))
    pause(LONG)
    cluster.network.heal()
    cluster.become_one()
    assert cluster.failures(marks) == []


@pytest.mark.soak
@pytest.mark.timeout(4 * DAMPED)
def test_a_link_that_flips_and_flops_keeps_its_node_failed_until_it_was_steady_for_long(
    cluster: Cluster,
) -> None:
    others = cluster.others("c")
    marks = cluster.mark()
    flap(cluster, "c", others)
    cluster.become_one()
    flap(cluster, "c", others)
    steady_since = time.monotonic()
    cluster.become_one(within=2 * DAMPED)
    assert time.monotonic() - steady_since >= DAMPED
    assert cluster.failures(marks, others) == [(node_id, "c") for node_id in others for _ in "12"]


def flap(cluster: Cluster, node_id: str, others: list[str]) -> None:
    """Takes a node's link down until everybody noticed."""
    marks = cluster.mark()
    cluster.network.unplug(cluster.hosts[node_id])
    cluster.wait_event(f"failed {node_id}", others, marks)
    cluster.network.plug(cluster.hosts[node_id])
