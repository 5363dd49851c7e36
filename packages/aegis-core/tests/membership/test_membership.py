from __future__ import annotations

import pytest
from aegis_core._membership.failure_detector import FAIL_AFTER_BREAK
from aegis_core._membership.membership import REVIEW, REVIEW_ALL, Membership
from aegis_core._membership.refutation import OUTVOTED_FOR, REFUTE_EVERY
from aegis_core._membership.regions import TAKE_UP_AFTER
from aegis_core._membership.rings import RINGS
from aegis_discovery import NodeInfo, NodeStatus, Topology
from aegis_discovery.records import UNREFUTED, Opinion, RecordSigner

ALIVE, SUSPECTED, FAILED = NodeStatus.ALIVE, NodeStatus.SUSPECTED, NodeStatus.FAILED
EPOCH = 1_800_000_000
MANY = "bcdefghijkl"
"""With these, every node has fewer observers than there are nodes."""


class Mesh:
    """The membership of node `a`, with verdicts of all nodes."""

    def __init__(self, *others: str, boundary: str = "") -> None:
        self.now = 0.0
        self.signers = {i: RecordSigner(i, clock=self.clock) for i in ("a", *others)}
        self.topology = Topology(owner="a", signer=self.signers["a"], clock=self.clock)
        self.topology.add_node(NodeInfo("a", address="a:1", boundary=boundary))
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
        self.topology.merge_records([self.signers[node_id].sign_record(node_id, stamp, info)])

    def publish_verdict(
        self, accuser: str, subject: str, opinion: Opinion = Opinion.FAILED, *, held: bool = False
    ) -> None:
        record = self.topology.get_record(subject)
        assert record is not None
        stamp = int(self.clock() * 1000)
        verdict = self.signers[accuser].sign_verdict(record, stamp, opinion, held=held)
        self.topology.merge_verdicts([verdict])

    def remove(self, node_id: str) -> None:
        held = self.topology.get_record(node_id)
        assert held is not None
        stamp = max(int(self.clock() * 1000), held.stamp + 1)
        self.topology.merge_records([self.signers[node_id].sign_record(node_id, stamp, None)])

    def restart(self, node_id: str) -> None:
        self.signers[node_id] = RecordSigner(node_id, clock=self.clock)
        self.write(node_id)

    def strangers(self, subject: str) -> list[str]:
        """The nodes whose verdicts on `subject` do not count."""
        return sorted(self.signers.keys() - self.membership.observers(subject) - {subject, "a"})

    def answers(self, accuser: str, seconds: float) -> int:
        """Makes one accuse `a` all the time; returns how often `a` answered."""
        before = set[int]()
        end = self.now + seconds
        while self.now < end:
            before.add(self.own_stamp)
            self.publish_verdict(accuser, "a")
            self.wait(0.1)
        return len(before | {self.own_stamp}) - 1

    def wait(self, seconds: float, *, silent: str = "") -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.1
            for node_id in self.signers.keys() - set(silent):
                self.membership.message_received(node_id, self.now)
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
    mesh.publish_verdict("b", "e")
    mesh.publish_verdict("c", "e")
    mesh.wait(REVIEW)
    assert mesh.status("e") is SUSPECTED
    mesh.publish_verdict("d", "e")
    mesh.wait(REVIEW)
    assert mesh.status("e") is FAILED


@pytest.mark.parametrize("others", ["bcd", "bcde", "bcdefg"])
def test_a_single_false_accuser_makes_no_node_fail(others: str) -> None:
    mesh = Mesh(*others)
    for subject in others[1:]:
        mesh.publish_verdict("b", subject)
    mesh.wait(1.0)
    for subject in others[1:]:
        # Live nodes answer at once.
        assert mesh.status(subject) is not FAILED
        mesh.write(subject)
    mesh.wait(5.0)
    assert {mesh.status(subject) for subject in others} == {ALIVE}


def test_an_observer_that_does_not_answer_its_own_accusers_is_not_waited_for() -> None:
    mesh = Mesh("b", "c")
    mesh.publish_verdict("b", "c", Opinion.FAILED)
    mesh.wait(REVIEW)
    assert mesh.status("c") is SUSPECTED
    mesh.publish_verdict("c", "b", Opinion.SUSPECT)
    mesh.wait(UNREFUTED + 1)
    assert mesh.status("c") is SUSPECTED


def test_a_newer_record_refutes_unless_it_is_held() -> None:
    mesh = Mesh("b", "c", "d", "e", "f")
    for accuser in "bcf":
        mesh.publish_verdict(accuser, "e")
        mesh.publish_verdict(accuser, "d", held=True)
    mesh.wait(REVIEW)
    mesh.now += 1
    mesh.write("e")
    mesh.write("d")
    mesh.wait(2 * REVIEW)
    assert (mesh.status("e"), mesh.status("d")) == (ALIVE, FAILED)


def test_an_outvoted_held_verdict_makes_no_node_suspected() -> None:
    mesh = Mesh("b", "c", "d", "e")
    mesh.publish_verdict("b", "e", held=True)
    mesh.wait(REVIEW)
    assert mesh.status("e") is SUSPECTED
    mesh.write("e")
    mesh.wait(2 * REVIEW)
    assert mesh.status("e") is ALIVE
    # It still counts with others.
    mesh.publish_verdict("c", "e")
    mesh.publish_verdict("d", "e", held=True)
    mesh.wait(2 * REVIEW)
    assert mesh.status("e") is FAILED


def test_verdicts_of_an_earlier_instance_of_the_accuser_do_not_count() -> None:
    mesh = Mesh("b", "c", "d", "e")
    for accuser in "bcd":
        mesh.publish_verdict(accuser, "e")
        mesh.signers[accuser] = RecordSigner(accuser, clock=mesh.clock)
        mesh.now += 0.1
        mesh.write(accuser)
    mesh.wait(2 * REVIEW)
    assert mesh.status("e") is ALIVE


def test_a_node_answers_its_observers_with_a_new_record_once_a_second() -> None:
    mesh = Mesh("b", "c")
    before = mesh.own_stamp
    mesh.now += 1
    mesh.publish_verdict("b", "a")
    mesh.wait(0.1)
    first = mesh.own_stamp
    assert first > before
    mesh.publish_verdict("b", "a")
    mesh.wait(0.5)
    assert mesh.own_stamp == first
    mesh.wait(1.0)
    assert mesh.own_stamp > first


def test_it_publishes_a_suspicion_after_a_broken_feed_and_withdraws_it() -> None:
    mesh = Mesh("b", "c", "d")
    mesh.membership.feed_broken("b", mesh.now)
    mesh.membership.tick(mesh.now)
    said = mesh.topology.get_verdict("b", "a")
    assert said is not None
    assert said.verdict.opinion is Opinion.SUSPECT
    mesh.wait(0.2)
    said = mesh.topology.get_verdict("b", "a")
    assert said is not None
    assert said.verdict.opinion is Opinion.CLEAR
    assert mesh.status("b") is ALIVE


def test_a_verdict_counts_only_once_its_accuser_is_an_observer() -> None:
    mesh = Mesh(*MANY)
    strangers = mesh.strangers("e")
    assert len(strangers) >= RINGS
    for accuser in strangers:
        mesh.publish_verdict(accuser, "e")
    mesh.wait(2 * REVIEW_ALL)
    assert mesh.status("e") is ALIVE
    for other in sorted(mesh.membership.observers("e") - {"a"}):
        mesh.remove(other)
    mesh.wait(2 * REVIEW)
    assert mesh.membership.observers("e") & set(strangers)
    assert mesh.status("e") is FAILED


def test_an_agreed_failure_ends_when_its_accusers_restart() -> None:
    mesh = Mesh("b", "c", "d", "e")
    for accuser in "bcd":
        mesh.publish_verdict(accuser, "e")
    mesh.wait(REVIEW)
    assert mesh.status("e") is FAILED
    for accuser in "bcd":
        mesh.restart(accuser)
    mesh.wait(REVIEW_ALL + REVIEW)
    assert mesh.status("e") is ALIVE


def test_a_failure_that_other_observers_find_again_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def warned() -> int:
        return sum(r.getMessage() == "e failed" for r in caplog.records if r.levelname == "WARNING")

    mesh = Mesh("b", "c", "e")
    for accuser in "bc":
        mesh.publish_verdict(accuser, "e")
    mesh.wait(5, silent="e")
    assert (mesh.status("e"), warned()) == (FAILED, 1)
    for accuser in "bc":
        mesh.remove(accuser)
        mesh.wait(0.1, silent="e")
        assert mesh.status("e") is SUSPECTED
        mesh.wait(5, silent="e")
        assert (mesh.status("e"), warned()) == (FAILED, 1)
    mesh.restart("e")
    mesh.wait(REVIEW)
    assert mesh.status("e") is ALIVE
    mesh.wait(20, silent="e")
    assert (mesh.status("e"), warned()) == (FAILED, 2)


def test_boundaries_are_a_warning_where_they_end_and_not_where_they_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "aegis.membership")

    def said(level: str) -> int:
        return sum(
            " because of b" in r.getMessage() for r in caplog.records if r.levelname == level
        )

    def meet_and_part() -> None:
        mesh.restart("b")
        mesh.wait(REVIEW)
        mesh.remove("b")
        mesh.wait(TAKE_UP_AFTER + REVIEW)

    mesh = Mesh(boundary="region")
    mesh.signers["b"] = RecordSigner("b", clock=mesh.clock)
    meet_and_part()
    assert (said("INFO"), said("WARNING")) == (1, 0)
    mesh.wait(TAKE_UP_AFTER)
    for _ in range(3):
        meet_and_part()
        mesh.wait(TAKE_UP_AFTER)
    assert said("WARNING") == 1
    mesh.wait(60)
    meet_and_part()
    assert said("WARNING") == 2


def test_an_accuser_that_is_no_observer_is_answered_after_doubling_pauses() -> None:
    mesh = Mesh(*MANY)
    # At once, and after 1, 3, 7, 15 and 31 s.
    assert mesh.answers(mesh.strangers("a")[0], 40) == 6
    observer = min(mesh.membership.observers("a"))
    assert mesh.answers(observer, 40) >= 30


def test_after_two_minutes_without_an_accusation_the_pauses_start_over() -> None:
    mesh = Mesh(*MANY)
    stranger = mesh.strangers("a")[0]
    assert mesh.answers(stranger, 8) == 4
    mesh.wait(120)
    assert mesh.answers(stranger, 8) == 4


def test_an_accuser_that_is_no_observer_is_named_from_its_second_accusation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mesh = Mesh(*MANY)
    stranger = mesh.strangers("a")[0]
    mesh.publish_verdict(stranger, "a")
    mesh.wait(5)
    warned = [r for r in caplog.records if r.levelname == "WARNING"]
    assert not warned
    mesh.answers(stranger, 50)
    warned = [r for r in caplog.records if r.levelname == "WARNING"]
    assert [r.getMessage().split(";")[0] for r in warned] == [
        f"{stranger} says that a is failed, but is not its observer"
    ]


def test_an_observer_that_is_refuted_again_and_again_is_named_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mesh = Mesh("b", "c")
    mesh.answers("b", 9)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    mesh.answers("b", 50)
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [line.split(",")[0] for line in warned] == ["b says that a is failed"]
    mesh.answers("b", 20)
    warned = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == 2


def test_an_observer_that_maintains_an_outvoted_verdict_is_named_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def named() -> list[str]:
        return [r.getMessage().split(",")[0] for r in caplog.records if r.levelname == "WARNING"]

    mesh = Mesh("b", "c", "d")
    mesh.now += 1
    mesh.publish_verdict("b", "a", held=True)
    mesh.wait(OUTVOTED_FOR - 1)
    assert not named()
    mesh.wait(50)
    assert named() == ["b maintains that a is failed"]
    mesh.wait(60)
    assert named() == 2 * ["b maintains that a is failed"]


def test_observers_that_maintain_what_most_say_are_not_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mesh = Mesh("b", "c", "d")
    mesh.now += 1
    for accuser in "bc":
        mesh.publish_verdict(accuser, "a", held=True)
    mesh.wait(2 * OUTVOTED_FOR)
    # They are content one after the other.
    mesh.publish_verdict("c", "a", Opinion.CLEAR)
    mesh.wait(OUTVOTED_FOR - 1)
    mesh.publish_verdict("b", "a", Opinion.CLEAR)
    mesh.wait(2 * OUTVOTED_FOR)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.parametrize(("accusers", "is_slower"), [("b", False), ("bc", True)])
def test_only_two_accusing_observers_make_a_node_slower_to_accuse(
    accusers: str, *, is_slower: bool
) -> None:
    mesh = Mesh("b", "c", "d")
    for _ in range(5):
        for accuser in accusers:
            mesh.publish_verdict(accuser, "a")
            mesh.wait(REFUTE_EVERY)
    mesh.membership.feed_broken("d", mesh.now)
    mesh.wait(FAIL_AFTER_BREAK + 0.2, silent="d")
    said = mesh.topology.get_verdict("d", "a")
    assert said is not None
    assert said.verdict.opinion is (Opinion.SUSPECT if is_slower else Opinion.FAILED)


def test_a_node_that_is_watched_again_starts_from_the_published_verdict() -> None:
    mesh = Mesh("b", "c", "d", "e", "f")
    subjects = mesh.membership.watched
    assert subjects == set("bcdef")
    more = "ghijklmnopqrst"
    for node_id in more:
        mesh.signers[node_id] = RecordSigner(node_id, clock=mesh.clock)
    for subject in sorted(subjects):
        mesh.membership.feed_broken(subject, mesh.now)
    mesh.wait(2.0, silent="bcdef")
    for node_id in more:
        mesh.write(node_id)
    mesh.wait(REVIEW, silent="bcdef")
    lost = sorted(subjects - mesh.membership._subjects.keys())
    assert lost, "of twenty, one watches ten at most"
    for node_id in more:
        mesh.remove(node_id)
    mesh.wait(REVIEW, silent="bcdef")

    def said(subject: str) -> Opinion:
        content = mesh.topology.get_verdict(subject, "a")
        assert content is not None
        return content.verdict.opinion

    assert {said(subject) for subject in lost} == {Opinion.FAILED}
    mesh.wait(0.2)
    assert {said(subject) for subject in lost} == {Opinion.CLEAR}
