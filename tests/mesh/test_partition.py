"""A mesh whose network is cut in two, and mends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aegis_core import NodeStatus, ServiceInfo


class Link:
    """The network in front of one node: others reach it only here, until it is cut."""

    def __init__(self) -> None:
        self.target = ""
        self.address = ""
        self._is_cut = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def mend(self) -> None:
        self._is_cut = False
        host, _, port = (self.address or "127.0.0.1:0").rpartition(":")
        self._server = await asyncio.start_server(self._pass_on, host, int(port))
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        self._is_cut = True
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        ends = {writer, back}
        if self._is_cut:  # while this connection was being made
            for end in ends:
                end.transport.abort()
            return
        self._writers |= ends
        await asyncio.gather(pump(reader, back), pump(there, writer))
        self._writers -= ends


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # it was cut
    finally:
        writer.transport.abort()


@pytest.fixture
async def links() -> AsyncIterator[dict[str, Link]]:
    made = {node_id: Link() for node_id in "ab"}
    for link in made.values():
        await link.mend()
    yield made
    for link in made.values():
        link.cut()


async def test_two_sides_hold_each_other_for_failed_and_are_one_again_when_it_mends(
    start: Any, until: Any, agree: Any, links: dict[str, Link]
) -> None:
    nodes: dict[str, Any] = {}
    for node_id, link in links.items():
        seeds = [links["a"].address] if node_id != "a" else []
        nodes[node_id] = await start(
            node_id,
            advertise=link.address,
            seed_peers=seeds,
            services=[ServiceInfo(node_id, "v1")],
            join_timeout=0,
        )
        link.target = nodes[node_id].address
    a, b = nodes.values()
    await until(lambda: agree(a, b))

    def status_of_other(node: Any) -> NodeStatus:
        (other,) = [n for n in node.topology.nodes.values() if n.id != node.id]
        return other.status

    await until(lambda: {status_of_other(a), status_of_other(b)} == {NodeStatus.ALIVE})
    for link in links.values():
        link.cut()
    await until(lambda: {status_of_other(a), status_of_other(b)} == {NodeStatus.FAILED})
    assert a.topology.get_service_providers("b", "v1") == ()
    for node in (a, b):
        changed = replace(node.topology.nodes[node.id], services=(ServiceInfo("new", "v1"),))
        node.topology.update_node(changed)
    for link in links.values():
        await link.mend()
    await until(lambda: agree(a, b))
    await until(lambda: {status_of_other(a), status_of_other(b)} == {NodeStatus.ALIVE})
    for node in (a, b):
        providers = node.topology.get_service_providers("new", "v1")
        assert [provider.id for provider in providers] == ["a", "b"]
