from __future__ import annotations

from datetime import UTC, datetime

from aegis_core._unsigned_peers.folding import fold_workers
from aegis_core._unsigned_peers.vouching import Vouching
from aegis_discovery import HealthStatus, NodeInfo, NodeStatus, ServiceInfo, Topology
from aegis_discovery.records import RecordSigner


def node(node_id: str, port: int, *services: str, **options: object) -> NodeInfo:
    provided = tuple(ServiceInfo(service, "v1") for service in services)
    return NodeInfo(node_id, address=f"10.0.0.1:{port}", services=provided, **options)  # type: ignore[arg-type]  # fields of a node


def folded(*nodes: NodeInfo) -> dict[str, NodeInfo]:
    return dict(fold_workers({node.id: node for node in nodes}))


def test_the_workers_of_an_identity_are_one_node_with_all_their_services() -> None:
    first, last = (datetime(2020, 1, day, tzinfo=UTC) for day in (1, 2))
    found = folded(
        node("a", 1, "s"),
        node("b#10", 10, "s", "t", joined_at=last, updated_at=last),
        node("b#2", 2, "s", joined_at=first, updated_at=first),
    )
    assert list(found) == ["a", "b"]
    assert found["a"] == node("a", 1, "s")
    assert found["b"] == node("b", 2, "s", "t", joined_at=first, updated_at=last)


def test_the_address_is_that_of_a_live_worker() -> None:
    failed, ill = NodeStatus.FAILED, HealthStatus.UNHEALTHY
    found = folded(
        node("b#0", 10, "old", status=failed),
        node("b#1", 11, status=NodeStatus.SUSPECTED),
        node("b#2", 12, "s", health=ill),
        node("b#3", 13, name="Orders"),
    )["b"]
    assert (found.address, found.name, found.status) == ("10.0.0.1:13", "Orders", "alive")
    assert found.services == (ServiceInfo("s", "v1"),), "a failed worker provides nothing"
    assert folded(node("b#0", 10, status=failed))["b"].status is failed


def test_a_node_beside_the_workers_of_its_identity_is_one_of_them() -> None:
    assert folded(node("b#0", 10, "s"), node("b", 1, "t"))["b"].address == "10.0.0.1:1"
    vouched = node("b", 1, "t", vouched_by="liar")
    assert folded(node("b#0", 10, "s"), vouched) == {"b": node("b", 10, "s")}


def test_nobody_vouches_for_workers_that_an_unsigned_peer_lists_as_one_node() -> None:
    topology = Topology(owner="v", signer=RecordSigner("v"))
    vouching = Vouching(topology)
    listed = [node("go", 1), node("b", 10, "s"), node("b#1", 11)]
    vouching.update("go", listed)
    assert list(topology.nodes) == ["b", "go"], "it may be a node that signs nothing"
    signer = RecordSigner()
    topology.merge_records([signer.sign_record("b#0", topology._now_ms(), node("b#0", 10, "s"))])
    vouching.update("go", listed)
    assert list(topology.nodes) == ["b#0", "go"]
    assert not vouching.is_behind("go")
    topology.merge_records([signer.sign_record("b#0", topology._now_ms() + 1, None)])
    vouching.update("go", listed)
    assert list(topology.nodes) == ["go"], "its last worker has left"
