"""Whom a node pings after keys vanished, and what it says: in virtual time."""

from __future__ import annotations

import pytest
from aegis_core._registry.observer import FAIL_AFTER, MAX_PINGS, PING_AGAIN, RECHECK
from aegis_core._registry.observer import RegistryObserver as Observer
from aegis_discovery import NodeInfo, Topology
from aegis_discovery.records import Opinion, RecordSigner
from aegis_discovery.registry import RendezvousObservers


class World:
    """The topology of node `a`, and the other nodes."""

    def __init__(self, *others: str) -> None:
        self.topology = Topology(owner="a", signer=RecordSigner("a"))
        self.topology.add_node(NodeInfo("a", address="10.0.0.1:1"))
        self.observers = RendezvousObservers()
        self.observers.place("a", can_observe=True)
        self.others: dict[str, Topology] = {}
        for node_id in others:
            other = Topology(owner=node_id, signer=RecordSigner(node_id))
            other.add_node(NodeInfo(node_id, address="10.0.0.2:1"))
            self.others[node_id] = other
            self.observers.place(node_id, can_observe=True)
            self.hear_from(node_id)
        self.observer = Observer(self.topology, self.observers, refutes=True)

    def hear_from(self, node_id: str) -> None:
        record = self.others[node_id].get_record(node_id)
        assert record is not None
        self.topology.merge_records([record])

    def opinion(self, node_id: str) -> Opinion | None:
        verdict = self.topology.get_verdict(node_id, "a")
        return None if verdict is None else verdict.verdict.opinion

    def accuse_a(self, accuser: str) -> None:
        record = self.topology.get_record("a")
        assert record is not None
        other = self.others[accuser]
        other.merge_records([record])
        other.publish_verdict("a", Opinion.FAILED)
        verdict = other.get_verdict("a", accuser)
        assert verdict is not None
        self.topology.merge_verdicts([verdict])


@pytest.fixture
def world():
    return World("b", "c")


def test_nobody_is_pinged_while_all_keys_are_there(world):
    world.observer.tick(0.0)
    assert world.observer.take_pings(0.0) == []


def test_a_node_that_does_not_answer_is_suspected_and_then_failed(world):
    world.observer.key_changes(["b"], [], 0.0)
    world.observer.tick(0.0)
    assert world.observer.take_pings(0.0) == ["b"]
    assert world.observer.take_pings(0.0) == []
    world.observer.ping_ended("b", 0.1, answered=False)
    assert world.opinion("b") is Opinion.SUSPECT
    now = 0.1
    while world.opinion("b") is not Opinion.FAILED:
        now += PING_AGAIN
        assert world.observer.take_pings(now) == ["b"]
        world.observer.ping_ended("b", now, answered=False)
    assert now == pytest.approx(0.1 + FAIL_AFTER)
    assert world.observer.take_pings(now + RECHECK - 0.1) == []
    assert world.observer.take_pings(now + RECHECK) == ["b"]


def test_a_node_that_answers_is_not_accused(world):
    world.observer.key_changes(["b"], [], 0.0)
    world.observer.tick(0.0)
    world.observer.take_pings(0.0)
    world.observer.ping_ended("b", 0.1, answered=True)
    assert world.opinion("b") is None
    assert world.observer.take_pings(0.1 + RECHECK) == ["b"]


def test_a_failed_node_that_answers_again_is_cleared(world):
    world.observer.key_changes(["b"], [], 0.0)
    world.observer.tick(0.0)
    for now in (0.0, 2.0):
        world.observer.take_pings(now)
        world.observer.ping_ended("b", now, answered=False)
    assert world.opinion("b") is Opinion.FAILED
    world.observer.key_changes([], ["b"], 3.0)
    assert world.observer.take_pings(3.0) == ["b"]
    world.observer.ping_ended("b", 3.1, answered=True)
    assert world.opinion("b") is Opinion.CLEAR
    world.observer.tick(60.0)
    assert world.observer.take_pings(60.0) == []


def test_a_key_that_returns_ends_the_pings(world):
    world.observer.key_changes(["b"], [], 0.0)
    world.observer.tick(0.0)
    world.observer.key_changes([], ["b"], 0.0)
    assert world.observer.take_pings(10.0) == []
    world.observer.ping_ended("b", 10.0, answered=False)
    assert world.opinion("b") is None


def test_only_observers_ping():
    world = World(*(f"n{number}" for number in range(30)))
    pinged = []
    for node_id in world.others:
        world.observer.key_changes([node_id], [], 0.0)
    for step in range(20):
        world.observer.tick(step / 2)
        pings = world.observer.take_pings(step / 2)
        assert len(pings) <= MAX_PINGS
        pinged += pings
        for node_id in pings:
            world.observer.ping_ended(node_id, step / 2, answered=True)
    mine = {i for i in world.others if "a" in world.observers.observers(i)}
    assert set(pinged) == mine
    assert 0 < len(mine) < 30


def test_another_node_takes_the_place_of_an_observer_that_died():
    world = World(*(f"n{number}" for number in range(12)))
    subject = next(i for i in world.others if "a" not in world.observers.observers(i))
    world.observer.key_changes([subject], [], 0.0)
    world.observer.tick(0.0)
    assert world.observer.take_pings(0.0) == []
    for node_id in world.others:
        if node_id != subject:
            world.observers.place(node_id, can_observe=False)
    world.observer.tick(1.0)
    assert world.observer.take_pings(1.0) == [subject]


def test_an_accusation_is_answered_with_a_newer_record(world):
    before = world.topology.get_record("a").stamp
    world.accuse_a("b")
    world.observer.tick(0.0)
    assert world.topology.get_record("a").stamp > before
    assert world.topology.get_verdicts("a") == ()


def test_an_accuser_that_goes_on_is_answered_once_a_second(world):
    answers = 0
    for step in range(30):
        world.accuse_a("b")
        before = world.topology.get_record("a").stamp
        world.observer.tick(step / 10)
        answers += world.topology.get_record("a").stamp > before
    assert answers == 3


def test_a_node_that_left_is_not_pinged(world):
    world.observer.key_changes(["b"], [], 0.0)
    world.others["b"].remove_node("b")
    world.hear_from("b")
    world.observer.tick(0.0)
    assert world.observer.take_pings(0.0) == []
