"""A malicious node sends false verdicts."""

from __future__ import annotations

from typing import Any

from aegis_core._membership.rings import Rings
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import Opinion


def received_verdicts(mesh: Any, subject: str) -> list[mesh_pb2.SignedVerdict]:
    """Returns the verdicts on a node that the attacker received from honest nodes."""
    return [
        signed
        for message in mesh.attacker.received
        for signed in message.verdicts
        if mesh_pb2.VerdictBody.FromString(signed.body).subject == subject
    ]


async def test_a_node_that_accuses_all_others_repeatedly_makes_none_fail(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    for round_ in range(3):
        before = [node.topology.get_record(node.id).stamp for node in mesh.nodes]
        mesh.attacker.send(
            *(
                mesh.attacker.verdict(
                    node.topology.get_record(node.id), Opinion.FAILED, held=round_ == 2
                )
                for node in mesh.nodes
            )
        )
        await mesh.settle()
        for node, stamp in zip(mesh.nodes, before, strict=True):
            await mesh.until(lambda n=node, s=stamp: n.topology.get_record(n.id).stamp > s)
    # The verdicts of the last round are held: they stay for an hour although they are refuted.
    await mesh.assert_intact(accused=mesh.ids)
    mesh.events.clear()
    for node_id in sorted(mesh.ids):
        await mesh.until(lambda i=node_id: logged(f"mallory maintains that {i} is failed"))
    await mesh.assert_intact()


async def test_an_accusation_by_a_node_that_is_not_an_observer_does_not_count(
    attacked: Any, logged: Any
) -> None:
    ids = tuple("abcdefgh")
    mesh = await attacked(*ids)
    rings = Rings()
    for node_id in (*ids, mesh.attacker.id):
        rings.place(node_id, can_observe=True)
    others = [i for i in ids if mesh.attacker.id not in rings.observers(i)]
    assert others, "in a mesh of nine nodes, each has only five observers"
    accused = next(node for node in mesh.nodes if node.id == others[0])
    await mesh.until(lambda: mesh.attacker.watchers & mesh.ids)
    await mesh.settle()
    mesh.events.clear()
    # The first time is not logged: every node does it after a partition heals.
    for _ in range(2):
        record = accused.topology.get_record(accused.id)
        mesh.attacker.send(mesh.attacker.verdict(record, Opinion.FAILED, held=True))
        await mesh.settle()
        await mesh.until(
            lambda stamp=record.stamp: accused.topology.get_record(accused.id).stamp > stamp
        )
    await mesh.until(
        lambda: logged(f"mallory says that {accused.id} is failed, but is not its observer")
    )
    await mesh.assert_intact()
    assert f"suspected {accused.id}" not in mesh.events


async def test_an_accusation_in_the_name_of_another_node_is_refused(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    _, b, c = mesh.nodes
    life = b.topology.get_record("b").instance
    mesh.attacker.send(
        mesh.attacker.verdict(
            c.topology.get_record("c"), Opinion.FAILED, accuser="b", accuser_instance=life
        )
    )
    await mesh.settle()
    assert [node.topology.get_verdict("c", "b") for node in mesh.nodes] == [None] * 3
    await mesh.assert_intact()
    assert logged("from mallory: verdict of b refused: it was signed by mallory")
    assert "suspected c" not in mesh.events


async def test_a_replayed_accusation_that_was_refuted_does_not_count_again(attacked: Any) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    _, b, c = mesh.nodes
    stamp = c.topology.get_record("c").stamp
    b.topology.publish_verdict("c", Opinion.SUSPECT)
    await mesh.until(lambda: received_verdicts(mesh, "c"))
    caught = received_verdicts(mesh, "c")[:1]
    for node in mesh.nodes:
        await mesh.until(lambda n=node: n.topology.get_record("c").stamp > stamp)
    await mesh.assert_intact(accused={"c"})
    mesh.events.clear()
    answered = c.topology.get_record("c").stamp
    mesh.attacker.send(*caught)
    await mesh.settle()
    await mesh.assert_intact()
    assert "suspected c" not in mesh.events
    assert c.topology.get_record("c").stamp == answered, "it was refuted once, and that is enough"


async def test_a_verdict_of_another_mesh_or_on_the_accuser_itself_is_refused(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    record = mesh.nodes[1].topology.get_record("b")
    own = mesh.nodes[1].topology.get_record("mallory")
    mesh.attacker.send(
        mesh.attacker.verdict(record, Opinion.FAILED, mesh="elsewhere"),
        mesh.attacker.verdict(own, Opinion.CLEAR),
        mesh.attacker.verdict(record, Opinion.FAILED, stamp=2**63),
        mesh.attacker.verdict(record, Opinion.FAILED, expires_at=2**62),
    )
    await mesh.settle()
    await mesh.assert_intact()
    assert [node.topology.get_verdict("b", "mallory") for node in mesh.nodes] == [None] * 3
    for reason in (
        "it is not a verdict of this mesh",
        "a node cannot accuse itself",
        "s ahead of this clock (limit 300)",
        "its lease is too long",
    ):
        assert logged("from mallory: verdict of mallory refused: ", reason)


async def test_a_node_that_ends_its_feeds_without_an_error_is_watched_again_and_not_suspected(
    attacked: Any,
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    events: list[str] = []
    for node in mesh.nodes:
        node.topology.subscribe(lambda event: events.append(f"{event.kind} {event.node.id}"))
    before = mesh.attacker.feeds_served
    mesh.attacker.end_feeds()
    await mesh.until(lambda: mesh.attacker.feeds_served == before + len(mesh.nodes))
    await mesh.settle()
    assert not [event for event in events if event.split()[0] in ("suspected", "failed")]
    assert received_verdicts(mesh, "mallory") == []
    await mesh.assert_intact()


async def test_a_member_that_mints_64_workers_outvotes_nobody(attacked: Any) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    minted = [f"mallory#{number}" for number in range(64)]
    signers = {worker: mesh.attacker.signer_of(worker) for worker in minted}
    mesh.attacker.send(
        *(mesh.attacker.record(node_id=worker, signer=signers[worker]) for worker in minted)
    )
    for node in mesh.nodes:
        await mesh.until(lambda n=node: n.topology.nodes.keys() >= set(minted))
    mesh.attacker.send(
        *(mesh.attacker.record(node_id=f"mallory#{number}") for number in ("64", "00", "1#1"))
    )
    mesh.attacker.minted = frozenset(minted)
    for held in (False, True):
        for node in mesh.nodes:
            record = node.topology.get_record(node.id)
            mesh.attacker.send(
                *(
                    mesh.attacker.verdict(record, Opinion.FAILED, signer=signer, held=held)
                    for signer in signers.values()
                )
            )
        await mesh.settle()
    # Nothing that is not a canonical number from 0 to 63 entered.
    await mesh.assert_intact(accused=mesh.ids)
