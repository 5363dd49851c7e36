"""A node with feeds and a registry, among nodes that have one of the two."""

from __future__ import annotations

from aegis_core._membership.membership import Membership
from aegis_discovery import NodeInfo, Topology
from aegis_discovery.records import RecordSigner


def test_the_rings_pass_over_nodes_that_open_no_feeds() -> None:
    topology = Topology(owner="a", signer=RecordSigner("a"))
    topology.add_node(NodeInfo("a", address="10.0.0.1:1"))
    for node_id, registry in (("b", ""), ("c", "etcd"), ("d", "etcd")):
        other = Topology(owner=node_id, signer=RecordSigner(node_id))
        other.add_node(NodeInfo(node_id, address="10.0.0.2:1", registry=registry))
        topology.merge(other)
    membership = Membership(topology, 0.0)
    membership.tick(0.0)
    assert membership.observers("c") == {"a", "b"}
    assert membership.observers("a") == {"b"}
    assert membership.watched == {"b", "c", "d"}
