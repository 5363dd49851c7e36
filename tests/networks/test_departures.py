"""Processes on hosts of their own leave, die, stand still and are replaced."""

from __future__ import annotations

import signal

import pytest

from .cluster import Cluster, pause


def test_a_node_that_leaves_is_known_to_have_left_and_nobody_ever_suspects_it(
    cluster: Cluster,
) -> None:
    others = cluster.others("d")
    marks = cluster.mark()
    cluster.nodes["d"].signal(signal.SIGTERM)
    assert cluster.nodes["d"].wait_exit() == 0
    cluster.wait_event("left d", others, marks)
    cluster.become_one(others)
    del marks["d"]
    assert sorted(cluster.events(marks)) == [(node_id, "left d") for node_id in others]
    cluster.start("d")
    cluster.become_one()


def test_a_killed_node_is_failed_everywhere_and_nobody_else_is(cluster: Cluster) -> None:
    others = cluster.others("c")
    marks = cluster.mark()
    cluster.nodes["c"].signal(signal.SIGKILL)
    cluster.wait_event("failed c", others, marks)
    del marks["c"]
    cluster.start("c")
    cluster.become_one()
    assert cluster.failures(marks) == [(node_id, "c") for node_id in others]


@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.soak)])
def test_after_a_node_stood_still_all_agree_again_and_nobody_else_was_failed(
    cluster: Cluster, seconds: float
) -> None:
    marks = cluster.mark()
    cluster.nodes["e"].signal(signal.SIGSTOP)
    pause(seconds)
    cluster.nodes["e"].signal(signal.SIGCONT)
    cluster.become_one()
    failures = cluster.failures(marks)
    # Five seconds are about as long as it takes to be failed, so that may be or not.
    whom = {whom for _, whom in failures}
    assert whom == {"e"} if seconds == 30 else whom <= {"e"}
    assert len(failures) == len(set(failures)), "somebody changed its mind"


def test_a_client_goes_on_without_a_failed_call_when_its_nodes_are_killed(
    cluster: Cluster,
) -> None:
    client = cluster.start_client()
    try:
        client.wait(lambda fact: fact.get("calls"))
        # The seed peers: it follows one of them.
        for node_id in ("a", "b"):
            since = client.mark()
            cluster.nodes[node_id].signal(signal.SIGKILL)
            client.wait_event(f"failed {node_id}", since=since)
        since = client.mark()
        client.wait(lambda fact: fact.get("calls"), since=since)
        client.close_input()
        outcome = client.wait(lambda fact: "answered" in fact)
    finally:
        client.kill()
    assert outcome["failures"] == []
    assert set(outcome["answered"]) == set(cluster.hosts)
    cluster.start("a", "b")
    cluster.become_one()


@pytest.mark.soak
def test_a_rolling_restart_of_all_nodes_costs_a_client_no_call(cluster: Cluster) -> None:
    client = cluster.start_client()
    try:
        client.wait(lambda fact: fact.get("calls"))
        for node_id, node in list(cluster.nodes.items()):
            marks = cluster.mark()
            del marks[node_id]
            node.signal(signal.SIGTERM)
            assert node.wait_exit() == 0
            cluster.start(node_id)
            cluster.become_one()
            assert cluster.failures(marks) == []
            since = client.mark()
            client.wait(lambda fact: fact.get("calls"), since=since)
        client.close_input()
        outcome = client.wait(lambda fact: "answered" in fact)
    finally:
        client.kill()
    assert outcome["failures"] == []
    assert set(outcome["answered"]) == set(cluster.hosts)
