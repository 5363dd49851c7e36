"""The status of a node does not depend on the order of records and verdicts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from aegis_core._membership.membership import REVIEW, Membership
from aegis_core._membership.rings import Rings
from aegis_discovery import NodeInfo, NodeStatus, Topology
from aegis_discovery.records import Opinion, Record, RecordSigner

IDS = [f"node-{number}" for number in range(9)]
OWN = IDS[0]
STAMP = int(time.time() * 1000)


class View:
    """The topology and membership of one node, whose watched nodes all send heartbeats."""

    def __init__(self) -> None:
        self.signers = {node_id: RecordSigner(node_id) for node_id in IDS}
        self.topology = Topology(owner=OWN, signer=self.signers[OWN])
        self.topology.add_node(NodeInfo(OWN, address="127.0.0.1:1"))
        self.records = {node_id: self.record(node_id, STAMP) for node_id in IDS[1:]}
        self.merge(*self.records.values())
        self.membership = Membership(self.topology, 0.0)
        self._now = 0.0
        self.settle()

    def record(self, node_id: str, stamp: int) -> Record:
        return self.signers[node_id].sign_record(
            node_id, stamp, NodeInfo(node_id, address="127.0.0.1:1")
        )

    def merge(self, *records: Record) -> None:
        self.topology.merge_records(records, version=1, origin=IDS[1])

    def fail(self, subject: str, *accusers: str) -> None:
        """Merges verdicts of the accusers that the subject failed."""
        self.topology.merge_verdicts(
            [
                self.signers[accuser].sign_verdict(
                    self.records[subject], STAMP + 1, Opinion.FAILED, held=False
                )
                for accuser in accusers
            ],
            origin=IDS[1],
        )

    def settle(self) -> None:
        for _ in range(20):
            self._now += REVIEW
            for node_id in self.membership.watched:
                self.membership.message_received(node_id, self._now)
            self.membership.tick(self._now)

    def status(self, node_id: str) -> NodeStatus:
        node = self.topology.get_node(node_id)
        assert node is not None
        return node.status


@pytest.fixture
def view() -> Iterator[View]:
    view = View()
    yield view
    view.membership.close()


def test_a_verdict_of_a_failed_observer_counts_once_the_observer_is_alive_again(view: View) -> None:
    accuser, subject = next(
        (accuser, subject)
        for subject in IDS[1:]
        for accuser in sorted(view.membership.observers(subject) - {OWN})
    )
    view.fail(accuser, *view.membership.observers(accuser) - {OWN})
    view.settle()
    assert view.status(accuser) is NodeStatus.FAILED
    view.fail(subject, accuser)
    view.settle()
    assert view.status(subject) is NodeStatus.ALIVE, "a failed node is no observer"
    view.merge(view.record(accuser, STAMP + 2))
    view.settle()
    assert view.status(accuser) is NodeStatus.ALIVE
    assert view.status(subject) is NodeStatus.SUSPECTED


@pytest.mark.parametrize("size", range(2, 12))
def test_the_observers_of_a_node_do_not_depend_on_its_own_failure(size: int) -> None:
    # Otherwise the failure could end the majority that decided it, and the status would oscillate.
    rings = Rings()
    for number in range(size):
        rings.place(f"node-{number}", can_observe=True)
    for number in range(size):
        node_id = f"node-{number}"
        before = rings.observers(node_id)
        assert before
        rings.place(node_id, can_observe=False)
        assert rings.observers(node_id) == before
        rings.place(node_id, can_observe=True)
