from __future__ import annotations

import pytest
from aegis_core._membership import REVIEW, UNREFUTED, Membership
from aegis_discovery import NodeInfo, NodeStatus, Topology
from aegis_discovery.records import Opinion, RecordAuthor

ALIVE, SUSPECTED, FAILED = NodeStatus.ALIVE, NodeStatus.SUSPECTED, NodeStatus.FAILED
EPOCH = 1_800_000_000


class Mesh:
    """What one node, `a`, derives of what it and others say."""

    def __init__(self, *others: str) -> None:
        self.now = 0.0
        self.authors = {i: RecordAuthor(i, clock=self.clock) for i in ("a", *others)}
        self.topology = Topology(owner="a", author=self.authors["a"], clock=self.clock)
        self.topology.add_node(NodeInfo("a", address="a:1"))
        for node_id in others:
            self.write(node_id)
        self.membership = Membership(self.topology, 0.0)
        self.wait(REVIEW)

    def clock(self) -> float:
        return EPOCH + self.now

    def write(self, node_id: str) -> None:
        held = self.topology.get_record(node_id)
        stamp = max(int(self.clock() * 1000), held.stamp + 1 if held else 0)
        info = NodeInfo(node_id, address=f"{node_id}:1")
        self.topology.merge_records([self.authors[node_id].write(node_id, stamp, info)])

    def say(
        self, accuser: str, subject: str, opinion: Opinion = Opinion.FAILED, *, held: bool = False
    ) -> None:
        record = self.topology.get_record(subject)
        assert record is not None
        stamp = int(self.clock() * 1000)
        verdict = self.authors[accuser].judge(record, stamp, opinion, held=held)
        self.topology.merge_verdicts([verdict])

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.1
            for node_id in self.authors:
                self.membership.heard(node_id, self.now)
            self.membership.tick(self.now)

    def status(self, node_id: str) -> NodeStatus:
        node = self.topology.get_node(node_id)
        assert node is not None
        return node.status

    @property
    def own_stamp(self) -> int:
        record = self.topology.get_record("a")
        assert record is not None
        return record.stamp


def test_a_majority_of_its_observers_fails_a_node() -> None:
    mesh = Mesh("b", "c", "d", "e")
    mesh.say("b", "e")
    mesh.say("c", "e")
    mesh.wait(REVIEW)
    assert mesh.status("e") is SUSPECTED
    mesh.say("d", "e")
    mesh.wait(REVIEW)
    assert mesh.status("e") is FAILED


@pytest.mark.parametrize("others", ["bcd", "bcde", "bcdefg"])
def test_a_liar_alone_fails_nobody(others: str) -> None:
    mesh = Mesh(*others)
    for subject in others[1:]:
        mesh.say("b", subject)
    mesh.wait(1.0)
    for subject in others[1:]:
        # The living answer at once.
        assert mesh.status(subject) is not FAILED
        mesh.write(subject)
    mesh.wait(5.0)
    assert {mesh.status(subject) for subject in others} == {ALIVE}


def test_an_observer_that_does_not_answer_its_own_accusers_is_not_waited_for() -> None:
    mesh = Mesh("b", "c")
    mesh.say("b", "c", Opinion.FAILED)
    mesh.wait(REVIEW)
    assert mesh.status("c") is SUSPECTED
    mesh.say("c", "b", Opinion.SUSPECT)
    mesh.wait(UNREFUTED + 1)
    assert mesh.status("c") is SUSPECTED


def test_a_newer_record_refutes_unless_it_is_held() -> None:
    mesh = Mesh("b", "c", "d", "e", "f")
    for accuser in "bcf":
        mesh.say(accuser, "e")
        mesh.say(accuser, "d", held=True)
    mesh.wait(REVIEW)
    mesh.now += 1
    mesh.write("e")
    mesh.write("d")
    mesh.wait(2 * REVIEW)
    assert (mesh.status("e"), mesh.status("d")) == (ALIVE, FAILED)


def test_verdicts_of_an_earlier_life_of_their_accuser_are_void() -> None:
    mesh = Mesh("b", "c", "d", "e")
    for accuser in "bcd":
        mesh.say(accuser, "e")
        mesh.authors[accuser] = RecordAuthor(accuser, clock=mesh.clock)
        mesh.now += 0.1
        mesh.write(accuser)
    mesh.wait(2 * REVIEW)
    assert mesh.status("e") is ALIVE


def test_a_node_answers_its_observers_with_a_new_record_once_a_second() -> None:
    mesh = Mesh("b", "c")
    before = mesh.own_stamp
    mesh.now += 1
    mesh.say("b", "a")
    mesh.wait(0.1)
    first = mesh.own_stamp
    assert first > before
    mesh.say("b", "a")
    mesh.wait(0.5)
    assert mesh.own_stamp == first
    mesh.wait(1.0)
    assert mesh.own_stamp > first


def test_it_says_of_one_whose_feed_broke_what_it_sees_and_takes_it_back() -> None:
    mesh = Mesh("b", "c", "d")
    mesh.membership.lost("b", mesh.now)
    mesh.membership.tick(mesh.now)
    said = mesh.topology.get_verdict("b", "a")
    assert said is not None
    assert said.verdict.opinion is Opinion.SUSPECT
    mesh.wait(0.2)
    said = mesh.topology.get_verdict("b", "a")
    assert said is not None
    assert said.verdict.opinion is Opinion.CLEAR
    assert mesh.status("b") is ALIVE
