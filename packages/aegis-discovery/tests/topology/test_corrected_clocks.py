"""What a node signed while its clock was ahead, held by another one whose clock was ahead too."""

from __future__ import annotations

import pytest
from aegis_discovery import NodeInfo, Topology
from aegis_discovery.records import MAX_AHEAD, Opinion, Record, RecordSigner, SignedVerdict

from ..conftest import ManualClock

DAY = 86_400.0


class Signer:
    """Signs records and verdicts of one process of a node, with the stamp of now."""

    def __init__(self, node_id: str, clock: ManualClock) -> None:
        self.clock = clock
        self.node_id = node_id
        self.signer = RecordSigner(node_id, clock=clock)

    @property
    def now(self) -> int:
        return round(self.clock.now * 1000)

    def record(self, *, left: bool = False, vouched_for: str = "") -> Record:
        node_id = vouched_for or self.node_id
        info = None if left else NodeInfo(node_id, address=f"a:{self.now % 60_000}")
        return self.signer.sign_record(node_id, self.now, info, vouched=bool(vouched_for))

    def verdict(self, subject: Record, opinion: Opinion) -> SignedVerdict:
        return self.signer.sign_verdict(subject, self.now, opinion, held=False)


@pytest.fixture
def topology(clock: ManualClock) -> Topology:
    return Topology(owner="me", clock=clock)


@pytest.fixture
def other(clock: ManualClock) -> Signer:
    return Signer("b", clock)


@pytest.mark.parametrize("left", [False, True])
def test_a_record_from_the_future_is_replaced_by_one_of_now(
    topology: Topology, clock: ManualClock, other: Signer, *, left: bool
) -> None:
    clock.now += DAY
    topology.merge_records([other.record(left=left)])
    clock.now -= DAY
    correct = other.record()
    assert topology.merge_records([correct]).changed
    assert topology.get_record("b") == correct
    assert not topology.merge_records([correct]).changed


def test_no_record_is_replaced_by_an_older_one_while_it_is_not_too_far_ahead(
    topology: Topology, clock: ManualClock, other: Signer
) -> None:
    old = other.record()
    clock.now += MAX_AHEAD
    new = other.record()
    topology.merge_records([new])
    clock.now -= MAX_AHEAD
    assert not topology.merge_records([old]).changed
    assert topology.get_record("b") == new


def test_a_signed_record_is_not_replaced_by_a_voucher(
    topology: Topology, clock: ManualClock, other: Signer
) -> None:
    topology.merge_records([Signer("c", clock).record()])
    clock.now += DAY
    signed = other.record()
    topology.merge_records([signed, Signer("c", clock).record()])
    clock.now -= DAY
    topology.merge_records([Signer("c", clock).record(vouched_for="b")])
    assert topology.get_record("b") == signed


def test_a_verdict_from_the_future_is_replaced_by_one_of_now(
    topology: Topology, clock: ManualClock, other: Signer
) -> None:
    subject = Signer("c", clock).record()
    topology.merge_records([subject, other.record()])
    clock.now += DAY / 2
    topology.merge_verdicts([other.verdict(subject, Opinion.FAILED)])
    clock.now -= DAY / 2
    topology.merge_verdicts([other.verdict(subject, Opinion.CLEAR)])
    held = topology.get_verdict("c", "b")
    assert held is not None
    assert held.verdict.opinion is Opinion.CLEAR
