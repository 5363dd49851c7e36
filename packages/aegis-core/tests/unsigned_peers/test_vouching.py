from __future__ import annotations

import time
from dataclasses import replace

import pytest
from aegis_core._unsigned_peers.vouching import INTRODUCE_EVERY, MAX_INTRODUCED, Vouching
from aegis_discovery import HealthStatus, NodeInfo, ServiceInfo, Topology
from aegis_discovery.records import LEASE, RecordSigner


class ManualClock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def topology(clock: ManualClock) -> Topology:
    return Topology(owner="v", signer=RecordSigner("v", clock=clock), clock=clock)


def node(node_id: str, port: int = 1) -> NodeInfo:
    return NodeInfo(node_id, address=f"10.0.0.1:{port}", services=(ServiceInfo("s", "v1"),))


def test_nodes_that_a_peer_lists_are_published_with_their_voucher(topology: Topology) -> None:
    Vouching(topology).update("go", [node("go"), node("other")])
    assert [(n.id, n.vouched_by) for n in topology.nodes.values()] == [("go", "v"), ("other", "v")]
    assert [n.id for n in topology.get_service_providers("s", "v1")] == ["go", "other"]


def test_the_same_answer_twice_changes_nothing(topology: Topology, clock: ManualClock) -> None:
    vouching = Vouching(topology, clock)
    vouching.update("go", [node("go")])
    version = topology.version
    vouching.update("go", [node("go")])
    assert topology.version == version


def test_an_old_lease_is_renewed_by_the_same_answer(topology: Topology, clock: ManualClock) -> None:
    vouching = Vouching(topology, clock)
    vouching.update("go", [node("go")])
    clock.now += LEASE / 2
    vouching.update("go", [node("go")])
    clock.now += LEASE * 0.75
    topology.expire()
    assert topology.get_node("go") is not None


def test_a_node_on_which_two_vouchers_agree_is_published_once(clock: ManualClock) -> None:
    topologies = [
        Topology(owner=owner, signer=RecordSigner(owner, clock=clock), clock=clock)
        for owner in ("v1", "v2")
    ]
    Vouching(topologies[0], clock).update("go", [node("go")])
    topologies[1].merge(topologies[0])
    Vouching(topologies[1], clock).update("go", [node("go")])
    assert topologies[1].nodes["go"].vouched_by == "v1"


def test_a_missing_entry_removes_only_nodes_that_this_peer_listed(topology: Topology) -> None:
    vouching = Vouching(topology)
    vouching.update("go-1", [node("go-1"), node("x"), node("y")])
    vouching.update("go-2", [node("go-2"), node("y")])
    vouching.update("go-1", [node("go-1")])
    assert list(topology.nodes) == ["go-1", "go-2", "y"]
    vouching.forget("go-2")
    assert list(topology.nodes) == ["go-1"]


def test_a_peer_never_changes_or_removes_signed_records(clock: ManualClock) -> None:
    owner = Topology(owner="a", clock=clock)
    owner.add_node(node("a", 1))
    ours = Topology(owner="v", signer=RecordSigner("v", clock=clock), clock=clock)
    ours.merge(owner)
    vouching = Vouching(ours, clock)
    vouching.update("go", [node("go"), node("a", 2)])
    vouching.update("go", [node("go")])
    assert ours.nodes["a"].address == "10.0.0.1:1"
    owner.remove_node("a")
    ours.merge(owner)
    vouching.update("go", [node("go"), node("a", 2)])
    assert ours.get_node("a") is None, (
        "a node that left does not return because an unsigned peer lists it"
    )


def test_invalid_ids_are_omitted_and_logged_once(
    topology: Topology, caplog: pytest.LogCaptureFixture
) -> None:
    vouching = Vouching(topology)
    for _ in range(3):
        vouching.update("go", [node("go"), node("../x"), node("localhost")])
    assert list(topology.nodes) == ["go"]
    assert caplog.text.count("go lists an invalid node: '../x'") == 1
    assert len(caplog.records) == 1


def test_a_node_too_large_for_a_record_is_omitted(
    topology: Topology, caplog: pytest.LogCaptureFixture
) -> None:
    many = tuple(ServiceInfo(f"service-{i}", "v1") for i in range(1000))
    Vouching(topology).update(
        "go", [NodeInfo("big", address="10.0.0.1:1", services=many), node("go")]
    )
    assert list(topology.nodes) == ["go"]
    assert "big cannot be vouched for: it has " in caplog.text


def test_a_nodes_own_entry_takes_precedence(topology: Topology) -> None:
    vouching = Vouching(topology)
    vouching.update("go-1", [node("go-1"), node("go-2", 1)])
    vouching.update("go-2", [node("go-2", 2)])
    version = topology.version
    vouching.update("go-1", [node("go-1"), node("go-2", 1)])
    assert topology.nodes["go-2"].address == "10.0.0.1:2"
    assert topology.version == version


def test_lists_of_others_do_not_change_a_nodes_health(clock: ManualClock) -> None:
    topologies = [
        Topology(owner=owner, signer=RecordSigner(owner, clock=clock), clock=clock)
        for owner in ("v1", "v2")
    ]
    healthy = replace(node("go-1"), health=HealthStatus.HEALTHY)
    Vouching(topologies[0], clock).update("go-1", [healthy])
    topologies[1].merge(topologies[0])
    Vouching(topologies[1], clock).update("go-2", [node("go-2"), node("go-1")])
    topologies[0].merge(topologies[1])
    assert topologies[0].nodes["go-1"].health is HealthStatus.HEALTHY


def test_entries_of_others_count_again_when_a_node_stops_answering(topology: Topology) -> None:
    vouching = Vouching(topology)
    vouching.update("go-2", [node("go-2", 1)])
    vouching.update("go-1", [node("go-1"), node("go-2", 2)])
    assert topology.nodes["go-2"].address == "10.0.0.1:1"
    vouching.mark_unanswered("go-2")
    assert topology.nodes["go-2"].address == "10.0.0.1:2"


def test_contradicting_peers_do_not_cause_endless_changes(topology: Topology) -> None:
    vouching = Vouching(topology)
    for _ in range(3):
        vouching.update("go-2", [node("go-2"), node("x", 2)])
        vouching.update("go-1", [node("go-1"), node("x", 1), node("x", 1)])
        version = topology.version
    assert topology.nodes["x"].address == "10.0.0.1:1"
    vouching.update("go-2", [node("go-2"), node("x", 2)])
    assert topology.version == version


def test_vouchers_with_different_lists_do_not_overwrite_each_other_for_ever(
    clock: ManualClock,
) -> None:
    topologies = [
        Topology(owner=owner, signer=RecordSigner(owner, clock=clock), clock=clock)
        for owner in ("v1", "v2")
    ]
    vouchings = [Vouching(topology, clock) for topology in topologies]

    def exchange() -> None:
        topologies[0].merge(topologies[1])
        topologies[1].merge(topologies[0])

    def hear(*ports: int) -> None:
        for vouching, port in zip(vouchings, ports, strict=True):
            vouching.update("go", [node("go", port)])
            exchange()

    hear(1, 2)
    settled = topologies[0].nodes["go"]
    for _ in range(3):
        clock.now += 2
        hear(1, 2)
        assert topologies[0].nodes["go"] == topologies[1].nodes["go"] == settled
    hear(3, 3)
    assert {topology.nodes["go"].address for topology in topologies} == {"10.0.0.1:3"}


def test_it_knows_whether_a_peer_is_behind_the_topology(topology: Topology) -> None:
    topology.add_node(node("v"))
    vouching = Vouching(topology)
    assert not vouching.is_behind("go"), "nothing is known of it"
    vouching.update("go", [node("go")])
    assert vouching.is_behind("go")
    vouching.update("go", [node("go"), node("v")])
    assert not vouching.is_behind("go")
    vouching.update("go", [node("go"), node("v", 2)])
    assert vouching.is_behind("go")
    assert topology.nodes["v"].address == "10.0.0.1:1"


def test_records_of_a_voucher_that_stopped_are_renewed_by_another(clock: ManualClock) -> None:
    topologies = [
        Topology(owner=owner, signer=RecordSigner(owner, clock=clock), clock=clock)
        for owner in ("v1", "v2")
    ]
    Vouching(topologies[0], clock).update("go", [node("go")])
    topologies[1].merge(topologies[0])
    vouching = Vouching(topologies[1], clock)
    vouching.update("go", [node("go")])
    clock.now += LEASE / 2
    vouching.update("go", [node("go")])
    assert topologies[1].nodes["go"].vouched_by == "v2"


def ghosts(count: int, prefix: str = "ghost") -> list[NodeInfo]:
    return [node(f"{prefix}-{number}") for number in range(count)]


def test_one_peer_introduces_a_limited_number_of_nodes_and_is_named_once_a_minute(
    topology: Topology, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    vouching = Vouching(topology, clock)
    listed = [*ghosts(100 * MAX_INTRODUCED), node("liar")]
    for _ in range(3):
        vouching.update("liar", listed)
    assert len(topology.nodes) == MAX_INTRODUCED + 1, "and itself"
    (line,) = caplog.messages
    assert line == (
        f"liar lists more new nodes than the {MAX_INTRODUCED} that one peer may introduce; "
        "some are omitted"
    )
    assert len(vouching._peers["liar"].listed) <= 2 * MAX_INTRODUCED + 1, (
        "the long list of the peer is not kept"
    )
    vouching.update("go", [node("go"), node("friend")])
    assert {"go", "friend"} <= topology.nodes.keys(), "others have their own share"


def test_changing_answers_leave_a_bounded_number_of_tombstones(
    topology: Topology, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    vouching = Vouching(topology, clock)
    for answer in range(50):
        vouching.update("liar", [node("liar"), *ghosts(600, f"ghost-{answer}")])
        clock.now += 2
    assert list(topology.nodes) == ["liar"], "all that it may bring is used up"
    assert len(topology.snapshot().records) <= MAX_INTRODUCED + 2
    assert "liar lists more new nodes" in caplog.text
    clock.now += INTRODUCE_EVERY
    vouching.update("liar", [node("liar"), *ghosts(600, "late")])
    assert len(topology.nodes) == 2, "one more, now and then"


def test_a_node_that_answers_itself_no_longer_counts_for_its_introducer(
    topology: Topology, clock: ManualClock
) -> None:
    vouching = Vouching(topology, clock)
    vouching.update("go", [node("go"), *ghosts(MAX_INTRODUCED + 1)])
    clock.now += INTRODUCE_EVERY
    vouching.update("go", [node("go"), *ghosts(MAX_INTRODUCED + 1)])
    assert len(topology.nodes) == MAX_INTRODUCED + 1
    vouching.update("ghost-0", [node("ghost-0")])
    vouching.update("go", [node("go"), *ghosts(MAX_INTRODUCED + 1)])
    assert len(topology.nodes) == MAX_INTRODUCED + 2


def test_a_large_honest_group_is_introduced_step_by_step(
    topology: Topology, clock: ManualClock
) -> None:
    vouching = Vouching(topology, clock)
    fleet = [node(f"go-{number:03}") for number in range(200)]
    asked = {"go-000"}
    while len(topology.nodes) < len(fleet):
        known = len(topology.nodes)
        for peer_id in sorted(asked):
            vouching.update(peer_id, fleet)
        asked = set(topology.nodes)
        assert len(topology.nodes) > known


def test_nodes_above_the_limit_of_a_voucher_are_omitted_and_the_peer_is_named(
    topology: Topology,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("aegis_discovery._topology.limits.MAX_VOUCHED", 3)
    vouching = Vouching(topology, clock)
    vouching.update("go", [node("go"), *ghosts(3)])
    assert len(topology.nodes) == 3
    (line,) = caplog.messages
    assert line.endswith(
        "cannot be vouched for: v vouches for 3 nodes, the most it may (listed by go)"
    )
    vouching.update("go", [node("go"), node("new")])
    assert list(topology.nodes) == ["go", "new"], "removals make room"


def test_a_peer_is_in_the_region_of_its_voucher_if_that_has_a_boundary(topology: Topology) -> None:
    topology.add_node(NodeInfo("v", region="eu"))
    vouching = Vouching(topology)
    vouching.update("go", [node("go")])
    assert topology.nodes["go"].region == ""
    topology.update_node(NodeInfo("v", region="eu", boundary="region"))
    vouching.update("go", [node("go", port=2)])
    assert (topology.nodes["go"].region, topology.nodes["go"].boundary) == ("eu", "region")
    version = topology.version
    vouching.update("go", [node("go", port=2)])
    assert topology.version == version
