"""A member of the mesh lies about who is alive."""

from __future__ import annotations

from typing import Any

from aegis_core._membership.rings import Rings
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import Opinion


def verdicts_heard(mesh: Any, subject: str) -> list[mesh_pb2.SignedVerdict]:
    """What the attacker was told that honest nodes say of one of them."""
    return [
        signed
        for message in mesh.attacker.heard
        for signed in message.verdicts
        if mesh_pb2.VerdictBody.FromString(signed.body).subject == subject
    ]


async def test_one_that_accuses_everybody_again_and_again_fails_nobody(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    for round_ in range(3):
        before = [node.topology.get_record(node.id).stamp for node in mesh.nodes]
        mesh.attacker.tell(
            *(
                mesh.attacker.verdict(
                    node.topology.get_record(node.id), Opinion.FAILED, held=round_ == 2
                )
                for node in mesh.nodes
            )
        )
        await mesh.settle()
        for node, stamp in zip(mesh.nodes, before, strict=True):
            await mesh.until(
                lambda n=node, s=stamp: n.topology.get_record(n.id).stamp > s  # it answers
            )
    # The last round holds for an hour, whatever is answered; nobody waits for that.
    await mesh.is_right(accused=mesh.ids)
    mesh.events.clear()
    for node_id in sorted(mesh.ids):
        await mesh.until(lambda i=node_id: logged(f"mallory maintains that {i} is failed"))
    await mesh.is_right()


async def test_one_that_accuses_whom_it_does_not_observe_is_not_heeded(
    attacked: Any, logged: Any
) -> None:
    ids = tuple("abcdefgh")
    mesh = await attacked(*ids)
    rings = Rings()
    for node_id in (*ids, mesh.attacker.id):
        rings.place(node_id, can_observe=True)
    others = [i for i in ids if mesh.attacker.id not in rings.observers(i)]
    assert others, "in a mesh of nine, five observers are not everybody"
    accused = next(node for node in mesh.nodes if node.id == others[0])
    await mesh.until(lambda: mesh.attacker.watchers & mesh.ids)
    await mesh.settle()
    mesh.events.clear()
    # Once is no reason to name it: all beyond a partition that heals do so.
    for _ in range(2):
        record = accused.topology.get_record(accused.id)
        mesh.attacker.tell(mesh.attacker.verdict(record, Opinion.FAILED, held=True))
        await mesh.settle()
        await mesh.until(
            lambda stamp=record.stamp: accused.topology.get_record(accused.id).stamp > stamp
        )
    await mesh.until(
        lambda: logged(f"mallory says that {accused.id} is failed, but is not its observer")
    )
    await mesh.is_right()
    assert f"suspected {accused.id}" not in mesh.events


async def test_an_accusation_in_anothers_name_is_refused(attacked: Any, logged: Any) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    _, b, c = mesh.nodes
    life = b.topology.get_record("b").instance
    mesh.attacker.tell(
        mesh.attacker.verdict(
            c.topology.get_record("c"), Opinion.FAILED, accuser="b", accuser_instance=life
        )
    )
    await mesh.settle()
    assert [node.topology.get_verdict("c", "b") for node in mesh.nodes] == [None] * 3
    await mesh.is_right()
    assert logged("from mallory: verdict of b refused: it was signed by mallory")
    assert "suspected c" not in mesh.events


async def test_an_old_accusation_of_an_honest_node_does_not_hold_again(attacked: Any) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    _, b, c = mesh.nodes
    stamp = c.topology.get_record("c").stamp
    b.topology.publish_verdict("c", Opinion.SUSPECT)
    await mesh.until(lambda: verdicts_heard(mesh, "c"))
    caught = verdicts_heard(mesh, "c")[:1]
    for node in mesh.nodes:
        await mesh.until(lambda n=node: n.topology.get_record("c").stamp > stamp)
    await mesh.is_right(accused={"c"})
    mesh.events.clear()
    answered = c.topology.get_record("c").stamp
    mesh.attacker.tell(*caught)
    await mesh.settle()
    await mesh.is_right()
    assert "suspected c" not in mesh.events
    assert c.topology.get_record("c").stamp == answered, "it was answered once, and that holds"


async def test_a_verdict_of_another_mesh_or_on_the_accuser_itself_is_refused(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    record = mesh.nodes[1].topology.get_record("b")
    own = mesh.nodes[1].topology.get_record("mallory")
    mesh.attacker.tell(
        mesh.attacker.verdict(record, Opinion.FAILED, mesh="elsewhere"),
        mesh.attacker.verdict(own, Opinion.CLEAR),
        mesh.attacker.verdict(record, Opinion.FAILED, stamp=2**63),
        mesh.attacker.verdict(record, Opinion.FAILED, expires_at=2**62),
    )
    await mesh.settle()
    await mesh.is_right()
    assert [node.topology.get_verdict("b", "mallory") for node in mesh.nodes] == [None] * 3
    for reason in (
        "it is not a verdict of this mesh",
        "a node cannot accuse itself",
        "s ahead of this clock (limit 300)",
        "its lease is too long",
    ):
        assert logged("from mallory: verdict of mallory refused: ", reason)


async def test_one_that_only_ends_its_feeds_in_order_is_asked_again_and_not_suspected(
    attacked: Any,
) -> None:
    mesh = await attacked()
    await mesh.wait_until_watched()
    said: list[str] = []
    for node in mesh.nodes:
        node.topology.subscribe(lambda event: said.append(f"{event.kind} {event.node.id}"))
    before = mesh.attacker.feeds_served
    mesh.attacker.end_feeds()
    await mesh.until(lambda: mesh.attacker.feeds_served == before + len(mesh.nodes))
    await mesh.settle()
    assert not [line for line in said if line.split()[0] in ("suspected", "failed")]
    assert verdicts_heard(mesh, "mallory") == []
    await mesh.is_right()
