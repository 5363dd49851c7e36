from __future__ import annotations

from aegis_core._server.mesh_protocol import live_workers
from aegis_discovery import NodeInfo, NodeStatus, Topology
from aegis_discovery.records import RecordSigner


def test_the_live_workers_of_an_identity_are_counted_up_to_64() -> None:
    topology = Topology(owner="own")
    signer = RecordSigner()

    def publish(node_id: str) -> None:
        stamp = topology._now_ms()
        info = NodeInfo(node_id, address="10.0.0.1:1")
        topology.merge_records([signer.sign_record(node_id, stamp, info)])

    assert live_workers(topology, "a") == 1, "a client has no record"
    for number in range(64):
        publish(f"a#{number}")
        assert live_workers(topology, "a") == number + 1
    publish("a")
    assert live_workers(topology, "a") == 64
    for node_id in ("a", "a#0"):
        topology.set_status(node_id, topology.get_record(node_id).stamp, NodeStatus.FAILED)  # type: ignore[union-attr]  # it is there
    assert live_workers(topology, "a") == 63
