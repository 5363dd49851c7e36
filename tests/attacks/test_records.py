"""A malicious node sends false records."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_core import NodeInfo, Policy, ProvideRule, ServiceInfo
from aegis_discovery import DEFAULT_MESH, NoProvidersError
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import Record, RecordSigner

from .attacker import Attacker, count_instances

NEW = (ServiceInfo("new", "v1"),)


def update(node: Any) -> None:
    node.topology.update_node(NodeInfo(node.id, address=node.address, services=NEW))


async def test_a_record_for_another_nodes_id_is_refused(attacked: Any, logged: Any) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    mesh.attacker.send(*(mesh.attacker.record("stolen", node_id=i) for i in ("b", "unknown")))
    await mesh.settle()
    await mesh.assert_intact()
    for node in mesh.nodes:
        assert node.topology.get_service_providers("stolen", "v1") == ()
        assert "unknown" not in node.topology.nodes
    assert logged("from mallory: record of b refused: it was signed by mallory")


async def test_a_changed_record_is_not_relayed(attacked: Any, logged: Any) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    (caught, *_) = mesh.attacker.records_of("b")
    address = mesh.nodes[1].address.encode()
    redirected = mesh_pb2.SignedRecord.FromString(caught.SerializeToString())
    redirected.body = caught.body.replace(address, mesh.attacker.address.encode())
    assert redirected.body != caught.body
    newer = mesh_pb2.RecordBody.FromString(caught.body)
    newer.stamp += 1
    raised = mesh_pb2.SignedRecord.FromString(caught.SerializeToString())
    raised.body = newer.SerializeToString()
    mesh.attacker.send(redirected, raised)
    await mesh.settle()
    await mesh.assert_intact()
    assert logged("from mallory: record of b refused: its signature is not by b")


async def test_a_replayed_old_record_undoes_no_update_and_restores_no_departed_node(
    attacked: Any, until: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    a, b, c = mesh.nodes
    old = mesh.attacker.records_of("b")[:1]
    update(b)
    await until(lambda: len(mesh.attacker.records_of("b")) > 1)
    mesh.attacker.send(*old)
    await mesh.settle()
    await mesh.assert_intact()
    all_of_b = mesh.attacker.records_of("b")
    mesh.nodes.remove(b)
    mesh.ids.remove("b")
    await b.stop()
    for node in (a, c):
        await until(lambda n=node: "b" not in n.topology.nodes)
    mesh.attacker.send(*all_of_b)
    await mesh.settle()
    await mesh.assert_intact()


async def test_a_node_that_sends_older_records_after_newer_ones_is_named_in_the_log(
    attacked: Any, until: Any, logged: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    _, b, _ = mesh.nodes
    update(b)
    await until(lambda: len(mesh.attacker.records_of("b")) > 1)
    old, *_, new = mesh.attacker.records_of("b")
    for record in (old, new, old):
        # One message each: within one message, records may be read in any order.
        mesh.attacker.send(record)
        await mesh.settle()
    await mesh.assert_intact()
    lines = logged("from mallory: an older record of b after a newer one")
    assert len(lines) == len(mesh.nodes), "one line at each node"


async def test_a_record_with_a_stamp_far_in_the_future_is_refused(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    ahead = time.time_ns() // 1_000_000 + 3_600_000
    mesh.attacker.send(mesh.attacker.record("from-the-future", stamp=ahead))
    mesh.attacker.send(mesh.attacker.record("from-the-end", stamp=2**64 - 1))
    await mesh.settle()
    await mesh.assert_intact()
    for node in mesh.nodes:
        for name in ("from-the-future", "from-the-end"):
            assert node.topology.get_service_providers(name, "v1") == ()
    assert logged("from mallory: record of mallory refused", "s ahead of this clock")


async def test_of_two_records_with_one_stamp_every_node_keeps_the_same(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    stamp = time.time_ns() // 1_000_000 + 1000
    two = [mesh.attacker.record(name, stamp=stamp) for name in ("one", "other")]
    mesh.attacker.send(*two)
    mesh.attacker.send(*reversed(two))
    mesh.attacker.send(mesh.attacker.record("last", stamp=stamp - 1))
    mesh.attacker.send(mesh.attacker.record(node_id="b"))
    found = {"one": 0, "other": 0}
    # The refused record is the marker: a later valid one would replace the winner of the two.
    await mesh.until(lambda: len(logged("record of b refused")) == len(mesh.nodes))
    await mesh.assert_intact()
    for node in mesh.nodes:
        for name in found:
            found[name] += len(node.topology.get_service_providers(name, "v1"))
    assert sorted(found.values()) == [0, len(mesh.nodes)]
    assert logged(f"mallory signed two records with the stamp {stamp}")


async def test_records_of_other_meshes_and_trust_domains_are_refused(
    attacked: Any, logged: Any, tmp_path: Path
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    attacker = mesh.attacker
    elsewhere = RecordSigner.of(attacker.tls, mesh="elsewhere")
    attacker.send(attacker.record("stolen", signer=elsewhere))
    attacker.send(attacker.record("stolen", trust_domain="other.example"))
    ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256, trust_domain="other.example")
    stranger = Attacker(ca.issue_in_memory("stranger"))
    attacker.send(stranger.record("stolen", address="127.0.0.1:9"), chains=[stranger.chain])
    await mesh.settle()
    await mesh.assert_intact()
    for node in mesh.nodes:
        assert node.topology.get_service_providers("stolen", "v1") == ()
    assert logged("from mallory: record of mallory refused: it belongs to mesh 'elsewhere'")
    assert logged("from mallory:", "it names trust domain 'other.example', not its signer's")
    assert logged("from mallory:", "its certificate does not verify")
    assert logged("from mallory: record of stranger refused", "was not sent")


async def test_a_second_process_with_the_same_id_that_never_answers_does_not_replace_the_node(
    attacked: Any, identity: Any, until: Any, logged: Any
) -> None:
    mesh = await attacked()
    a, b, _ = mesh.nodes
    thief = Attacker(identity("b"))
    thief.address = mesh.attacker.address
    before = count_instances(Record)
    for _ in range(10):
        thief.signer = RecordSigner.of(thief.tls, mesh=DEFAULT_MESH)
        stolen = b.topology.get_record("b").stamp + 1000
        call = thief.watch(a, thief.request(thief.record("stolen", stamp=stolen)))
        assert (await call.read()).complete
        await until(lambda s=stolen: a.topology.get_record("b").stamp > s)
        call.cancel()
    await until(lambda: a.topology.nodes["b"].address == b.address)
    # Nodes that tried the false address did not find b there, so they may have accused it.
    await mesh.assert_intact(accused={"b"})
    assert b.failure is None
    assert count_instances(Record) <= before + 4
    found = f"another process runs, or ran, under the id b at {thief.address}"
    assert len(logged(found)) == 1, "one line a minute"
    await thief.stop()


async def test_a_node_cannot_join_with_an_id_that_is_not_in_its_certificate(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked()
    call = mesh.attacker.watch(
        mesh.nodes[0], mesh.attacker.request(mesh.attacker.record("stolen", node_id="b"))
    )
    error = await error_of(call)
    assert "record of b refused: it was signed by mallory" in error
    await mesh.assert_intact()
    assert logged("a feed for mallory was refused", "it was signed by mallory")


async def error_of(call: Any) -> str:
    code, details = await call.code(), await call.details()
    return f"{code}: {details}"


async def test_a_made_up_node_passes_no_rule_about_providers(
    start: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    payments = ServiceInfo("payments", "v1")
    mallory = await start("mallory")
    policy = Policy(provide=[ProvideRule(ids=["payments-*"], services=["payments"])])
    b = await start("b", mallory, policy=policy)
    made_up = NodeInfo("payments-7", address=mallory.address, services=(payments,))
    mallory.topology.vouch(made_up)
    await until(lambda: b.topology.get_service_providers("payments", "v1"))
    with pytest.raises(NoProvidersError):
        await b.pool.channel("payments", "v1").unary_unary("/p/Pay")(b"")
    assert "payments-7 may not provide payments/v1" in caplog.text
