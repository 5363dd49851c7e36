"""Shared by the attacks: honest nodes whose events are recorded, and one attacker."""

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
    """Honest nodes, one attacker, and all events about the honest nodes."""

    def __init__(self, nodes: list[Any], attacker: Attacker, until: Any) -> None:
        self.nodes = nodes
        self.ids = {node.id for node in nodes}
        self.attacker = attacker
        self.events: list[str] = []
        self.until = until
        for node in nodes:
            node.topology.subscribe(self._record_event)

    def _record_event(self, event: Any) -> None:
        if event.node.id in self.ids:
            self.events.append(f"{event.kind} {event.node.id}")

    async def wait_until_watched(self) -> None:
        """Waits until every node reads the attacker's feed; in a mesh of this size, all do."""
        await self.until(lambda: self.attacker.watchers >= self.ids)
        await self.settle()

    async def settle(self) -> None:
        """Waits until every node has processed all that the attacker sent so far."""
        marker = self.attacker.publish_marker()
        for node in self.nodes:
            await self.until(lambda n=node: n.topology.get_service_providers(marker, "v1"))

    async def assert_intact(self, *, accused: Collection[str] = ()) -> None:
        """Checks that all topologies become equal and correct, and that no node ever failed.

        Only `accused` nodes may have been suspected, until they refuted it.
        """
        topologies = [node.topology for node in self.nodes]
        await self.until(lambda: len({t.digest for t in topologies}) == 1)
        for topology in topologies:
            assert topology.nodes.keys() - {self.attacker.id} - self.attacker.minted == self.ids
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
    """Starts honest nodes with these ids; the attacker joins through the first one."""
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
    """An attacker that has not joined yet."""
    attacker = Attacker(identity("mallory"))
    await attacker.start()
    yield attacker
    await attacker.stop()


@pytest.fixture
def victim(identity: Any, cert_dir: Path, tmp_path: Path) -> Iterator[NodeProcess]:
    """A node in its own process, so that its memory can be measured apart from the attacker's."""
    identity("a")
    node = NodeProcess("a", tmp_path / "a.log", cert_dir=str(cert_dir))
    assert node.address
    yield node
    node.kill()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    """Returns the log lines that contain all of these words."""

    def find(*words: str) -> list[str]:
        lines = [record.message for record in caplog.records]
        return [line for line in lines if all(word in line for word in words)]

    return find
