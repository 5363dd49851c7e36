"""Nodes in two zones and two regions: where calls go while those of one zone are killed."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_discovery import aio, connect

from .process import START, NodeProcess

SAY = "/test.Echo/Say"
PLACES = {"a1": "1", "a2": "1", "a3": "1", "b1": "2", "us": ""}


class Load:
    """Calls without a pause, and counts who answered since the last look."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self, call: Callable[..., Any]) -> None:
        while not self.stop.wait(0.005):
            try:
                self.answered[call(b"", timeout=10).decode().split()[0]] += 1
            except grpc.RpcError as error:
                self.failures.append(str(error))

    async def run_aio(self, call: Callable[..., Any]) -> None:
        while not self.stop.is_set():
            await asyncio.sleep(0.005)
            try:
                self.answered[(await call(b"", timeout=10)).decode().split()[0]] += 1
            except grpc.RpcError as error:
                self.failures.append(str(error))

    async def shares(self, until: Callable[..., Any], calls: int = 200) -> dict[str, float]:
        """Returns the share of each zone or region in so many further calls."""
        before = self.answered.copy()
        await until(lambda: self.answered.total() - before.total() >= calls)
        new = self.answered - before
        zones = {zone: sum(new[name] for name in new if name[0] == zone) for zone in "abu"}
        return {zone: count / new.total() for zone, count in zones.items()}


@pytest.mark.soak
@pytest.mark.timeout(4 * START)
async def test_calls_spill_over_while_nodes_of_the_callers_zone_are_killed(
    spawn: Callable[..., Any], identity: Callable[[str], TLSConfig], until: Callable[..., Any]
) -> None:
    nodes: dict[str, NodeProcess] = {}

    def begin(node_id: str) -> NodeProcess:
        region = "us" if node_id == "us" else "eu"
        seeds = list(nodes.values())[:1]
        return spawn(node_id, *seeds, region=region, zone=PLACES[node_id])

    nodes["us"] = begin("us")
    assert nodes["us"].address
    nodes |= {node_id: begin(node_id) for node_id in PLACES if node_id != "us"}
    assert all(node.address for node in nodes.values())
    place = {"region": "eu", "zone": "1"}
    seed, loads = nodes["us"].address, (Load(), Load())
    async with aio.connect(seed, tls=identity("caller"), **place) as mesh:
        blocking = await asyncio.to_thread(connect, seed, tls=identity("blocking"), **place)
        tasks = [
            asyncio.create_task(loads[0].run_aio(mesh.pool.channel("echo", "v1").unary_unary(SAY))),
            asyncio.create_task(
                asyncio.to_thread(
                    loads[1].run, blocking.pool.channel("echo", "v1").unary_unary(SAY)
                )
            ),
        ]

        def providers() -> set[int]:
            both = (mesh.topology, blocking.topology)
            return {len(topology.get_service_providers("echo", "v1")) for topology in both}

        async def expect(zone: float, rest: float) -> None:
            for load in loads:
                found = await load.shares(until)
                wanted = {"a": zone, "b": rest, "u": 0}
                assert found == pytest.approx(wanted, abs=0.02), load

        try:
            await until(lambda: providers() == {5})
            # Providers that joined while calls ran are in use after their first probe.
            await until(lambda: all({"a1", "a2", "a3"} <= set(load.answered) for load in loads))
            await expect(1, 0)
            for victim in ("a1", "a2"):
                nodes.pop(victim).signal(signal.SIGKILL)
            await until(lambda: providers() == {3})
            await expect(1.4 / 3, 1 - 1.4 / 3)
            assert begin("a1").address
            await until(lambda: providers() == {4})
            for load in loads:
                load.answered.clear()
            await until(lambda: all("a1" in load.answered for load in loads))
            await expect(2.8 / 3, 1 - 2.8 / 3)
        finally:
            for load in loads:
                load.stop.set()
            await asyncio.wait(tasks)
            await asyncio.to_thread(blocking.close)
    assert [load.failures for load in loads] == [[], []]
