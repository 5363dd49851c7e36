"""Documents in a mesh of simulated nodes."""

from __future__ import annotations

from aegis_core.simulation import Simulation
from aegis_discovery import NodeStatus
from aegis_discovery.documents import DocumentKind, Forgotten, encode_forgotten

POLICY = b'[[call]]\nservices = ["*"]\nids = ["*"]\n'


def holders(mesh: Simulation, content: bytes) -> int:
    held = [mesh.documents_of(node_id).get(DocumentKind.POLICY) for node_id in mesh.live]
    return sum(document is not None and document.content == content for document in held)


def test_a_document_reaches_a_hundred_nodes_and_those_that_join_later() -> None:
    mesh = Simulation(100, seed=3)
    mesh.publish("node-000", DocumentKind.POLICY, POLICY)
    mesh.run_until(lambda: holders(mesh, POLICY) == 100, within=2)
    mesh.join("late", seeds=["node-050"])
    mesh.run_until(lambda: holders(mesh, POLICY) == 101, within=2)


def test_both_sides_of_a_partition_agree_on_the_later_document() -> None:
    mesh = Simulation(12, seed=4)
    left, right = mesh.live[:6], mesh.live[6:]
    mesh.partition(left, right)
    mesh.publish(left[0], DocumentKind.POLICY, POLICY)
    mesh.run(5)
    later = POLICY + b"# later\n"
    mesh.publish(right[0], DocumentKind.POLICY, later)
    mesh.run(5)
    assert (holders(mesh, POLICY), holders(mesh, later)) == (6, 6)
    mesh.heal()
    mesh.run_until(lambda: holders(mesh, later) == 12, within=120)
    assert len({mesh.documents_of(node_id).digest for node_id in mesh.live}) == 1


def test_a_mesh_without_documents_has_no_traffic_for_them() -> None:
    mesh = Simulation(20, seed=5)
    mesh.run(3)
    before = {edge: traffic.octets for edge, traffic in mesh.traffic.items()}
    mesh.run(10)
    heartbeat = 45  # bytes: a version and a digest
    for edge, traffic in mesh.traffic.items():
        assert traffic.octets - before.get(edge, 0) <= 11 * heartbeat


def test_a_forgotten_node_vanishes_everywhere_and_its_next_life_is_welcome() -> None:
    mesh = Simulation(16, seed=6)
    mesh.kill("node-007")
    mesh.run_until(lambda: mesh.everywhere("node-007", NodeStatus.FAILED), within=10)
    record = mesh.topology_of("node-000").get_record("node-007")
    assert record is not None
    life = Forgotten("node-007", record.instance, record.stamp + 60_000)
    # Half of the mesh does not hear of it for a while, and still has the old record then.
    mesh.partition(mesh.live[:8], mesh.live[8:])
    mesh.publish("node-000", DocumentKind.FORGET, encode_forgotten([life]))
    mesh.run(3)
    mesh.heal()
    mesh.run_until(
        lambda: all(mesh.status_of("node-007", by=node_id) is None for node_id in mesh.live),
        within=120,
    )
    mesh.run(30)
    assert all(mesh.status_of("node-007", by=node_id) is None for node_id in mesh.live)
    mesh.join("node-007", seeds=["node-001"])
    mesh.run_until(mesh.is_one_mesh, within=60)
