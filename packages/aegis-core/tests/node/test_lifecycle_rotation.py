"""Leaf, key, bundle and CA change under load: no call fails and no stream breaks."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol, Self

import aegis_core
import aegis_discovery
import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_core import ServiceInfo
from aegis_core import aio as core_aio
from aegis_discovery import aio as discovery_aio
from cryptography import x509

from .conftest import who

pytestmark = pytest.mark.usefixtures("poll_often")
Until = Callable[[Callable[[], object]], Awaitable[None]]
PACE = 0.005
"""Seconds between two messages of a stream."""


async def ticks(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    while True:
        yield b"tick"
        await asyncio.sleep(PACE)


async def count(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
    return str(len([request async for request in requests])).encode()


async def chat(
    requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


def sync_chat(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    yield from requests


def register(server: grpc.aio.Server) -> None:
    handlers = {
        "Who": grpc.unary_unary_rpc_method_handler(who),
        "Ticks": grpc.unary_stream_rpc_method_handler(ticks),
        "Count": grpc.stream_unary_rpc_method_handler(count),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "SyncChat": grpc.stream_stream_rpc_method_handler(sync_chat),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))


class Load(Protocol):
    """Calls without pause, and open streams of every kind; counts what each of them did."""

    done: dict[str, int]
    seen: set[int]

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...


class AioLoad:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.done: dict[str, int] = {}
        self.seen: set[int] = set()
        self._channel = channel
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        works = [self._call(), self._count()]
        works += [self._read(f"Ticks-{n}") for n in range(2)]
        works += [self._talk(f"{kind}-{n}") for n in range(2) for kind in ("Chat", "SyncChat")]
        self._tasks = [asyncio.create_task(work) for work in works]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _call(self) -> None:
        method = self._channel.unary_unary("/t/Who")
        while not self._stop.is_set():
            self.seen.add(int(await method(b"", timeout=10)))
            self._did("Who")

    async def _read(self, name: str) -> None:
        stream = self._channel.unary_stream("/t/Ticks")(b"")
        while not self._stop.is_set():
            assert await stream.read() == b"tick"
            self._did(name)
        stream.cancel()

    async def _talk(self, name: str) -> None:
        stream = self._channel.stream_stream(f"/t/{name.partition('-')[0]}")()
        while not self._stop.is_set():
            await stream.write(b"hi")
            assert await stream.read() == b"hi"
            self._did(name)
            await asyncio.sleep(PACE)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF

    async def _count(self) -> None:
        stream = self._channel.stream_unary("/t/Count")()
        while not self._stop.is_set():
            await stream.write(b"x")
            self._did("Count")
            await asyncio.sleep(PACE)
        await stream.done_writing()
        assert int(await stream) == self.done["Count"]

    def _did(self, name: str) -> None:
        self.done[name] = self.done.get(name, 0) + 1


class SyncLoad:
    def __init__(self, channel: grpc.Channel) -> None:
        self.done: dict[str, int] = {}
        self.seen: set[int] = set()
        self._channel = channel
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(8)
        self._outcomes: list[Future[None]] = []

    async def __aenter__(self) -> Self:
        works: list[tuple[Callable[..., None], str]] = [(self._call, "Who"), (self._count, "Count")]
        works += [(self._read, f"Ticks-{n}") for n in range(2)]
        works += [(self._talk, f"{kind}-{n}") for n in range(2) for kind in ("Chat", "SyncChat")]
        self._outcomes = [self._threads.submit(work, name) for work, name in works]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*map(asyncio.wrap_future, self._outcomes))
        self._threads.shutdown()

    def _call(self, name: str) -> None:
        method = self._channel.unary_unary("/t/Who")
        while not self._stop.is_set():
            self.seen.add(int(method(b"", timeout=10)))
            self._did(name)

    def _read(self, name: str) -> None:
        stream = self._channel.unary_stream("/t/Ticks")(b"")
        while not self._stop.is_set():
            assert next(stream) == b"tick"
            self._did(name)
        stream.cancel()

    def _talk(self, name: str) -> None:
        said: queue.Queue[bytes] = queue.Queue()
        stream = self._channel.stream_stream(f"/t/{name.partition('-')[0]}")(iter(said.get, b""))
        while not self._stop.wait(PACE):
            said.put(b"hi")
            assert next(stream) == b"hi"
            self._did(name)
        said.put(b"")
        assert next(stream, None) is None

    def _count(self, name: str) -> None:
        def messages() -> Iterator[bytes]:
            while not self._stop.wait(PACE):
                self._did(name)
                yield b"x"

        answer = self._channel.stream_unary("/t/Count")(messages())
        assert int(answer) == self.done[name]

    def _did(self, name: str) -> None:
        self.done[name] = self.done.get(name, 0) + 1


class Mesh:
    """Two providers, one blocking and one asyncio node, with one certificate directory."""

    def __init__(self, ca: CertificateAuthority, stack: AsyncExitStack) -> None:
        self.ca = ca
        self._stack = stack
        self.nodes: list[core_aio.Node | aegis_core.Node] = []

    def _options(self, node_id: str) -> dict[str, Any]:
        self.ca.issue(node_id, key_type=KeyType.P256)
        provides = node_id.startswith("provider")
        return {
            "address": "127.0.0.1:0",
            "cert_dir": self.ca.directory,
            "grace": 0.2,
            "seed_peers": [node.address for node in self.nodes],
            "services": [ServiceInfo("who", "v1")] if provides else [],
            "registrars": [register] if provides else [],
        }

    async def aio_node(self, node_id: str) -> core_aio.Node:
        node = core_aio.Node(node_id, **self._options(node_id))
        await self._stack.enter_async_context(node)
        self.nodes.append(node)
        return node

    async def sync_node(self, node_id: str) -> aegis_core.Node:
        node = aegis_core.Node(node_id, **self._options(node_id))
        await asyncio.to_thread(node.start)
        self._stack.push_async_callback(asyncio.to_thread, node.stop)
        self.nodes.append(node)
        return node

    async def caller(self, kind: str) -> Load:
        """Returns a load by a caller of this kind, over both providers."""
        if kind == "aio node":
            return AioLoad((await self.aio_node("caller")).pool.channel("who", "v1"))
        if kind == "sync node":
            return SyncLoad((await self.sync_node("caller")).pool.channel("who", "v1"))
        self.ca.issue("caller", key_type=KeyType.P256)
        address = self.nodes[0].address
        identity: dict[str, Any] = {"node_id": "caller", "cert_dir": self.ca.directory}
        if kind == "aio client":
            aio_mesh = await discovery_aio.connect(address, **identity)
            await self._stack.enter_async_context(aio_mesh)
            return AioLoad(aio_mesh.pool.channel("who", "v1"))
        mesh = await asyncio.to_thread(aegis_discovery.connect, address, **identity)
        self._stack.push_async_callback(asyncio.to_thread, mesh.close)
        return SyncLoad(mesh.pool.channel("who", "v1"))


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    ca = CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256)
    async with AsyncExitStack() as stack:
        mesh = Mesh(ca, stack)
        await mesh.aio_node("provider-1")
        await mesh.sync_node("provider-2")
        yield mesh


@pytest.mark.parametrize("kind", ["aio node", "sync node", "aio client", "sync client"])
async def test_no_call_or_stream_fails_while_leaves_keys_bundles_and_the_ca_change(
    mesh: Mesh, until: Until, kind: str
) -> None:
    ca, (first, second) = mesh.ca, mesh.nodes[:2]
    load = await mesh.caller(kind)
    everyone = 3 if "node" in kind else 2
    await until(lambda: all(len(node.topology.nodes) == everyone for node in mesh.nodes))

    async def continues() -> None:
        marks = dict(load.done)
        await until(lambda: all(load.done[name] > marks[name] + 5 for name in marks))

    def on_disk() -> x509.Certificate:
        pem = (ca.directory / "caller-cert.pem").read_bytes()
        return x509.load_pem_x509_certificate(pem)

    async with load:
        await until(lambda: len(load.done) == 8)
        for _ in range(2):
            for node_id in ("provider-1", "provider-2", "caller"):
                ca.issue(node_id, key_type=KeyType.P256)
            now = on_disk()
            await until(lambda: now.serial_number in load.seen)  # noqa: B023 - used at once
            await continues()
        old = ca.certificate.subject
        prepared = ca.prepare_rotation(key_type=KeyType.P256)
        await until(
            lambda: all(
                view.trust_bundle in prepared.trusting
                for node in mesh.nodes
                for view in node.topology.nodes.values()
            )
        )
        await continues()
        ca.activate_rotation(distrusting=[])
        await until(lambda: all(node.tls.certificate.issuer != old for node in mesh.nodes))
        await until(lambda: on_disk().issuer != old)
        await until(lambda: on_disk().serial_number in load.seen)
        await continues()
        retired = ca.retire_rotation()
        await until(
            lambda: (
                {node.tls.bundle_fingerprint for node in mesh.nodes} == {retired.bundle_fingerprint}
            )
        )
        await continues()
        for node_id in ("provider-1", "provider-2", "caller"):
            ca.renew(node_id)
        await until(lambda: on_disk().serial_number in load.seen)
        await continues()
    assert {first.id, second.id} <= set(first.topology.nodes)
