"""A member of the mesh lies about who is there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from aegis_certs import CertificateAuthority, KeyType
from aegis_core import NodeInfo, ServiceInfo
from aegis_discovery import DEFAULT_MESH
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import Record, RecordSigner

from .attacker import Attacker, held

NEW = (ServiceInfo("new", "v1"),)


def update(node: Any) -> None:
    node.topology.update_node(NodeInfo(node.id, address=node.address, services=NEW))


async def test_a_record_under_anothers_id_counts_for_nothing(attacked: Any, logged: Any) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    mesh.attacker.tell(*(mesh.attacker.record("stolen", node_id=i) for i in ("b", "unknown")))
    await mesh.settle()
    await mesh.is_right()
    for node in mesh.nodes:
        assert node.topology.get_service_providers("stolen", "v1") == ()
        assert "unknown" not in node.topology.nodes
    assert logged("from mallory: record of b refused: it was signed by mallory")


async def test_a_changed_record_is_not_relayed(attacked: Any, logged: Any) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    (caught, *_) = mesh.attacker.caught("b")
    address = mesh.nodes[1].address.encode()
    turned = mesh_pb2.SignedRecord.FromString(caught.SerializeToString())
    turned.body = caught.body.replace(address, mesh.attacker.address.encode())
    assert turned.body != caught.body
    newer = mesh_pb2.RecordBody.FromString(caught.body)
    newer.stamp += 1
    raised = mesh_pb2.SignedRecord.FromString(caught.SerializeToString())
    raised.body = newer.SerializeToString()
    mesh.attacker.tell(turned, raised)
    await mesh.settle()
    await mesh.is_right()
    assert logged("from mallory: record of b refused: its signature is not by b")


async def test_an_old_record_undoes_no_update_and_brings_back_nobody(
    attacked: Any, until: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    a, b, c = mesh.nodes
    old = mesh.attacker.caught("b")[:1]
    update(b)
    await until(lambda: len(mesh.attacker.caught("b")) > 1)
    mesh.attacker.tell(*old)
    await mesh.settle()
    await mesh.is_right()
    all_of_b = mesh.attacker.caught("b")
    mesh.nodes.remove(b)
    mesh.ids.remove("b")
    await b.stop()
    for node in (a, c):
        await until(lambda n=node: "b" not in n.topology.nodes)
    mesh.attacker.tell(*all_of_b)
    await mesh.settle()
    await mesh.is_right()


async def test_one_that_goes_back_on_what_it_told_undoes_nothing_and_is_named(
    attacked: Any, until: Any, logged: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    _, b, _ = mesh.nodes
    update(b)
    await until(lambda: len(mesh.attacker.caught("b")) > 1)
    old, *_, new = mesh.attacker.caught("b")
    for record in (old, new, old):
        # One at a time: in one message, what comes later may be read first.
        mesh.attacker.tell(record)
        await mesh.settle()
    await mesh.is_right()
    lines = logged("from mallory: an older record of b after a newer one")
    assert len(lines) == len(mesh.nodes), "once at each"


async def test_a_stamp_far_ahead_is_refused(attacked: Any, logged: Any) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    ahead = time.time_ns() // 1_000_000 + 3_600_000
    mesh.attacker.tell(mesh.attacker.record("from-the-future", stamp=ahead))
    mesh.attacker.tell(mesh.attacker.record("from-the-end", stamp=2**64 - 1))
    await mesh.settle()
    await mesh.is_right()
    for node in mesh.nodes:
        for name in ("from-the-future", "from-the-end"):
            assert node.topology.get_service_providers(name, "v1") == ()
    assert logged("from mallory: record of mallory refused", "s ahead of this clock")


async def test_two_records_with_one_stamp_end_as_the_same_one_everywhere(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    stamp = time.time_ns() // 1_000_000 + 1000
    two = [mesh.attacker.record(name, stamp=stamp) for name in ("one", "other")]
    mesh.attacker.tell(*two)
    mesh.attacker.tell(*reversed(two))
    mesh.attacker.tell(mesh.attacker.record("last", stamp=stamp - 1))
    mesh.attacker.tell(mesh.attacker.record(node_id="b"))
    found = {"one": 0, "other": 0}
    # What cannot be believed is the mark here: a later record would hide which of the two won.
    await mesh.until(lambda: len(logged("record of b refused")) == len(mesh.nodes))
    await mesh.is_right()
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
    attacker.tell(attacker.record("stolen", signer=elsewhere))
    attacker.tell(attacker.record("stolen", trust_domain="other.example"))
    ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256, trust_domain="other.example")
    stranger = Attacker(ca.issue_in_memory("stranger"))
    attacker.tell(stranger.record("stolen", address="127.0.0.1:9"), chains=[stranger.chain])
    await mesh.settle()
    await mesh.is_right()
    for node in mesh.nodes:
        assert node.topology.get_service_providers("stolen", "v1") == ()
    assert logged("from mallory: record of mallory refused: it belongs to mesh 'elsewhere'")
    assert logged("from mallory:", "it names trust domain 'other.example', not its signer's")
    assert logged("from mallory:", "its certificate does not verify")
    assert logged("from mallory: record of stranger refused", "was not sent")


async def test_other_lives_of_a_node_that_never_answer_do_not_replace_it(
    attacked: Any, identity: Any, until: Any, logged: Any
) -> None:
    mesh = await attacked()
    a, b, _ = mesh.nodes
    thief = Attacker(identity("b"))
    thief.address = mesh.attacker.address
    before = held(Record)
    for _ in range(10):
        thief.signer = RecordSigner.of(thief.tls, mesh=DEFAULT_MESH)
        stolen = b.topology.get_record("b").stamp + 1000
        call = thief.watch(a, thief.request(thief.record("stolen", stamp=stolen)))
        assert (await call.read()).complete
        await until(lambda s=stolen: a.topology.get_record("b").stamp > s)
        call.cancel()
    await until(lambda: a.topology.nodes["b"].address == b.address)
    # Whoever looked for it where the thief said that it is did not find it there.
    await mesh.is_right(accused={"b"})
    assert b.failure is None
    assert held(Record) <= before + 4
    found = f"another process runs, or ran, under the id b at {thief.address}"
    assert len(logged(found)) == 1, "once a minute"
    await thief.stop()


async def test_nobody_joins_under_an_id_that_its_certificate_does_not_prove(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked()
    call = mesh.attacker.watch(
        mesh.nodes[0], mesh.attacker.request(mesh.attacker.record("stolen", node_id="b"))
    )
    error = await _error_of(call)
    assert "record of b refused: it was signed by mallory" in error
    await mesh.is_right()
    assert logged("a feed for mallory was refused", "it was signed by mallory")


async def _error_of(call: Any) -> str:
    code, details = await call.code(), await call.details()
    return f"{code}: {details}"
