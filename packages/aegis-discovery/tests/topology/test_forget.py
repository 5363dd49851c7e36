"""Lives of nodes that the mesh forgets."""

from __future__ import annotations

import pytest
from aegis_discovery import EventKind, NodeInfo, NodeStatus, Topology
from aegis_discovery.records import Record, RecordSigner

from ..conftest import ManualClock


@pytest.fixture
def topology(clock: ManualClock) -> Topology:
    return Topology(owner="me", clock=clock)


def record(clock: ManualClock, node_id: str = "orders-1", *, instance: str = "one") -> Record:
    signer = RecordSigner(node_id, clock=clock)
    signer.instance = instance
    return signer.sign_record(node_id, round(clock.now * 1000), NodeInfo(node_id, address="a:1"))


def forget(topology: Topology, clock: ManualClock, instance: str = "one") -> None:
    topology.forget({("orders-1", instance): round(clock.now * 1000)})


def test_a_forgotten_node_vanishes_and_its_old_record_does_not_return(
    topology: Topology, clock: ManualClock
) -> None:
    old = record(clock)
    topology.merge_records([old])
    topology.set_status("orders-1", old.stamp, NodeStatus.FAILED)
    events: list[str] = []
    topology.subscribe(lambda event: events.append(f"{event.kind} {event.node.id}"))
    clock.now += 10
    forget(topology, clock)
    assert topology.nodes == {}
    assert topology.get_record("orders-1") is None
    assert events == [f"{EventKind.FORGOTTEN} orders-1"]
    topology.merge_records([old])
    assert topology.nodes == {}
    assert len(events) == 1
    assert topology.digest == Topology(owner="me", clock=clock).digest


def test_a_later_life_is_welcome_even_if_its_clock_is_behind(
    topology: Topology, clock: ManualClock
) -> None:
    later = record(clock, instance="two")
    clock.now += 10
    forget(topology, clock)
    topology.merge_records([later])
    assert "orders-1" in topology.nodes


def test_the_same_life_is_welcome_if_it_shows_that_it_is_alive(
    topology: Topology, clock: ManualClock
) -> None:
    topology.merge_records([record(clock)])
    forget(topology, clock)
    assert topology.nodes == {}
    clock.now += 1
    topology.merge_records([record(clock)])
    assert "orders-1" in topology.nodes


def test_a_node_that_is_alive_answers_with_a_newer_record(clock: ManualClock) -> None:
    topology = Topology(owner="orders-1", clock=clock)
    topology.add_node(NodeInfo("orders-1", address="a:1"))
    own = topology.get_record("orders-1")
    assert own is not None
    until = own.stamp + 5000
    topology.forget({("orders-1", own.instance): until})
    renewed = topology.get_record("orders-1")
    assert renewed is not None
    assert renewed.stamp > until
    other = Topology(owner="me", clock=clock)
    other.forget({("orders-1", own.instance): until})
    other.merge_records([own])
    assert other.nodes == {}
    other.merge_records([renewed])
    assert "orders-1" in other.nodes


def test_only_the_last_list_counts(topology: Topology, clock: ManualClock) -> None:
    old = record(clock)
    forget(topology, clock)
    topology.forget({})
    topology.merge_records([old])
    assert "orders-1" in topology.nodes


def test_a_tombstone_is_forgotten_too(topology: Topology, clock: ManualClock) -> None:
    signer = RecordSigner("orders-1", clock=clock)
    signer.instance = "one"
    topology.merge_records([signer.sign_record("orders-1", round(clock.now * 1000), None)])
    assert topology.get_record("orders-1") is not None
    forget(topology, clock)
    assert topology.get_record("orders-1") is None
