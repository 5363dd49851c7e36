"""What one topology holds: since when it knows a signer, what it drops, when it is full."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from aegis_discovery import (
    EventKind,
    InvalidRecordError,
    NodeInfo,
    NodeStatus,
    ServiceInfo,
    Topology,
    TopologyEvent,
)
from aegis_discovery.records import LEASE, Opinion, RecordSigner
from aegis_discovery.records._record import Record

from ..conftest import ManualClock

NOW = 1_800_000_000.0
NOW_MS = round(NOW * 1000)
LIMIT = 5


class Key:
    """A key with any fingerprint, without a certificate."""

    def __init__(self, signer: bytes) -> None:
        self.fingerprint = signer
        self.not_after = NOW + 10 * LEASE

    def sign(self, body: bytes) -> bytes:
        return b"signed"


@pytest.fixture
def topology(clock: ManualClock) -> Topology:
    return Topology(owner="own", signer=RecordSigner("own", clock=clock), clock=clock)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis_discovery._topology.limits.MAX_NODES", LIMIT)


def node(node_id: str) -> NodeInfo:
    return NodeInfo(node_id, address="10.0.0.1:1", services=(ServiceInfo("s", "v1"),))


def record(
    node_id: str, stamp: int = 0, *, by: str = "", key: str = "", gone: bool = False
) -> Record:
    """Makes a record of a node; `by` vouches for it, `key` names the certificate."""
    signer = RecordSigner(
        by or node_id,
        key=Key((key or by or node_id).encode()),
        clock=lambda: NOW,
    )
    info = None if gone else node(node_id)
    return signer.sign_record(node_id, NOW_MS + stamp, info, vouched=bool(by))


def since(topology: Topology, node_id: str, signer: bytes) -> int | None:
    return topology.changes_since(0).signed_since(node_id, signer)


def test_a_signer_is_known_since_the_first_of_its_consecutive_records(
    topology: Topology,
) -> None:
    assert since(topology, "a", b"old") is None
    topology.merge_records([record("a", key="old")])
    first = topology.log_position
    topology.merge_records([record("b"), record("a", 1, key="old")])
    assert since(topology, "a", b"old") == first, "a reader of the log up to there holds the chain"
    topology.merge_records([record("a", 2, key="new")])
    assert since(topology, "a", b"old") is None
    assert since(topology, "a", b"new") == topology.log_position
    topology.merge_records([record("a", 3, key="old")])
    assert since(topology, "a", b"old") == topology.log_position, "a watcher may have forgotten it"


def test_a_voucher_is_a_known_signer_since_its_own_record(topology: Topology) -> None:
    topology.merge_records([record("go", by="v")])
    assert since(topology, "v", b"v") is None, "nothing is held of the voucher itself"
    topology.merge_records([record("v")])
    first = topology.log_position
    topology.merge_records([record("go", 1, by="v"), record("v", 1)])
    assert since(topology, "v", b"v") == first
    topology.merge_records([record("v", 2, key="renewed")])
    assert since(topology, "v", b"v") is None, "what it vouched for before may outlive it"
    assert topology.signers == {b"v", b"renewed"}


def test_a_status_does_not_change_since_when_a_signer_is_known(topology: Topology) -> None:
    topology.merge_records([record("a")])
    first = topology.log_position
    held = topology.get_record("a")
    assert held is not None
    topology.set_status("a", held.stamp, NodeStatus.SUSPECTED)
    assert since(topology, "a", b"a") == first


def test_retain_drops_all_other_nodes_and_the_verdicts_on_them(
    topology: Topology,
) -> None:
    topology.add_node(node("own"))
    topology.merge_records([record(i) for i in "abc"] + [record("gone", gone=True)])
    topology.publish_verdict("a", Opinion.SUSPECT)
    topology.publish_verdict("b", Opinion.SUSPECT)
    events: list[TopologyEvent] = []
    topology.subscribe(events.append)
    topology.retain({"b"})
    assert list(topology.nodes) == ["b", "own"]
    assert [(event.kind, event.node.id) for event in events] == [
        (EventKind.LEFT, "a"),
        (EventKind.LEFT, "c"),
    ]
    assert {event.node.status for event in events} == {NodeStatus.LEFT}
    assert [n.id for n in topology.get_service_providers("s", "v1")] == ["b", "own"]
    assert topology.get_record("gone") is None
    verdicts = topology.changes_since(0).verdicts()
    assert [one.verdict.subject for one in verdicts] == ["b"]
    topology.merge_records([record("a")])
    assert "a" in topology.nodes, "it may return"


def test_each_lease_ends_in_its_time_and_the_owner_keeps_its_own_record(
    topology: Topology, clock: ManualClock
) -> None:
    topology.add_node(node("own"))
    topology.merge_records([record("a"), record("b", 60_000)])
    clock.now += LEASE
    topology.expire()
    assert list(topology.nodes) == ["b", "own"]
    clock.now += 30
    topology.merge_records([record("b", 90_000)])
    clock.now += 30
    topology.expire()
    assert list(topology.nodes) == ["b", "own"], "b renewed its lease"
    clock.now += 30
    topology.expire()
    assert list(topology.nodes) == ["own"]


@pytest.mark.usefixtures("small")
def test_a_full_topology_drops_further_nodes_and_logs_their_sender_once_a_minute(
    topology: Topology, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    topology.merge_records([record(f"n{i}") for i in range(LIMIT - 1)], version=7)
    assert not topology.is_full
    version = topology.version
    result = topology.merge_records([record("n4"), record("n5"), record("n6")], origin="crowd")
    assert topology.is_full
    assert result.changed
    assert list(topology.nodes) == [f"n{i}" for i in range(LIMIT)]
    assert caplog.messages == [
        "the topology holds 5 nodes, the most it may: dropped n5, from crowd"
    ]
    result = topology.merge_records([record("n7")], origin="crowd")
    assert not result.changed
    assert topology.version == version + 1, "a dropped record changes nothing"
    assert len(caplog.messages) == 1
    clock.now += 60
    topology.merge_records([record("n8")], origin="crowd")
    assert "n8" in caplog.messages[1]


@pytest.mark.usefixtures("small")
def test_in_a_full_topology_nodes_still_change_leave_and_make_room(topology: Topology) -> None:
    topology.merge_records([record(f"n{i}") for i in range(LIMIT)])
    topology.merge_records([record("n0", 1), record("n1", 1, gone=True)])
    held = topology.get_record("n0")
    assert held is not None
    assert held.stamp == NOW_MS + 1
    assert not topology.is_full
    topology.merge_records([record("n9")])
    assert list(topology.nodes) == ["n0", "n2", "n3", "n4", "n9"]
    topology.add_node(node("own"))
    assert "own" in topology.nodes, "there is always room for the own node"


@pytest.mark.usefixtures("small")
def test_tombstones_are_not_nodes_and_a_voucher_can_invent_a_limited_number(
    topology: Topology, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        topology.merge_records([record(f"old{i}", gone=True) for i in range(2 * LIMIT)])
        topology.merge_records([record(f"n{i}") for i in range(LIMIT)])
    assert len(topology.nodes) == LIMIT
    assert caplog.messages == []
    topology.merge_records([record("made-up", by="v", gone=True)], origin="v")
    assert topology.get_record("made-up") is None
    (line,) = caplog.messages
    assert line == (
        "the topology holds 5 removed nodes, the most it may: "
        "dropped made-up, vouched for by v, from v"
    )


@pytest.mark.usefixtures("small")
def test_a_voucher_can_remove_its_nodes_however_many_tombstones_others_invent(
    topology: Topology,
) -> None:
    topology.merge_records([record("go", by="v")])
    topology.merge_records([record(f"old{i}", by="liar", gone=True) for i in range(2 * LIMIT)])
    topology.merge_records([record("go", 1, by="v", gone=True)])
    assert topology.get_node("go") is None
    topology.merge_records([record("go", by="v")])
    assert topology.get_node("go") is None, "its tombstone is kept"


def test_the_nodes_that_a_voucher_removed_count_among_its_ids(
    topology: Topology, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aegis_discovery._topology.limits.MAX_VOUCHED", 2)
    monkeypatch.setattr("aegis_discovery._topology.limits.MAX_VOUCHED_IDS", 4)
    for number in range(6):
        topology.merge_records([record(f"n{number}", by="v")], origin="relay")
        topology.merge_records([record(f"n{number}", 1, by="v", gone=True)], origin="relay")
    topology.merge_records([record("removed", by="v", gone=True)], origin="relay")
    kept = [r.id for r in topology.snapshot().records]
    assert kept == ["n0", "n1", "n2", "n3"]
    assert caplog.messages == [
        "v vouched for 4 nodes in a day, the most it may: dropped n4, vouched for by v, from relay"
    ]
    topology.merge_records([record("n0", 2, by="v"), record("n1", 2, by="v")])
    topology.merge_records([record("n2", 2, by="v")])
    assert list(topology.nodes) == ["n0", "n1"], "one of its ids may return, within limits"
    topology.merge_records([record("n4", by="w")])
    assert "n4" in topology.nodes, "another voucher has its own room"


def test_a_removal_makes_room_for_later_records_of_the_same_merge(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_discovery._topology.limits.MAX_VOUCHED", 1)
    topology.merge_records([record("n0", by="v")])
    topology.merge_records([record("n0", 1, by="v", gone=True), record("n1", by="v")])
    assert list(topology.nodes) == ["n1"]


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("MAX_NODES", "the topology holds 2 nodes"),
        ("MAX_VOUCHED", "own vouches for 2 nodes"),
        ("MAX_VOUCHED_IDS", "own vouched for 2 nodes in a day"),
    ],
)
def test_the_owner_vouches_within_the_same_limits(
    topology: Topology, monkeypatch: pytest.MonkeyPatch, limit: str, reason: str
) -> None:
    monkeypatch.setattr(f"aegis_discovery._topology.limits.{limit}", 2)
    topology.vouch(node("go-1"))
    topology.vouch(node("go-2"))
    with pytest.raises(InvalidRecordError, match=reason):
        topology.vouch(node("go-3"))
    topology.vouch(replace(node("go-1"), address="10.0.0.2:1"))
    assert topology.nodes["go-1"].address == "10.0.0.2:1"
    topology.unvouch("go-1")
    assert list(topology.nodes) == ["go-2"], "it can remove what it vouched for"
