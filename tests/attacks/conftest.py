"""What the attacks share: honest nodes that are watched all the time, and one that lies."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from aegis_core import NodeStatus

from ..mesh.process import NodeProcess
from .attacker import Attacker


class Mesh:
    """Honest nodes, one attacker among them, and all that ever happened to the honest ones."""

    def __init__(self, nodes: list[Any], attacker: Attacker, until: Any) -> None:
        self.nodes = nodes
        self.ids = {node.id for node in nodes}
        self.attacker = attacker
        self.events: list[str] = []
        self.until = until
        for node in nodes:
            node.topology.subscribe(self._note)

    def _note(self, event: Any) -> None:
        if event.node.id in self.ids:
            self.events.append(f"{event.kind} {event.node.id}")

    async def wait_until_watched(self) -> None:
        """Waits until every node takes in what the attacker says, as in so small a mesh all do."""
        await self.until(lambda: self.attacker.watchers >= self.ids)
        await self.settle()

    async def settle(self) -> None:
        """Waits until every node has taken in all that the attacker said so far."""
        marker = self.attacker.mark()
        for node in self.nodes:
            await self.until(lambda n=node: n.topology.get_service_providers(marker, "v1"))

    async def is_right(self, *, accused: Collection[str] = ()) -> None:
        """All nodes come to know the same, and it is the truth; nobody was ever failed.

        Nor was anybody suspected, but those that the attacker may accuse: until they answer.
        """
        topologies = [node.topology for node in self.nodes]
        await self.until(lambda: len({t.digest for t in topologies}) == 1)
        for topology in topologies:
            assert topology.nodes.keys() - {self.attacker.id} == self.ids
            for node in self.nodes:
                found = topology.nodes[node.id]
                assert found.address == node.address
                assert found.services == node.topology.nodes[node.id].services
                assert found.vouched_by is None
            await self.until(lambda t=topology: self._all_alive(t))
        wrong = [e for e in self.events if e.split()[0] in ("failed", "left", "expired", "revoked")]
        assert wrong == []
        suspected = {e.split()[1] for e in self.events if e.startswith("suspected ")}
        assert suspected <= set(accused)

    def _all_alive(self, topology: Any) -> bool:
        return {topology.nodes[i].status for i in self.ids} == {NodeStatus.ALIVE}


StartMesh = Callable[..., Awaitable[Mesh]]


@pytest.fixture
async def attacked(
    start: Any, identity: Any, until: Any, agree: Any, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[StartMesh]:
    """Starts honest nodes with these ids, and lets the attacker join at the first."""
    attackers: list[Attacker] = []
    caplog.set_level(logging.WARNING, "aegis")

    async def start_mesh(*ids: str) -> Mesh:
        nodes: list[Any] = []
        for node_id in ids or ("a", "b", "c"):
            nodes.append(await start(node_id, *nodes[:1]))
        await until(lambda: agree(*nodes))
        attacker = Attacker(identity("mallory"))
        attackers.append(attacker)
        await attacker.start()
        mesh = Mesh(nodes, attacker, until)
        await attacker.join(nodes[0])
        return mesh

    yield start_mesh
    for attacker in attackers:
        await attacker.stop()


@pytest.fixture
async def attacker(identity: Any) -> AsyncIterator[Attacker]:
    """One that lies, and has not joined anybody yet."""
    attacker = Attacker(identity("mallory"))
    await attacker.start()
    yield attacker
    await attacker.stop()


@pytest.fixture
def victim(identity: Any, cert_dir: Path, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node in a process of its own, so that what it holds can be told from what others send."""
    identity("a")
    node = NodeProcess("a", tmp_path / "a.log", cert_dir=str(cert_dir))
    assert node.address
    yield node
    node.kill()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    """Finds the lines of the log in which all of these words are."""

    def find(*words: str) -> list[str]:
        lines = [record.message for record in caplog.records]
        return [line for line in lines if all(word in line for word in words)]

    return find
