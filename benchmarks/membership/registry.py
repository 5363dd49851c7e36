"""Rows of a mesh in etcd: a real cluster on loopback, with certificates of the mesh's CA."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_discovery import DEFAULT_MESH, EventKind
from aegis_discovery.aio import Mesh, connect
from aegis_discovery.proto import aegis_pb2
from aegis_discovery.registry import Keys, encode_record_entry
from population import Population
from process_group import PATIENCE, Worker
from table import Measured, Row

sys.path.append(str(Path(__file__).parents[2] / "tests" / "registry"))

from etcd import Etcd

AT_ONCE = 64
"""Registrations at the same time, over one connection."""

CHANGES = 500
CHANGE_EVERY = 0.02
AWAY = 60.0
KEYS = Keys("aegis", DEFAULT_MESH)
RUNNING = 20
"""Processes of nodes in the last three rows; in the others, nodes have records only."""

STARTED_AT_ONCE = 4


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that must happen."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - many things change it
            await asyncio.sleep(0.01)


class Load:
    """Calls a service from several tasks all the time."""

    def __init__(self, mesh: Mesh) -> None:
        self._ping = mesh.pool.channel("echo", "v1").unary_unary(
            "/aegis.MeshService/Ping",
            request_serializer=aegis_pb2.PingRequest.SerializeToString,
        )
        self.calls = 0
        self.failures: list[str] = []

    @classmethod
    @asynccontextmanager
    async def on(cls, mesh: Mesh) -> AsyncIterator[Load]:
        load = cls(mesh)
        tasks = [asyncio.create_task(load._run()) for _ in range(4)]
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        request = aegis_pb2.PingRequest(sender_id="client")
        while True:
            self.calls += 1
            try:
                await self._ping(request, timeout=10)
            except grpc.aio.AioRpcError as error:
                self.failures.append(str(error))
            await asyncio.sleep(0.01)


class Setting:
    """A cluster, the CA, a client's identity, and nodes that run."""

    def __init__(self, folder: Path, members: int) -> None:
        (folder / "ca").mkdir(mode=0o700)
        self.ca = CertificateAuthority.create(folder / "ca")
        self.tls: TLSConfig = self.ca.issue("client", key_type=KeyType.P256)
        self.etcd = Etcd(folder, self.ca, members, is_durable=True)
        self.workers: dict[str, Worker] = {}

    async def start_nodes(self, nodes: int) -> None:
        gate = asyncio.Semaphore(STARTED_AT_ONCE)
        ids = [f"node-{number}" for number in range(nodes)]
        for node_id in ids:
            self.ca.issue(node_id, key_type=KeyType.P256)

        async def start(node_id: str) -> None:
            options = {
                "id": node_id,
                "cert_dir": str(self.ca.directory),
                "registry": self.etcd.url,
            }
            async with gate:
                worker = self.workers[node_id] = await Worker.start("node.py", options)
                await worker.wait(lambda message: "ready" in message)

        await asyncio.gather(*map(start, ids))

    def failed(self) -> list[str]:
        """Returns the failures of nodes that the nodes have seen."""
        return [
            str(message["id"])
            for worker in self.workers.values()
            for message in worker.messages
            if message.get("kind") == EventKind.FAILED
        ]


@asynccontextmanager
async def setting(members: int = 1) -> AsyncIterator[Setting]:
    with tempfile.TemporaryDirectory() as folder:
        made = Setting(Path(folder), members)
        made.etcd.start()
        try:
            await made.etcd.wait_ready(made.tls)
            yield made
        finally:
            await asyncio.gather(*(worker.kill() for worker in made.workers.values()))
            made.etcd.kill()


@asynccontextmanager
async def running(nodes: int, members: int = 1) -> AsyncIterator[tuple[Setting, Mesh, Load]]:
    """Starts nodes in etcd, a client, and calls."""
    async with setting(members) as made:
        await made.start_nodes(nodes)
        async with (
            connect(registry=made.etcd.url, tls=made.tls) as mesh,
            Load.on(mesh) as load,
        ):
            await until(lambda: mesh.topology.node_count == nodes)
            yield made, mesh, load


async def register(nodes: int) -> Measured:
    async with setting() as made:
        population = await asyncio.to_thread(lambda: list(Population(made.ca).make(nodes)))
        entries = [
            (KEYS.node(one.record.id), encode_record_entry(one.record, (one.certificate,)))
            for one in population
        ]
        gate = asyncio.Semaphore(AT_ONCE)
        async with (
            connect(registry=made.etcd.url, tls=made.tls) as mesh,
            made.etcd.member(made.tls) as member,
        ):

            async def one(key: bytes, value: bytes) -> None:
                async with gate:
                    await member.put(key, value, await member.grant(3600))

            began = time.monotonic()
            await asyncio.gather(*(one(key, value) for key, value in entries))
            written = time.monotonic() - began
            await until(lambda: mesh.topology.node_count == nodes)
            known = time.monotonic() - began
    note = f"a lease and a key each; verified by a client after {known:.1f} s"
    return Measured((written,), note)


async def watch(nodes: int) -> Measured:
    async with setting() as made:
        population = await asyncio.to_thread(lambda: list(Population(made.ca).make(nodes)))
        async with made.etcd.member(made.tls) as member:
            for one in population:
                value = encode_record_entry(one.record, (one.certificate,))
                await member.put(KEYS.node(one.record.id), value, 0)
            async with connect(registry=made.etcd.url, tls=made.tls) as mesh:
                known: asyncio.Queue[float] = asyncio.Queue()
                mesh.topology.subscribe(lambda _: known.put_nowait(time.perf_counter()))
                delays: list[float] = []
                for one in population[:CHANGES]:
                    value = encode_record_entry(one.changed(), (one.certificate,))
                    key, began = KEYS.node(one.record.id), time.perf_counter()
                    await member.put(key, value, 0)
                    delays.append((await known.get() - began) * 1000)
                    await asyncio.sleep(CHANGE_EVERY)
    cuts = statistics.quantiles(delays, n=100)
    return Measured((cuts[49], cuts[98]), f"{CHANGES} changes, from the write to the topology")


async def away(nodes: int) -> Measured:
    async with running(nodes, 3) as (made, _mesh, load):
        leader = await made.etcd.leader(made.tls)
        made.etcd.kill(leader)
        await asyncio.sleep(5)
        made.etcd.kill()
        await asyncio.sleep(AWAY)
        failed = [*made.failed()]
        began = time.monotonic()
        made.etcd.start()
        await made.etcd.wait_ready(made.tls)
        # Nodes are there again if they can write: each writes a record that it has just changed.
        for number, worker in enumerate(made.workers.values()):
            worker.send("rename", f"back-{number}")
        async with asyncio.timeout(PATIENCE):
            await made.etcd.until(lambda: _all_back(made, nodes))
        registered = time.monotonic() - began
        await asyncio.sleep(1)
        failures, calls = len(load.failures), load.calls
    note = f"{calls} calls, {len(failed) + len(made.failed())} nodes failed meanwhile"
    return Measured((failures, registered), note)


async def _all_back(made: Setting, nodes: int) -> bool:
    held = await made.etcd.contents(made.tls)
    return sum(b"back-" in value for value in held.values()) == nodes


async def kill(nodes: int) -> Measured:
    async with running(nodes) as (made, mesh, load):
        victim = "node-0"
        since = {node_id: len(worker.messages) for node_id, worker in made.workers.items()}
        known: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        def on_event(event: object) -> None:
            node = getattr(event, "node", None)
            is_it = node is not None and node.id == victim and node.status == "failed"
            if is_it and not known.done():
                known.set_result(time.monotonic())

        mesh.topology.subscribe(on_event)
        began = time.monotonic()
        await made.workers[victim].kill()
        async with asyncio.timeout(PATIENCE):
            seen = [await known]
        for node_id, worker in made.workers.items():
            if node_id != victim:
                message = await worker.wait(
                    lambda m: m.get("kind") == EventKind.FAILED and m.get("id") == victim,
                    since=since[node_id],
                )
                seen.append(float(message["at"]))
        failures, calls = len(load.failures), load.calls
    return Measured((failures, max(seen) - began), f"{calls} calls, {nodes} nodes and a client")


async def delete(nodes: int) -> Measured:
    async with running(nodes) as (made, _mesh, load):
        async with made.etcd.member(made.tls) as member:
            for _ in range(10):
                for node_id in made.workers:
                    await member.delete(KEYS.node(node_id))
                await asyncio.sleep(1)
        await asyncio.sleep(10)
        failed, failures, calls = len(made.failed()), len(load.failures), load.calls
        held = len(await made.etcd.keys(made.tls))
    note = f"all keys deleted ten times; {held} are there again; {failures} of {calls} calls failed"
    return Measured((failed,), note)


def run(measure: Callable[[int], Awaitable[Measured]]) -> Callable[[int], Measured]:
    async def measured(nodes: int) -> Measured:
        return await measure(nodes)

    return lambda nodes: asyncio.run(measured(nodes))


ROWS = (
    Row("etcd-start", "all nodes register in etcd", (5.0,), "s", 2000, run(register)),
    Row("etcd-watch", "a change reaches a client, p50 / p99", (5.0, 50.0), "ms", 2000, run(watch)),
    Row("etcd-away", "calls failed / nodes there again", (0, 10.0), "calls, s", RUNNING, run(away)),
    Row("etcd-kill", "calls failed / known to all", (0, 13.0), "calls, s", RUNNING, run(kill)),
    Row("etcd-keys", "living nodes failed after a deletion", (0,), "nodes", RUNNING, run(delete)),
)
