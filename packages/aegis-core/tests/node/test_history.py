from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aegis_core._mesh_events import MeshEvent, NodeStanding
from aegis_core._node.history import MAX_EVENTS, MAX_STANDINGS, MAX_TEXT, History
from aegis_core._rate_limit import READS
from aegis_core._server.introspection import NodeIntrospection
from aegis_core._server.mesh_protocol import RequestRefusedError
from aegis_discovery import HealthStatus, NodeInfo, NodeStatus, ServiceInfo, Topology
from aegis_discovery.proto import stats_pb2
from aegis_discovery.records import Opinion, RecordSigner

START = datetime(2027, 1, 1, tzinfo=UTC)


class Seen:
    """A history of a topology that anybody may change, and its clock."""

    def __init__(self) -> None:
        self.now = START
        self.signers = {name: RecordSigner(name) for name in "abcd"}
        self.topology = Topology()
        for name in "abcd":
            self.topology.add_node(NodeInfo(name, address=f"{name}:1"))
        self.history = History(self.topology, lambda _: frozenset("abc"), clock=lambda: self.now)

    def set(self, node_id: str, status: NodeStatus) -> None:
        record = self.topology.get_record(node_id)
        assert record is not None
        self.topology.set_status(node_id, record.stamp, status)

    def accuse(self, accuser: str, subject: str) -> None:
        record = self.topology.get_record(subject)
        assert record is not None
        verdict = self.signers[accuser].sign_verdict(
            record, record.stamp + 1, Opinion.FAILED, held=False
        )
        self.topology.merge_verdicts([verdict])


def test_a_failure_is_kept_with_its_time_and_its_observers() -> None:
    seen = Seen()
    for accuser in "cbd":  # d's verdict does not count
        seen.accuse(accuser, "a")
    seen.now += timedelta(seconds=5)
    seen.set("a", NodeStatus.FAILED)
    assert seen.history.standing_of("a") == NodeStanding("a", "failed", seen.now, ("b", "c"))
    assert seen.history.events == (MeshEvent(1, seen.now, "failed", "a", "", ("b", "c")),)
    seen.now += timedelta(seconds=5)
    seen.set("a", NodeStatus.ALIVE)
    assert seen.history.events[-1].kind == "recovered"
    assert seen.history.standings == (NodeStanding("a", "alive", seen.now, ()),)


def test_changes_of_a_record_are_said_in_words() -> None:
    seen = Seen()
    node = seen.topology.get_node("b")
    assert node is not None
    seen.topology.update_node(
        replace(node, health=HealthStatus.UNHEALTHY, services=(ServiceInfo("s" * 300, "v1"),))
    )
    seen.topology.remove_node("b")
    changed, left = seen.history.events
    assert changed.what.startswith("health unhealthy; provides sss")
    assert len(changed.what) == MAX_TEXT
    assert (left.kind, left.node_id) == ("left", "b")


def test_it_is_bounded_and_lists_what_is_wrong_first() -> None:
    seen = Seen()
    for number in range(MAX_STANDINGS + 5):
        seen.topology.add_node(NodeInfo(f"n{number}", address="n:1"))
        seen.set(f"n{number}", NodeStatus.FAILED)
        seen.set(f"n{number}", NodeStatus.ALIVE)
    seen.set("a", NodeStatus.SUSPECTED)
    assert len(seen.history.events) == MAX_EVENTS
    assert len(seen.history.standings) == MAX_STANDINGS
    assert seen.history.standings[0].id == "a"
    for number in range(MAX_STANDINGS + 5):
        seen.topology.remove_node(f"n{number}")
    assert [one.id for one in seen.history.standings] == ["a"]


def test_why_is_answered_for_node_ids_only_and_not_too_often() -> None:
    node = NodeIntrospection(lambda: pytest.fail("not asked"), lambda node_id: {"id": node_id})
    answer = node.explain(stats_pb2.ExplainRequest(node_id="a#3"), "caller", 0.0)
    assert json.loads(answer.json) == {"id": "a#3"}
    with pytest.raises(RequestRefusedError, match="no node id"):
        node.explain(stats_pb2.ExplainRequest(node_id="../x"), "caller", 0.0)
    asked = stats_pb2.ExplainRequest(node_id="a")
    for _ in range(int(READS.burst) - 1):
        node.explain(asked, "caller", 0.0)
    with pytest.raises(RequestRefusedError, match="reads of the topology"):
        node.explain(asked, "caller", 0.0)
