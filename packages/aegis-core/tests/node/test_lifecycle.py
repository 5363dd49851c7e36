"""The mesh survives expiry, renewal and revocation of certificates, and a rotation of the CA."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_core import ServiceInfo
from aegis_core._access.authorization import CallerVerifier
from aegis_core._access.caller import Caller
from aegis_core.aio import Node
from aegis_discovery import aio as discovery_aio

from .conftest import ticks, who

pytestmark = pytest.mark.usefixtures("poll_often")
Until = Callable[[Callable[[], object]], Awaitable[None]]
StartNode = Callable[..., Awaitable[Node]]
DAY = 86400


async def flood(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 10_000


def register(server: grpc.aio.Server) -> None:
    handlers = {
        "Who": grpc.unary_unary_rpc_method_handler(who),
        "Ticks": grpc.unary_stream_rpc_method_handler(ticks),
        "Flood": grpc.unary_stream_rpc_method_handler(flood),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", handlers),))


@pytest.fixture
def own_ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256)


@pytest.fixture
async def start(own_ca: CertificateAuthority) -> AsyncIterator[StartNode]:
    async with AsyncExitStack() as stack:

        async def start_node(node_id: str, *seeds: Node, days: float = 90, **options: Any) -> Node:
            if "tls" not in options:
                own_ca.issue(node_id, key_type=KeyType.P256, days=days)
                options["cert_dir"] = own_ca.directory
            options.setdefault("seed_peers", [seed.address for seed in seeds])
            node = Node(
                node_id,
                address="127.0.0.1:0",
                grace=0.2,
                services=[ServiceInfo("who", "v1")] if node_id.startswith("provider") else (),
                registrars=[register],
                **options,
            )
            await stack.enter_async_context(node)
            return node

        yield start_node


class Load:
    """Calls a service without pause, and records the certificates that the service saw."""

    def __init__(self, node: Node) -> None:
        self.seen: set[int] = set()
        self.calls = 0
        self._method = node.pool.channel("who", "v1").unary_unary("/test.Who/Who")
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call()) for _ in range(3)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), outcome

    async def _call(self) -> None:
        while True:
            self.seen.add(int(await self._method(b"", timeout=5)))
            self.calls += 1
            await asyncio.sleep(0.002)


def serial_of(node: Node) -> int:
    return node.tls.certificate.serial_number


async def test_a_node_renews_in_time_with_a_new_key_and_no_call_fails(
    start: StartNode, until: Until
) -> None:
    provider = await start("provider", days=8 / DAY)
    caller = await start("caller", provider, days=8 / DAY)
    first = (serial_of(caller), caller.tls.private_key, caller.tls.not_after)
    served = provider.tls.certificate
    async with Load(caller) as load:
        await until(lambda: serial_of(caller) != first[0])
        await until(lambda: provider.tls.certificate != served)
        await until(lambda: serial_of(caller) in load.seen)
        assert caller.tls.private_key != first[1]
        assert caller.tls.not_after > first[2]
        await until(lambda: caller.get_certificate("provider") == provider.tls.certificate)


async def test_a_changed_file_is_loaded_and_a_bad_file_is_refused(
    start: StartNode, own_ca: CertificateAuthority, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    node = await start("a")
    events: list[str] = []
    node.subscribe_identity(lambda event: events.append(str(event.kind)))
    before = node.tls
    own_ca.issue("a", key_type=KeyType.P256)
    await until(lambda: events == ["changed"])
    good = node.tls
    assert good.private_key != before.private_key
    path = own_ca.directory / "a-cert.pem"
    kept = path.read_bytes()
    with caplog.at_level(logging.ERROR, "aegis"):
        path.write_text("-----BEGIN CERTIFICATE-----\ntorn")
        await until(lambda: events == ["changed", "refused"])
    assert node.tls is good
    assert "a keeps its identity" in caplog.text
    path.write_bytes(kept)
    own_ca.issue("a", key_type=KeyType.P256)
    await until(lambda: events[-1] == "changed")


async def test_a_revoked_node_is_cut_off_on_open_and_new_streams_and_leaves_the_topology(
    start: StartNode, own_ca: CertificateAuthority, until: Until
) -> None:
    provider = await start("provider-1")
    other = await start("provider-2", provider)
    await until(lambda: len(provider.topology.nodes) == 2)
    stray = own_ca.issue_in_memory("provider-2", key_type=KeyType.P256)
    assert stray.trust_bundle == other.tls.trust_bundle
    channel = other.pool.get_conn("who", "v1")
    stream = other.pool.channel("who", "v1").unary_stream("/test.Who/Ticks")(b"")
    assert await stream.read() == b"tick"
    own_ca.revoke("provider-2")

    async def drained() -> grpc.StatusCode:
        try:
            while True:
                await stream.read()
        except grpc.aio.AioRpcError as error:
            return error.code()

    await until(lambda: "provider-2" not in provider.topology.nodes)
    code = await asyncio.wait_for(drained(), 10)
    assert code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}
    assert [n.id for n in provider.topology.get_service_providers("who", "v1")] == ["provider-1"]
    del channel
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await provider_call(other)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "is revoked" in str(refused.value.details())


async def provider_call(node: Node) -> bytes:
    for _ in range(10):
        method = node.pool.get_conn("who", "v1").unary_unary("/test.Who/Who")
        answer: bytes = await method(b"", timeout=5)
    return answer


@pytest.mark.parametrize("kind", ["Ticks", "Flood"])
async def test_a_connection_does_not_outlive_its_certificate(
    start: StartNode, own_ca: CertificateAuthority, until: Until, kind: str
) -> None:
    provider = await start("provider")
    brief = own_ca.issue_in_memory("brief", days=5 / DAY, client_only=True)
    async with await discovery_aio.connect(provider.address, tls=brief) as mesh:
        channel = mesh.pool.channel("who", "v1")
        stream = channel.unary_stream(f"/test.Who/{kind}")(b"")
        method = channel.unary_unary("/test.Who/Who")
        assert await stream.read()
        assert await method(b"", timeout=5)
        soon = brief.not_after - timedelta(seconds=1)
        await until(lambda: datetime.now(UTC) > soon)  # a flood takes all of a processor

        async def read_on() -> None:
            while True:
                await stream.read()

        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asyncio.wait_for(read_on(), 15)
        assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "has expired" in str(ended.value.details())
        with pytest.raises(grpc.aio.AioRpcError):
            await method(b"", timeout=5)


async def test_the_ca_rotates_under_load_without_a_restart_or_a_failed_call(
    start: StartNode, own_ca: CertificateAuthority, until: Until
) -> None:
    provider = await start("provider")
    caller = await start("caller", provider)
    nodes = (provider, caller)
    await until(lambda: len(provider.topology.nodes) == 2)
    old = own_ca.certificate.subject
    async with Load(caller) as load:
        stream = caller.pool.channel("who", "v1").unary_stream("/test.Who/Ticks")(b"")
        assert await stream.read() == b"tick"
        prepared = own_ca.prepare_rotation(key_type=KeyType.P256)

        def trusting() -> bool:
            views = [view for node in nodes for view in node.topology.nodes.values()]
            return all(view.trust_bundle in prepared.trusting for view in views)

        await until(trusting)
        own_ca.activate_rotation(distrusting=[])
        await until(lambda: all(node.tls.certificate.issuer != old for node in nodes))
        await until(lambda: serial_of(caller) in load.seen)
        reached = load.calls
        retired = own_ca.retire_rotation()
        await until(
            lambda: {n.tls.bundle_fingerprint for n in nodes} == {retired.bundle_fingerprint}
        )
        await until(lambda: load.calls > reached + 50)
        assert await stream.read() == b"tick"
        stream.cancel()
    assert all(len(node.topology.nodes) == 2 for node in nodes)


async def test_a_client_loads_its_renewed_certificate(
    start: StartNode, own_ca: CertificateAuthority, until: Until
) -> None:
    provider = await start("provider")
    own_ca.issue("client", key_type=KeyType.P256)
    async with await discovery_aio.connect(
        provider.address, node_id="client", cert_dir=own_ca.directory
    ) as mesh:
        renewed = own_ca.issue("client", key_type=KeyType.P256).certificate.serial_number
        method = mesh.pool.channel("who", "v1").unary_unary("/test.Who/Who")
        seen: set[int] = set()
        for _ in range(500):
            seen.add(int(await method(b"", timeout=5)))
            if renewed in seen:
                break
            await asyncio.sleep(0.02)
        assert renewed in seen
        await until(lambda: "provider" in mesh.topology.nodes)


@pytest.mark.parametrize(
    ("version", "refused"), [("TLSv1.3", False), ("", False), ("TLSv1.2", True)]
)
def test_only_tls_1_3_is_accepted(
    own_ca: CertificateAuthority, version: str, refused: bool
) -> None:
    certificate = own_ca.issue_in_memory("a").certificate
    caller = Caller("a", certificate, tls_version=version, not_after=1.0)
    assert bool(CallerVerifier(own_ca.bundle, clock=lambda: 0.0).check(caller)) is refused


async def test_a_client_does_not_call_a_provider_whose_certificate_is_revoked(
    start: StartNode, own_ca: CertificateAuthority, until: Until
) -> None:
    seed = await start("seed")
    await start("provider-1", seed)
    await start("provider-2", seed)
    own_ca.issue("client", key_type=KeyType.P256)
    async with await discovery_aio.connect(
        seed.address, node_id="client", cert_dir=own_ca.directory
    ) as mesh:

        def providers() -> list[str]:
            return [node.id for node in mesh.topology.get_service_providers("who", "v1")]

        await until(lambda: providers() == ["provider-1", "provider-2"])
        own_ca.revoke("provider-1")
        await until(lambda: providers() == ["provider-2"])
        method = mesh.pool.channel("who", "v1").unary_unary("/test.Who/Who")
        assert len({await method(b"", timeout=5) for _ in range(4)}) == 1
