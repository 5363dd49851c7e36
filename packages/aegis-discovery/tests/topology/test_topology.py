from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from aegis_discovery import (
    EventKind,
    NodeInfo,
    NodeNotFoundError,
    NodeStatus,
    NotOwnerError,
    ServiceInfo,
    Topology,
    TopologyEvent,
)
from aegis_discovery._topology.merge import MAX_VERSION, MAX_VERSION_STEP
from aegis_discovery._topology.topology import TopologySnapshot
from aegis_discovery.records import Opinion, RecordSigner

from ..conftest import ManualClock

HOUR = 3600.0


def greeter(node_id: str, address: str = "127.0.0.1:1") -> NodeInfo:
    return NodeInfo(node_id, address=address, services=(ServiceInfo("greeter", "v1"),))


def records_of(topology: Topology) -> Iterator[tuple[str, int]]:
    return ((record.id, record.stamp) for record in topology.snapshot().records)


def test_an_own_change_increments_the_version(clock: ManualClock) -> None:
    topology = Topology(clock=clock)
    topology.add_node(greeter("a"))
    topology.update_node(greeter("a", "127.0.0.1:2"))
    topology.remove_node("a")
    assert topology.version == 3
    assert repr(topology) == f"<Topology version=3 nodes=0 digest={'0' * 12}>"


def test_times_are_set_on_adding_and_joined_at_survives_an_update(clock: ManualClock) -> None:
    topology = Topology(clock=clock)
    joined = topology.add_node(greeter("a")).joined_at
    clock.now += 60
    updated = topology.update_node(greeter("a", "127.0.0.1:2"))
    assert joined == datetime.fromtimestamp(clock.now - 60, UTC)
    assert updated.joined_at == joined
    assert updated.updated_at == datetime.fromtimestamp(clock.now, UTC)


def test_times_of_other_nodes_are_not_changed(clock: ManualClock) -> None:
    theirs = Topology(clock=clock)
    theirs.add_node(greeter("a"))
    clock.now += 100
    ours = Topology(clock=clock)
    ours.merge(theirs)
    assert ours.get_node("a") == theirs.get_node("a")


def test_two_new_topologies_that_merge_hold_both_nodes() -> None:
    a, b = Topology(owner="a"), Topology(owner="b")
    a.add_node(greeter("a"))
    b.add_node(greeter("b"))
    a.merge(b)
    b.merge(a)
    assert list(a.nodes) == list(b.nodes) == ["a", "b"]
    assert (a.version, a.digest) == (b.version, b.digest)


def test_an_empty_topology_with_the_highest_version_removes_nothing() -> None:
    topology = Topology(owner="a")
    topology.add_node(greeter("a"))
    liar = TopologySnapshot(MAX_VERSION, datetime.now(UTC), {}, b"", ())
    topology.merge(liar)
    assert list(topology.nodes) == ["a"]
    assert topology.version == 1 + MAX_VERSION_STEP


def test_the_version_never_passes_its_range() -> None:
    topology = Topology(owner="a")
    topology._version = MAX_VERSION - 1
    for port in range(3):
        topology.add_node(greeter("a", f"127.0.0.1:{port}"))
    assert topology.version == MAX_VERSION
    assert topology.advance_version_past(MAX_VERSION) == MAX_VERSION


def test_an_older_copy_does_not_restore_a_removed_node(clock: ManualClock) -> None:
    ours, stale = Topology(clock=clock), Topology(clock=clock)
    ours.add_node(greeter("a"))
    stale.merge(ours)
    ours.remove_node("a")
    clock.now += 23 * HOUR
    ours.merge(stale)
    assert ours.get_node("a") is None
    clock.now += 1.5 * HOUR
    ours.merge(stale)
    assert ours.get_node("a") is None, "the copy's lease ended before the tombstone's"
    clock.now += 10 * HOUR
    ours.merge(stale)
    assert not ours.snapshot().records


def test_a_record_is_dropped_when_its_lease_ends(clock: ManualClock) -> None:
    topology = Topology(clock=clock)
    events: list[TopologyEvent] = []
    topology.subscribe(events.append)
    topology.add_node(greeter("a"))
    clock.now += 24 * HOUR
    topology.expire()
    assert topology.get_service_providers("greeter", "v1") == ()
    assert [event.kind for event in events] == [EventKind.JOINED, EventKind.EXPIRED]


def test_a_topology_of_a_node_changes_only_its_owners_record() -> None:
    topology = Topology(owner="a")
    with pytest.raises(NotOwnerError) as caught:
        topology.add_node(greeter("b"))
    assert (caught.value.node_id, caught.value.owner) == ("b", "a")
    with pytest.raises(NodeNotFoundError):
        topology.remove_node("a")


def test_a_restarted_node_continues_above_its_stamps_though_its_clock_went_back() -> None:
    fast, slow = ManualClock(1_800_000_100.0), ManualClock(1_800_000_000.0)
    first, witness = Topology(owner="a", clock=fast), Topology(owner="w", clock=fast)
    first.add_node(greeter("a", "127.0.0.1:1"))
    witness.merge(first)
    second = Topology(owner="a", clock=slow)
    second.add_node(greeter("a", "127.0.0.1:2"))
    result = second.merge(witness)
    assert result.foreign is not None
    second.republish()
    witness.merge(second)
    node = witness.get_node("a")
    assert node is not None
    assert node.address == "127.0.0.1:2"


def test_a_nodes_own_record_replaces_a_vouched_record(clock: ManualClock) -> None:
    voucher, owner = Topology(owner="v", clock=clock), Topology(owner="a", clock=clock)
    owner.add_node(greeter("a", "127.0.0.1:1"))
    clock.now += 10
    voucher._signer._node_id = "v"
    voucher.vouch(greeter("a", "127.0.0.1:9"))
    for one, other in ((voucher, owner), (owner, voucher)):
        one.merge(other)
    for topology in (voucher, owner):
        node = topology.get_node("a")
        assert node is not None
        assert node.address == "127.0.0.1:1"
    voucher.unvouch("a")
    assert voucher.get_node("a") is not None


def test_a_voucher_removes_its_node_and_the_next_record_of_another_voucher_restores_it(
    clock: ManualClock,
) -> None:
    one, two = (
        Topology(owner=owner, signer=RecordSigner(owner, clock=clock), clock=clock)
        for owner in ("v1", "v2")
    )

    def exchange() -> None:
        one.merge(two)
        two.merge(one)

    one.vouch(greeter("go"))
    exchange()
    two.vouch(greeter("go", "127.0.0.1:2"))
    exchange()
    one.unvouch("go")
    assert "go" in one.nodes, "the record of v2 counts now"
    # One record is held per id, so a concurrent removal also removes the other voucher's record.
    one.vouch(greeter("go"))
    two.vouch(greeter("go", "127.0.0.1:3"))
    clock.now += 1
    one.unvouch("go")
    exchange()
    assert "go" not in one.nodes
    assert "go" not in two.nodes
    two.vouch(greeter("go", "127.0.0.1:3"))
    exchange()
    assert one.nodes["go"].address == two.nodes["go"].address == "127.0.0.1:3"


def test_equal_stamps_are_decided_the_same_way_everywhere(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = Topology(clock=clock), Topology(clock=clock)
    a._signer.instance = b._signer.instance = "twin"
    a.add_node(greeter("x", "127.0.0.1:1"))
    b.add_node(greeter("x", "127.0.0.1:2"))
    a.merge(b)
    b.merge(a)
    assert a.get_node("x") == b.get_node("x")
    assert "x signed two records with the stamp" in caplog.text


def test_providers_are_sorted_by_id_and_the_same_object_until_one_changes() -> None:
    topology = Topology()
    for node_id in ("c", "a", "b"):
        topology.add_node(greeter(node_id))
    found = topology.get_service_providers("greeter", "v1")
    assert [node.id for node in found] == ["a", "b", "c"]
    topology.add_node(NodeInfo("d", services=(ServiceInfo("other", "v1"),)))
    assert topology.get_service_providers("greeter", "v1") is found
    topology.update_node(greeter("b", "127.0.0.1:7"))
    assert topology.get_service_providers("greeter", "v1") is not found


def test_versions_of_a_service_are_found_separately_and_together() -> None:
    topology = Topology()
    topology.add_node(NodeInfo("a", services=(ServiceInfo("s", "v1"), ServiceInfo("s", "v2"))))
    topology.add_node(NodeInfo("b", services=(ServiceInfo("s", "v2"),)))
    assert [n.id for n in topology.get_service_providers("s", "v1")] == ["a"]
    assert [n.id for n in topology.get_nodes_by_service("s")] == ["a", "b"]
    assert topology.get_service_providers("s", "v3") == ()
    topology.update_node(NodeInfo("a"))
    assert topology.get_service_providers("s", "v1") == ()


def test_a_failed_node_is_not_a_provider_until_it_is_alive_again() -> None:
    topology = Topology()
    topology.add_node(greeter("a"))
    record = topology.get_record("a")
    assert record is not None
    events: list[TopologyEvent] = []
    topology.subscribe(events.append)
    for status in (NodeStatus.SUSPECTED, NodeStatus.FAILED):
        assert topology.set_status("a", record.stamp, status)
    assert topology.get_service_providers("greeter", "v1") == ()
    assert topology.nodes["a"].status is NodeStatus.FAILED
    assert not topology.set_status("a", record.stamp - 1, NodeStatus.ALIVE), "an older record"
    assert topology.set_status("a", record.stamp, NodeStatus.ALIVE)
    assert len(topology.get_service_providers("greeter", "v1")) == 1
    kinds = [event.kind for event in events]
    assert kinds == [EventKind.SUSPECTED, EventKind.FAILED, EventKind.UPDATED]


def test_a_new_record_does_not_clear_the_status_but_a_new_instance_does(
    clock: ManualClock,
) -> None:
    witness, first = Topology(clock=clock), Topology(owner="a", clock=clock)
    first.add_node(greeter("a"))
    witness.merge(first)
    record = witness.get_record("a")
    assert record is not None
    witness.set_status("a", record.stamp, NodeStatus.FAILED)
    first.update_node(greeter("a", "127.0.0.1:2"))
    witness.merge(first)
    assert witness.nodes["a"].address == "127.0.0.1:2"
    assert witness.nodes["a"].status is NodeStatus.FAILED
    clock.now += 1
    second = Topology(owner="a", clock=clock)
    second.add_node(greeter("a", "127.0.0.1:3"))
    witness.merge(second)
    assert witness.nodes["a"].status is NodeStatus.ALIVE


def test_events_are_in_order_even_if_a_subscriber_causes_more() -> None:
    topology = Topology()
    seen: list[str] = []

    def echo(event: TopologyEvent) -> None:
        seen.append(f"{event.kind} {event.node.id} {event.version}")
        if event.node.id == "a" and event.kind is EventKind.JOINED:
            topology.add_node(greeter("b"))

    end = topology.subscribe(echo)
    topology.add_node(greeter("a"))
    topology.remove_node("b")
    end()
    topology.add_node(greeter("c"))
    assert seen == ["joined a 1", "joined b 2", "left b 3"]


def test_a_renewed_lease_causes_no_event() -> None:
    topology = Topology(owner="a")
    topology.add_node(greeter("a"))
    before = topology.get_record("a")
    events: list[TopologyEvent] = []
    topology.subscribe(events.append)
    topology.republish()
    after = topology.get_record("a")
    assert before is not None
    assert after is not None
    assert after.stamp > before.stamp
    assert events == []


def test_the_log_returns_each_changed_node_once() -> None:
    topology = Topology()
    for node_id in "abc":
        topology.add_node(greeter(node_id))
    position = topology.changes_since(0).position
    for port in range(100):
        topology.update_node(greeter("b", f"127.0.0.1:{port + 1}"))
    changes = topology.changes_since(position)
    assert [record.id for record in changes.records()] == ["b"]
    assert list(topology.changes_since(changes.position).records()) == []


def test_a_change_of_status_sends_no_record_again() -> None:
    topology = Topology()
    topology.add_node(greeter("a"))
    position = topology.changes_since(0).position
    record = topology.get_record("a")
    assert record is not None
    topology.set_status("a", record.stamp, NodeStatus.FAILED)
    changes = topology.changes_since(position)
    assert list(changes.records()) == []
    assert [status for _, _, status in changes.statuses()] == [NodeStatus.FAILED]


def test_changes_are_not_sent_back_to_their_origin() -> None:
    ours, theirs = Topology(), Topology()
    theirs.add_node(greeter("a"))
    ours.merge_records(theirs.snapshot().records, origin="peer")
    changes = ours.changes_since(0)
    assert list(changes.records(reader="peer")) == []
    assert [record.id for record in changes.records(reader="other")] == ["a"]


def test_a_snapshot_is_consistent_while_other_threads_change_the_topology() -> None:
    topology = Topology()
    topology.add_node(greeter("a", "127.0.0.1:1"))
    done = threading.Event()

    def change() -> None:
        for port in range(2, 400):
            topology.update_node(greeter("a", f"127.0.0.1:{port}"))
        done.set()

    thread = threading.Thread(target=change)
    thread.start()
    while not done.is_set():
        snapshot = topology.snapshot()
        assert snapshot.nodes["a"].address == f"127.0.0.1:{snapshot.version}"
        assert len(topology.get_service_providers("greeter", "v1")) == 1
    thread.join()


def test_nodes_is_a_read_only_snapshot() -> None:
    topology = Topology()
    topology.add_node(greeter("a"))
    nodes = topology.nodes
    with pytest.raises(TypeError):
        nodes["b"] = greeter("b")  # type: ignore[index]  # the point of the test
    topology.add_node(greeter("b"))
    assert list(nodes) == ["a"]
    assert replace(nodes["a"]) == nodes["a"]


def test_a_subscriber_that_fails_does_not_affect_others(caplog: pytest.LogCaptureFixture) -> None:
    topology = Topology()
    seen: list[str] = []

    def broken(event: TopologyEvent) -> None:
        raise RuntimeError("a bug of the user")

    topology.subscribe(broken)
    topology.subscribe(lambda event: seen.append(event.node.id))
    topology.add_node(greeter("a"))
    topology.add_node(greeter("b"))
    assert seen == ["a", "b"]
    assert "a subscriber failed on joined of a" in caplog.text


def test_events_go_on_after_one_whose_subscriber_was_interrupted() -> None:
    topology, seen = Topology(), list[str]()

    def interrupted(event: TopologyEvent) -> None:
        seen.append(event.node.id)
        if event.node.id == "b":
            topology.add_node(greeter("c"))
            raise KeyboardInterrupt

    topology.subscribe(interrupted)
    topology.add_node(greeter("a"))
    with pytest.raises(KeyboardInterrupt):
        topology.add_node(greeter("b"))
    assert seen == ["a", "b"]
    topology.expire()  # as on each heartbeat
    assert seen == ["a", "b", "c"]
    topology.add_node(greeter("d"))
    assert seen == ["a", "b", "c", "d"]


def test_subscribers_may_wait_for_another_thread_that_reads_the_topology() -> None:
    topology = Topology()
    read: list[object] = []

    def read_in_thread(event: TopologyEvent) -> None:
        thread = threading.Thread(target=lambda: read.append(topology.get_node(event.node.id)))
        thread.start()
        thread.join(5)
        assert not thread.is_alive()

    topology.subscribe(read_in_thread)
    topology.add_node(greeter("a"))
    topology.update_node(greeter("a", "127.0.0.1:2"))
    assert len(read) == 2


def test_a_merge_of_many_records_calls_a_listener_once() -> None:
    ours, theirs = Topology(), Topology()
    for index in range(100):
        theirs.add_node(greeter(f"n{index}"))
    calls: list[None] = []
    end = ours.subscribe_changed(lambda: calls.append(None))
    ours.merge(theirs)
    end()
    ours.add_node(greeter("late"))
    assert len(calls) == 1


def test_a_vouched_record_is_no_sign_of_life(clock: ManualClock) -> None:
    topology = Topology(owner="v", signer=RecordSigner("v", clock=clock), clock=clock)
    topology.vouch(greeter("go"))
    record = topology.get_record("go")
    assert record is not None
    topology.set_status("go", record.stamp, NodeStatus.FAILED)
    clock.now += 1
    topology.vouch(greeter("go", "127.0.0.1:2"))
    assert topology.nodes["go"].status is NodeStatus.FAILED
    assert topology.nodes["go"].address == "127.0.0.1:2"
    assert topology.nodes["go"].vouched_by == "v"
    topology.unvouch("go")
    assert topology.get_node("go") is None


def owned(clock: ManualClock) -> Topology:
    topology = Topology(owner="a", signer=RecordSigner("a", clock=clock), clock=clock)
    topology.add_node(greeter("a"))
    return topology


def stamp_of(topology: Topology, node_id: str = "a") -> int:
    record = topology.get_record(node_id)
    assert record is not None
    return record.stamp


def test_what_was_signed_while_the_clock_was_ahead_is_signed_anew(clock: ManualClock) -> None:
    topology, right = owned(clock), clock.now
    topology.vouch(greeter("go"))
    clock.now = right + HOUR
    topology.update_node(greeter("a", "127.0.0.1:2"))
    topology.vouch(greeter("go", "127.0.0.1:3"))
    topology.publish_verdict("go", Opinion.FAILED)
    assert not topology.restart_stamps(), "its clock may be right"
    clock.now = right + 1
    position = topology.log_position
    assert topology.restart_stamps()
    now = round(clock.now * 1000)
    assert (stamp_of(topology), stamp_of(topology, "go")) == (now, now)
    verdict = topology.get_verdict("go", "a")
    assert verdict is not None
    assert (verdict.verdict.stamp, verdict.verdict.opinion) == (now, Opinion.FAILED)
    assert topology.nodes["a"].address == "127.0.0.1:2"
    assert topology.log_position == position + 3, "watchers get them"
    assert not topology.restart_stamps()


def test_a_restarted_stamp_rises_above_what_others_hold(clock: ManualClock) -> None:
    topology, other, right = owned(clock), Topology(clock=clock), clock.now
    clock.now = right + 200
    topology.update_node(greeter("a", "127.0.0.1:2"))
    other.merge(topology)
    clock.now = right + HOUR
    topology.update_node(greeter("a", "127.0.0.1:3"))
    clock.now = right + 1
    assert topology.restart_stamps()
    topology.merge(other)
    other.merge(topology)
    assert other.nodes["a"].address == "127.0.0.1:3"


def test_a_stamp_continues_while_the_clock_is_behind(clock: ManualClock) -> None:
    topology = owned(clock)
    before = stamp_of(topology)
    clock.now -= HOUR
    topology.update_node(greeter("a", "127.0.0.1:2"))
    assert stamp_of(topology) == before + 1
