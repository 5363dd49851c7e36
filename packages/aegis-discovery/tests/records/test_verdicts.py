"""Which verdicts count, for how long, and that the order of arrival does not matter."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import pytest
from aegis_discovery import NodeInfo, Topology
from aegis_discovery.records import RecordSigner
from aegis_discovery.records._record import Record, Signed
from aegis_discovery.records._verdict import (
    CLEAR_LEASE,
    MAX_ACCUSATIONS,
    VERDICT_LEASE,
    Opinion,
    SignedVerdict,
    Verdict,
)
from hypothesis import given
from hypothesis import strategies as st

from ..conftest import ManualClock

CLEAR, SUSPECT, FAILED = Opinion.CLEAR, Opinion.SUSPECT, Opinion.FAILED
NOW = 1_800_000_000.0
NOW_MS = round(NOW * 1000)


def node(node_id: str) -> NodeInfo:
    return NodeInfo(node_id, address="10.0.0.1:1")


class Mesh:
    """Some nodes with a signer each, and a topology that holds their records."""

    def __init__(self, *node_ids: str) -> None:
        self.clock = ManualClock()
        self.signers = {i: RecordSigner(i, mesh="test", clock=self.clock) for i in node_ids}
        self.topology = self.witness("witness")

    def witness(self, owner: str) -> Topology:
        """Makes a topology that holds all nodes."""
        signer = RecordSigner(owner, mesh="test", clock=self.clock)
        topology = Topology(owner=owner, signer=signer, clock=self.clock)
        topology.add_node(node(owner))
        topology.merge_records([self.write(i, NOW_MS) for i in self.signers])
        return topology

    def write(self, node_id: str, stamp: int, *, gone: bool = False) -> Record:
        return self.signers[node_id].sign_record(node_id, stamp, None if gone else node(node_id))

    def verdict(
        self, accuser: str, opinion: Opinion, stamp: int = NOW_MS, *, held: bool = False
    ) -> SignedVerdict:
        """Makes the accuser's verdict on the first record of `a`."""
        about = self.write("a", NOW_MS)
        return self.signers[accuser].sign_verdict(about, stamp, opinion, held=held)

    def receive(self, *verdicts: SignedVerdict, origin: str | None = None) -> None:
        self.topology.merge_verdicts(verdicts, origin=origin)

    @property
    def opinions(self) -> dict[str, Opinion]:
        return {v.accuser: v.opinion for v in self.topology.get_verdicts("a")}


@pytest.fixture
def mesh() -> Mesh:
    return Mesh("a", "b", "c")


def test_the_latest_verdict_of_each_accuser_counts_in_any_order_of_arrival(mesh: Mesh) -> None:
    early, late = mesh.verdict("b", SUSPECT), mesh.verdict("b", FAILED, NOW_MS + 1)
    mesh.receive(late, early, mesh.verdict("c", SUSPECT))
    assert mesh.opinions == {"b": FAILED, "c": SUSPECT}
    mesh.receive(mesh.verdict("b", CLEAR, NOW_MS + 2), late)
    assert mesh.opinions == {"b": CLEAR, "c": SUSPECT}


def test_every_node_chooses_the_same_of_two_verdicts_with_one_stamp(mesh: Mesh) -> None:
    pair = [mesh.verdict("b", SUSPECT), mesh.verdict("b", FAILED)]
    other = mesh.witness("other")
    mesh.receive(*pair)
    other.merge_verdicts(reversed(pair))
    taken = mesh.topology.get_verdict("a", "b")
    assert taken == other.get_verdict("a", "b") == max(pair, key=lambda one: one.signed.body)


def test_only_new_verdicts_enter_the_log_and_they_are_not_sent_back_to_their_origin(
    mesh: Mesh,
) -> None:
    verdict = mesh.verdict("b", SUSPECT)
    position = mesh.topology.log_position
    mesh.receive(verdict, verdict, origin="c")
    mesh.receive(verdict)
    changes = mesh.topology.changes_since(position)
    assert mesh.topology.log_position == position + 1
    assert list(changes.verdicts()) == list(changes.verdicts(reader="b")) == [verdict]
    assert list(changes.verdicts(reader="c")) == []
    assert list(mesh.topology.changes_since(changes.position).verdicts()) == []


def test_a_verdict_is_about_one_record_and_a_held_verdict_also_about_later_ones(
    mesh: Mesh,
) -> None:
    first, later = mesh.write("a", NOW_MS), mesh.write("a", NOW_MS + 5)
    mesh.signers["a"] = RecordSigner("a", mesh="test", clock=mesh.clock)
    reborn = mesh.write("a", NOW_MS + 5)
    vouched = mesh.signers["c"].sign_record("a", NOW_MS + 5, node("a"), vouched=True)
    plain, held = (
        mesh.signers["b"].sign_verdict(first, NOW_MS, FAILED, held=held).verdict
        for held in (False, True)
    )
    records = (first, later, reborn, vouched)
    assert [plain.is_about(record) for record in records] == [True, False, False, True]
    assert [held.is_about(record) for record in records] == [True, True, False, True]
    on_later = mesh.signers["b"].sign_verdict(later, NOW_MS, FAILED, held=True).verdict
    assert not on_later.is_about(first), "it does not apply to earlier records"


def test_a_newer_record_refutes_an_accusation_whichever_comes_first(mesh: Mesh) -> None:
    accusation = mesh.verdict("b", SUSPECT)
    for first_is_record in (False, True):
        mesh.topology = mesh.witness("other")
        if not first_is_record:
            mesh.receive(accusation)
            assert mesh.opinions == {"b": SUSPECT}
        mesh.topology.merge_records([mesh.write("a", NOW_MS + 1)])
        mesh.receive(accusation)
        assert mesh.opinions == {}


def test_a_vouched_record_refutes_nothing(mesh: Mesh) -> None:
    vouched = [
        mesh.signers["c"].sign_record("go", NOW_MS + i, node("go"), vouched=True) for i in (0, 1)
    ]
    mesh.topology.merge_records(vouched[:1])
    mesh.receive(mesh.signers["b"].sign_verdict(vouched[0], NOW_MS, FAILED, held=False))
    mesh.topology.merge_records(vouched[1:])
    assert [v.opinion for v in mesh.topology.get_verdicts("go")] == [FAILED]


def test_a_held_accusation_survives_newer_records_until_its_accuser_clears_it(
    mesh: Mesh,
) -> None:
    held = mesh.verdict("b", FAILED, held=True)
    mesh.receive(held)
    mesh.topology.merge_records([mesh.write("a", NOW_MS + 1)])
    assert mesh.opinions == {"b": FAILED}
    mesh.receive(mesh.verdict("b", CLEAR, NOW_MS + 1), held)
    assert mesh.opinions == {"b": CLEAR}


def test_a_replay_cannot_undo_a_clear_verdict_even_after_a_later_accusation_was_refuted(
    mesh: Mesh,
) -> None:
    held = mesh.verdict("b", FAILED, held=True)
    mesh.receive(held, mesh.verdict("b", CLEAR, NOW_MS + 1))
    mesh.topology.merge_records([mesh.write("a", NOW_MS + 2)])
    mesh.receive(held)
    assert mesh.opinions == {"b": CLEAR}
    mesh.receive(mesh.verdict("b", SUSPECT, NOW_MS + 2), held)
    assert mesh.opinions == {}, "the record is newer than the one that is suspected"


def test_verdicts_end_with_their_leases_and_clear_verdicts_after_what_they_take_back(
    mesh: Mesh,
) -> None:
    accusation, clearance = mesh.verdict("b", FAILED, held=True), mesh.verdict("c", CLEAR)
    mesh.receive(accusation, clearance)
    mesh.clock.now += VERDICT_LEASE
    mesh.topology.expire()
    assert mesh.opinions == {"c": CLEAR}
    mesh.receive(accusation)
    assert mesh.opinions == {"c": CLEAR}, "it has expired, and a replay does not restore it"
    mesh.clock.now += CLEAR_LEASE - VERDICT_LEASE
    mesh.topology.expire()
    assert mesh.opinions == {}
    assert list(mesh.topology.changes_since(0).verdicts()) == []


def test_a_renewed_lease_ends_at_its_new_end(mesh: Mesh) -> None:
    mesh.receive(mesh.verdict("b", FAILED), mesh.verdict("c", FAILED))
    mesh.clock.now += VERDICT_LEASE / 3
    mesh.receive(mesh.verdict("b", FAILED, NOW_MS + 1))
    mesh.clock.now += VERDICT_LEASE * 2 / 3
    mesh.topology.expire()
    assert mesh.opinions == {"b": FAILED}
    mesh.clock.now += VERDICT_LEASE / 3
    mesh.topology.expire()
    assert mesh.opinions == {}


@pytest.mark.parametrize("leaver", ["a", "b"])
def test_verdicts_are_dropped_when_their_subject_or_accuser_leaves(mesh: Mesh, leaver: str) -> None:
    verdict = mesh.verdict("b", SUSPECT)
    mesh.receive(verdict)
    mesh.topology.merge_records([mesh.write(leaver, NOW_MS + 1, gone=True)])
    assert mesh.topology.get_verdict("a", "b") is None
    mesh.receive(verdict)
    assert mesh.topology.get_verdict("a", "b") is None


def test_verdicts_on_and_by_unknown_nodes_are_dropped(mesh: Mesh) -> None:
    stranger = RecordSigner("stranger", clock=mesh.clock)
    mesh.receive(
        stranger.sign_verdict(mesh.write("a", NOW_MS), NOW_MS, FAILED, held=False),
        mesh.signers["b"].sign_verdict(
            stranger.sign_record("stranger", NOW_MS, node("stranger")), NOW_MS, FAILED, held=False
        ),
    )
    assert list(mesh.topology.changes_since(0).verdicts()) == []


def test_the_verdicts_of_one_accuser_are_limited_and_it_is_logged_once_a_minute(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [f"n{i}" for i in range(MAX_ACCUSATIONS + 2)]
    records = [RecordSigner(i, clock=mesh.clock).sign_record(i, NOW_MS, node(i)) for i in ids]
    mesh.topology.merge_records(records)
    verdicts = [mesh.signers["b"].sign_verdict(r, NOW_MS, FAILED, held=False) for r in records]
    with caplog.at_level(logging.WARNING, "aegis.topology"):
        mesh.receive(*verdicts, origin="c")
    assert [len(mesh.topology.get_verdicts(i)) for i in ids] == [1] * MAX_ACCUSATIONS + [0, 0]
    (line,) = caplog.messages
    assert line.startswith(f"b has verdicts on more than {MAX_ACCUSATIONS} nodes")
    assert line.endswith("(from c)")
    caplog.clear()
    again = mesh.signers["b"].sign_verdict(records[0], NOW_MS + 1, CLEAR, held=False)
    mesh.receive(again, mesh.verdict("c", FAILED))
    assert mesh.topology.get_verdict("n0", "b") == again, "verdicts on known subjects count"
    assert mesh.opinions == {"c": FAILED}, "other accusers are not affected"
    assert caplog.messages == []


def test_the_owners_verdicts_have_rising_stamps_and_are_never_on_itself_or_on_strangers(
    mesh: Mesh,
) -> None:
    for opinion in (SUSPECT, FAILED, CLEAR):
        mesh.topology.publish_verdict("a", opinion)
    verdict = mesh.topology.get_verdict("a", "witness")
    assert verdict is not None
    assert (verdict.verdict.opinion, verdict.verdict.stamp) == (CLEAR, NOW_MS + 2)
    assert verdict.verdict.expires_at == verdict.verdict.stamp + CLEAR_LEASE * 1000
    mesh.topology.publish_verdict("witness", FAILED)
    mesh.topology.publish_verdict("stranger", FAILED)
    assert list(mesh.topology.changes_since(0).verdicts()) == [verdict]


# Merging verdicts is a join, as merging records is

verdicts = st.lists(
    st.builds(
        lambda subject, accuser, stamp, opinion, held: SignedVerdict(
            verdict := Verdict(
                accuser,
                "instance",
                NOW_MS + stamp,
                NOW_MS + 60_000,
                subject,
                "instance",
                NOW_MS,
                opinion,
                held,
            ),
            Signed(repr(verdict).encode(), b"", b""),
        ),
        st.sampled_from("ab"),
        st.sampled_from("bc"),
        st.integers(0, 3),
        st.sampled_from(Opinion),
        st.booleans(),
    ),
    max_size=8,
)


def joined(*parts: Iterable[SignedVerdict]) -> dict[tuple[str, str], SignedVerdict]:
    topology = Topology(clock=ManualClock())
    for node_id in "abc":
        topology.add_node(node(node_id))
    for part in parts:
        topology.merge_verdicts(part)
    found = topology.changes_since(0).verdicts()
    return {(said.verdict.subject, said.verdict.accuser): said for said in found}


@given(verdicts, verdicts, verdicts)
def test_merging_verdicts_is_commutative_associative_and_idempotent(
    one: Sequence[SignedVerdict], two: Sequence[SignedVerdict], three: Sequence[SignedVerdict]
) -> None:
    assert joined(one, two) == joined(two, one)
    assert joined(one, one) == joined(one)
    left, right = joined(one, two).values(), joined(two, three).values()
    assert joined(left, three) == joined(one, right)
    assert joined(one, two, three) == joined(reversed(three), reversed(two), reversed(one))


@given(verdicts, st.permutations(range(3)))
def test_a_refuting_record_may_arrive_before_between_or_after_the_verdicts(
    said: Sequence[SignedVerdict], order: Sequence[int]
) -> None:
    """The same accusations remain in any order of arrival."""

    def remaining(order: Sequence[int]) -> list[Verdict]:
        clock = ManualClock()
        topology, subject = Topology(clock=clock), RecordSigner("a", clock=clock)
        subject.instance = "instance"
        topology.add_node(node("b"))
        topology.add_node(node("c"))
        topology.merge_records([subject.sign_record("a", NOW_MS, node("a"))])
        half = len(said) // 2
        for step in order:
            if step == 0:
                topology.merge_records([subject.sign_record("a", NOW_MS + 1, node("a"))])
            else:
                topology.merge_verdicts(said[:half] if step == 1 else said[half:])
        return sorted(topology.get_verdicts("a"), key=repr)

    assert remaining(order) == remaining((1, 2, 0))


def test_a_verdict_that_was_signed_twice_is_accepted_once(mesh: Mesh) -> None:
    verdict = mesh.verdict("b", FAILED)
    resigned = verdict._replace(signed=verdict.signed._replace(signature=b"another"))
    mesh.receive(verdict, resigned)
    assert mesh.topology.get_verdict("a", "b") == verdict
