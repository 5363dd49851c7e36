"""Running nodes and simulated ones obey the same session: a rule broken in it fails in both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest
from aegis_certs import TLSConfig
from aegis_core import PeerInfo
from aegis_core._peers.session import Session
from aegis_core.aio import Node
from aegis_core.simulation import Simulation, UnmetError
from aegis_core.simulation._process import Process
from aegis_discovery import NodeIdInUseError, NodeStatus, Topology

Condition = Callable[[], bool]


class Mesh(Protocol):
    """A mesh of the nodes a, b and c that know each other."""

    def topology(self, node_id: str) -> Topology: ...
    async def kill(self, node_id: str) -> None: ...
    async def leave(self, node_id: str) -> None: ...
    async def start(self, node_id: str, *seeds: str) -> bool:
        """Starts a process, also beside one that runs; returns whether it did not give way."""

    def meet(self, node_id: str, other: str) -> Condition:
        """Adds a peer to the latest process of a node; returns whether that one gave way."""

    async def happens(self, condition: Condition, within: float) -> bool: ...


class RealMesh:
    """Nodes on loopback."""

    def __init__(self, identity: Callable[[str], TLSConfig], stack: AsyncExitStack) -> None:
        self._identity = identity
        self._stack = stack
        self._nodes: dict[str, Node] = {}
        self._killed: dict[str, str] = {}

    async def start(self, node_id: str, *seeds: str) -> bool:
        address = self._killed.pop(node_id, "127.0.0.1:0")
        addresses = [self._nodes[seed].address for seed in seeds]
        tls = self._identity(node_id)
        node = Node(node_id, address=address, seed_peers=addresses, tls=tls, grace=0.2)
        try:
            self._nodes[node_id] = await self._stack.enter_async_context(node)
        except NodeIdInUseError:
            return False
        return True

    def meet(self, node_id: str, other: str) -> Condition:
        node = self._nodes[node_id]
        node.add_peer(PeerInfo(other, self._nodes[other].address))
        return lambda: isinstance(node.failure, NodeIdInUseError)

    def topology(self, node_id: str) -> Topology:
        return self._nodes[node_id].topology

    async def kill(self, node_id: str) -> None:
        node = self._nodes[node_id]
        running = node._running
        self._killed[node_id] = node.address
        assert running is not None
        running.state.on_failure(RuntimeError("killed"))  # ends without leaving the mesh
        with pytest.raises(RuntimeError, match="killed"):
            await node.wait_for_termination()

    async def leave(self, node_id: str) -> None:
        await self._nodes[node_id].stop()

    async def happens(self, condition: Condition, within: float) -> bool:
        deadline = asyncio.get_running_loop().time() + within
        while not condition():
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(0.02)
        return True


class SimulatedMesh:
    """The same nodes in virtual time."""

    def __init__(self) -> None:
        self._simulation = Simulation(["a", "b", "c"])

    async def start(self, node_id: str, *seeds: str) -> bool:
        world = self._simulation._world
        before = world.processes[node_id]
        address = before.address if before.has_ended else f"{node_id}:7001"
        process = Process(world, node_id, seeds=seeds, address=address)
        process.start()
        if not process.has_ended:
            world.processes[node_id] = process
        return not process.has_ended

    def meet(self, node_id: str, other: str) -> Condition:
        process = self._simulation._world.processes[node_id]
        process.session.peers.add(PeerInfo(other, f"{other}:7000"))
        return lambda: process.has_ended

    def topology(self, node_id: str) -> Topology:
        return self._simulation.topology_of(node_id)

    async def kill(self, node_id: str) -> None:
        self._simulation.kill(node_id)

    async def leave(self, node_id: str) -> None:
        self._simulation.leave(node_id)

    async def happens(self, condition: Condition, within: float) -> bool:
        try:
            self._simulation.run_until(condition, within=within)
        except UnmetError:
            return False
        return True


@pytest.fixture(params=["real", "simulated"])
async def mesh(request: Any, identity: Callable[[str], TLSConfig]) -> AsyncIterator[Mesh]:
    if request.param == "simulated":
        yield SimulatedMesh()
        return
    async with AsyncExitStack() as stack:
        real = RealMesh(identity, stack)
        await real.start("a")
        await real.start("b", "a")
        await real.start("c", "a")
        assert await real.happens(lambda: is_one_mesh(real), within=10)
        yield real


def status(mesh: Mesh, subject: str, by: str) -> NodeStatus | None:
    topology = mesh.topology(by)
    node = topology.get_node(subject)
    if node is not None:
        return node.status
    return NodeStatus.LEFT if topology.get_record(subject) else None


def is_one_mesh(mesh: Mesh) -> bool:
    return len({mesh.topology(by).digest for by in "abc"}) == 1 and all(
        status(mesh, node_id, by=by) is NodeStatus.ALIVE
        for node_id in "abc"
        for by in "abc"
        if node_id != by
    )


async def a_failed_node_that_knows_nobody_is_found_again(mesh: Mesh) -> bool:
    await mesh.kill("c")
    assert await mesh.happens(
        lambda: all(status(mesh, "c", by=by) is NodeStatus.FAILED for by in "ab"), within=15
    )
    await mesh.start("c")
    return await mesh.happens(lambda: is_one_mesh(mesh), within=8)


async def a_second_process_under_one_id_does_not_start(mesh: Mesh) -> bool:
    return not await mesh.start("b", "a")


async def the_younger_of_two_processes_under_one_id_gives_way(mesh: Mesh) -> bool:
    assert await mesh.start("b")
    return await mesh.happens(mesh.meet("b", "a"), within=5)


async def a_node_that_stops_has_left(mesh: Mesh) -> bool:
    ends = (NodeStatus.LEFT, NodeStatus.FAILED)
    await mesh.leave("c")
    assert await mesh.happens(
        lambda: all(status(mesh, "c", by=by) in ends for by in "ab"), within=15
    )
    return all(status(mesh, "c", by=by) is NodeStatus.LEFT for by in "ab")


RULES = {
    "_recover": a_failed_node_that_knows_nobody_is_found_again,
    "holder_answered": a_second_process_under_one_id_does_not_start,
    "foreign_record_received": the_younger_of_two_processes_under_one_id_gives_way,
    "leave": a_node_that_stops_has_left,
}


@pytest.mark.parametrize("rule", RULES)
async def test_a_rule_of_the_session_holds_on_sockets_and_in_the_simulation(
    mesh: Mesh, rule: str
) -> None:
    assert await RULES[rule](mesh)


@pytest.mark.parametrize("rule", RULES)
async def test_a_broken_rule_of_the_session_shows_on_sockets_and_in_the_simulation(
    mesh: Mesh, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Instead of any of them a session does nothing, or closes its feeds and writes no tombstone.
    broken: Callable[..., None] = Session.close if rule == "leave" else lambda *_: None
    monkeypatch.setattr(Session, rule, broken)
    assert not await RULES[rule](mesh)
