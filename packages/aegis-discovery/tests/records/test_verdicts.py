"""What nodes say of each other: which word counts, for how long, and in any order of arrival."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

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

CLEAR, SUSPECT, FAILED = Opinion.CLEAR, Opinion.SUSPECT, Opinion.FAILED
NOW = 1_800_000_000.0
NOW_MS = round(NOW * 1000)


class ManualClock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def node(node_id: str) -> NodeInfo:
    return NodeInfo(node_id, address="10.0.0.1:1")


class Mesh:
    """The records of some nodes, each by a signer of its own, and a topology that holds them."""

    def __init__(self, *node_ids: str) -> None:
        self.clock = ManualClock()
        self.signers = {i: RecordSigner(i, mesh="test", clock=self.clock) for i in node_ids}
        self.topology = self.witness("witness")

    def witness(self, owner: str) -> Topology:
        """Makes a topology that knows everybody."""
        signer = RecordSigner(owner, mesh="test", clock=self.clock)
        topology = Topology(owner=owner, signer=signer, clock=self.clock)
        topology.add_node(node(owner))
        topology.merge_records([self.write(i, NOW_MS) for i in self.signers])
        return topology

    def write(self, node_id: str, stamp: int, *, gone: bool = False) -> Record:
        return self.signers[node_id].sign_record(node_id, stamp, None if gone else node(node_id))

    def word(
        self, accuser: str, opinion: Opinion, stamp: int = NOW_MS, *, held: bool = False
    ) -> SignedVerdict:
        """Makes the accuser's verdict on the first record of `a`."""
        about = self.write("a", NOW_MS)
        return self.signers[accuser].sign_verdict(about, stamp, opinion, held=held)

    def hear(self, *verdicts: SignedVerdict, origin: str | None = None) -> None:
        self.topology.merge_verdicts(verdicts, origin=origin)

    @property
    def said(self) -> dict[str, Opinion]:
        return {v.accuser: v.opinion for v in self.topology.get_verdicts("a")}


@pytest.fixture
def mesh() -> Mesh:
    return Mesh("a", "b", "c")


def test_the_latest_word_of_each_accuser_counts_in_whatever_order_it_comes(mesh: Mesh) -> None:
    early, late = mesh.word("b", SUSPECT), mesh.word("b", FAILED, NOW_MS + 1)
    mesh.hear(late, early, mesh.word("c", SUSPECT))
    assert mesh.said == {"b": FAILED, "c": SUSPECT}
    mesh.hear(mesh.word("b", CLEAR, NOW_MS + 2), late)
    assert mesh.said == {"b": CLEAR, "c": SUSPECT}


def test_of_two_words_with_one_stamp_every_node_takes_the_same(mesh: Mesh) -> None:
    pair = [mesh.word("b", SUSPECT), mesh.word("b", FAILED)]
    other = mesh.witness("other")
    mesh.hear(*pair)
    other.merge_verdicts(reversed(pair))
    taken = mesh.topology.get_verdict("a", "b")
    assert taken == other.get_verdict("a", "b") == max(pair, key=lambda one: one.signed.body)


def test_only_what_is_news_comes_into_the_log_and_never_goes_back_to_where_it_came_from(
    mesh: Mesh,
) -> None:
    word = mesh.word("b", SUSPECT)
    position = mesh.topology.log_position
    mesh.hear(word, word, origin="c")
    mesh.hear(word)
    changes = mesh.topology.changes_since(position)
    assert mesh.topology.log_position == position + 1
    assert list(changes.verdicts()) == list(changes.verdicts(reader="b")) == [word]
    assert list(changes.verdicts(reader="c")) == []
    assert list(mesh.topology.changes_since(changes.position).verdicts()) == []


def test_a_verdict_is_about_one_record_of_one_life_and_a_held_one_about_the_later_ones_too(
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
    assert not on_later.is_about(first), "it says nothing of what was before"


def test_a_newer_record_refutes_an_accusation_whichever_comes_first(mesh: Mesh) -> None:
    accusation = mesh.word("b", SUSPECT)
    for first_is_record in (False, True):
        mesh.topology = mesh.witness("other")
        if not first_is_record:
            mesh.hear(accusation)
            assert mesh.said == {"b": SUSPECT}
        mesh.topology.merge_records([mesh.write("a", NOW_MS + 1)])
        mesh.hear(accusation)
        assert mesh.said == {}


def test_what_others_vouch_for_refutes_nothing(mesh: Mesh) -> None:
    vouched = [
        mesh.signers["c"].sign_record("go", NOW_MS + i, node("go"), vouched=True) for i in (0, 1)
    ]
    mesh.topology.merge_records(vouched[:1])
    mesh.hear(mesh.signers["b"].sign_verdict(vouched[0], NOW_MS, FAILED, held=False))
    mesh.topology.merge_records(vouched[1:])
    assert [v.opinion for v in mesh.topology.get_verdicts("go")] == [FAILED]


def test_a_held_accusation_outlives_newer_records_until_its_accuser_takes_it_back(
    mesh: Mesh,
) -> None:
    held = mesh.word("b", FAILED, held=True)
    mesh.hear(held)
    mesh.topology.merge_records([mesh.write("a", NOW_MS + 1)])
    assert mesh.said == {"b": FAILED}
    mesh.hear(mesh.word("b", CLEAR, NOW_MS + 1), held)
    assert mesh.said == {"b": CLEAR}


def test_a_replay_cannot_undo_an_acquittal_not_even_after_a_later_accusation_was_refuted(
    mesh: Mesh,
) -> None:
    held = mesh.word("b", FAILED, held=True)
    mesh.hear(held, mesh.word("b", CLEAR, NOW_MS + 1))
    mesh.topology.merge_records([mesh.write("a", NOW_MS + 2)])
    mesh.hear(held)
    assert mesh.said == {"b": CLEAR}
    mesh.hear(mesh.word("b", SUSPECT, NOW_MS + 2), held)
    assert mesh.said == {}, "the record is newer than the one that is suspected"


def test_verdicts_end_with_their_leases_and_acquittals_after_what_they_take_back(
    mesh: Mesh,
) -> None:
    accusation, acquittal = mesh.word("b", FAILED, held=True), mesh.word("c", CLEAR)
    mesh.hear(accusation, acquittal)
    mesh.clock.now += VERDICT_LEASE
    mesh.topology.expire()
    assert mesh.said == {"c": CLEAR}
    mesh.hear(accusation)
    assert mesh.said == {"c": CLEAR}, "it has expired, and does not come back by a replay"
    mesh.clock.now += CLEAR_LEASE - VERDICT_LEASE
    mesh.topology.expire()
    assert mesh.said == {}
    assert list(mesh.topology.changes_since(0).verdicts()) == []


def test_a_lease_that_was_renewed_in_time_ends_by_its_new_end(mesh: Mesh) -> None:
    mesh.hear(mesh.word("b", FAILED), mesh.word("c", FAILED))
    mesh.clock.now += VERDICT_LEASE / 3
    mesh.hear(mesh.word("b", FAILED, NOW_MS + 1))
    mesh.clock.now += VERDICT_LEASE * 2 / 3
    mesh.topology.expire()
    assert mesh.said == {"b": FAILED}
    mesh.clock.now += VERDICT_LEASE / 3
    mesh.topology.expire()
    assert mesh.said == {}


@pytest.mark.parametrize("leaver", ["a", "b"])
def test_verdicts_go_with_whom_they_are_about_or_by(mesh: Mesh, leaver: str) -> None:
    word = mesh.word("b", SUSPECT)
    mesh.hear(word)
    mesh.topology.merge_records([mesh.write(leaver, NOW_MS + 1, gone=True)])
    assert mesh.topology.get_verdict("a", "b") is None
    mesh.hear(word)
    assert mesh.topology.get_verdict("a", "b") is None


def test_verdicts_on_and_by_unknown_nodes_are_dropped(mesh: Mesh) -> None:
    stranger = RecordSigner("stranger", clock=mesh.clock)
    mesh.hear(
        stranger.sign_verdict(mesh.write("a", NOW_MS), NOW_MS, FAILED, held=False),
        mesh.signers["b"].sign_verdict(
            stranger.sign_record("stranger", NOW_MS, node("stranger")), NOW_MS, FAILED, held=False
        ),
    )
    assert list(mesh.topology.changes_since(0).verdicts()) == []


def test_an_accuser_of_everybody_is_heard_of_some_and_named_once_a_minute(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [f"n{i}" for i in range(MAX_ACCUSATIONS + 2)]
    records = [RecordSigner(i, clock=mesh.clock).sign_record(i, NOW_MS, node(i)) for i in ids]
    mesh.topology.merge_records(records)
    words = [mesh.signers["b"].sign_verdict(r, NOW_MS, FAILED, held=False) for r in records]
    with caplog.at_level(logging.WARNING, "aegis.topology"):
        mesh.hear(*words, origin="c")
    assert [len(mesh.topology.get_verdicts(i)) for i in ids] == [1] * MAX_ACCUSATIONS + [0, 0]
    (line,) = caplog.messages
    assert line.startswith(f"b has verdicts on more than {MAX_ACCUSATIONS} nodes")
    assert line.endswith("(from c)")
    caplog.clear()
    again = mesh.signers["b"].sign_verdict(records[0], NOW_MS + 1, CLEAR, held=False)
    mesh.hear(again, mesh.word("c", FAILED))
    assert mesh.topology.get_verdict("n0", "b") == again, "what it says of known ones is heard"
    assert mesh.said == {"c": FAILED}, "others are heard as ever"
    assert caplog.messages == []


def test_the_owner_judges_others_above_its_last_word_and_neither_itself_nor_strangers(
    mesh: Mesh,
) -> None:
    for opinion in (SUSPECT, FAILED, CLEAR):
        mesh.topology.publish_verdict("a", opinion)
    word = mesh.topology.get_verdict("a", "witness")
    assert word is not None
    assert (word.verdict.opinion, word.verdict.stamp) == (CLEAR, NOW_MS + 2)
    assert word.verdict.expires_at == word.verdict.stamp + CLEAR_LEASE * 1000
    mesh.topology.publish_verdict("witness", FAILED)
    mesh.topology.publish_verdict("stranger", FAILED)
    assert list(mesh.topology.changes_since(0).verdicts()) == [word]


# Merging verdicts is a join, as merging records is

words = st.lists(
    st.builds(
        lambda subject, accuser, stamp, opinion, held: SignedVerdict(
            verdict := Verdict(
                accuser,
                "life",
                NOW_MS + stamp,
                NOW_MS + 60_000,
                subject,
                "life",
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


@given(words, words, words)
def test_merging_verdicts_is_commutative_associative_and_idempotent(
    one: Sequence[SignedVerdict], two: Sequence[SignedVerdict], three: Sequence[SignedVerdict]
) -> None:
    assert joined(one, two) == joined(two, one)
    assert joined(one, one) == joined(one)
    left, right = joined(one, two).values(), joined(two, three).values()
    assert joined(left, three) == joined(one, right)
    assert joined(one, two, three) == joined(reversed(three), reversed(two), reversed(one))


@given(words, st.permutations(range(3)))
def test_a_record_that_refutes_may_come_before_between_or_after(
    said: Sequence[SignedVerdict], order: Sequence[int]
) -> None:
    """Whatever comes when, the same accusations stand in the end."""

    def standing(order: Sequence[int]) -> list[Verdict]:
        clock = ManualClock()
        topology, subject = Topology(clock=clock), RecordSigner("a", clock=clock)
        subject.instance = "life"
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

    assert standing(order) == standing((1, 2, 0))


def test_a_word_that_was_signed_twice_is_news_once(mesh: Mesh) -> None:
    word = mesh.word("b", FAILED)
    resigned = replace(word, signed=replace(word.signed, signature=b"another"))
    mesh.hear(word, resigned)
    assert mesh.topology.get_verdict("a", "b") == word
