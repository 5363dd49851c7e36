"""Callers with a bad certificate or an old TLS version are refused on calls and open streams."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_core import caller_from_context
from aegis_core._access.authorization import MAX_DECISIONS, CallerVerifier
from aegis_core._access.caller import Caller
from aegis_core.aio import Node
from aegis_discovery.aio.transport import open_channel
from cryptography import x509

from .conftest import ticks, who

pytestmark = pytest.mark.usefixtures("poll_often")
Until = Callable[[Callable[[], object]], Awaitable[None]]
REFUSED = grpc.StatusCode.UNAUTHENTICATED
SHORT = 5 / 86400
"""Days."""


async def hang(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    yield b"one"
    await asyncio.Event().wait()


async def pushed(request: bytes, context: grpc.aio.ServicerContext) -> None:
    while True:
        await context.write(b"tick")
        await asyncio.sleep(0.02)


async def stubborn(request: bytes, context: grpc.aio.ServicerContext) -> None:
    """Suppresses the first two cancellations, as careless handlers do."""
    await context.write(b"one")
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()


async def upload(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
    return str(len([request async for request in requests])).encode()


async def chat(
    requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


def sync_ticks(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    while True:
        yield b"tick"
        time.sleep(0.02)


def sync_upload(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    return str(len(list(requests))).encode()


def sync_mute(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """Reads requests and sends no response."""
    for _ in requests:
        yield from ()


DOWN = {
    "Ticks": ticks,
    "Hang": hang,
    "Pushed": pushed,
    "Stubborn": stubborn,
    "SyncTicks": sync_ticks,
}
UP = {"Upload": upload, "SyncUpload": sync_upload}
BOTH = {"Chat": chat, "SyncMute": sync_mute}


def register(server: grpc.aio.Server) -> None:
    handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    handlers |= {name: grpc.unary_stream_rpc_method_handler(h) for name, h in DOWN.items()}
    handlers |= {name: grpc.stream_unary_rpc_method_handler(h) for name, h in UP.items()}
    handlers |= {name: grpc.stream_stream_rpc_method_handler(h) for name, h in BOTH.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))


@pytest.fixture
def own_ca(tmp_path: Path) -> CertificateAuthority:
    # Old enough to have issued certificates that have expired.
    past = datetime.now(UTC) - timedelta(days=3)
    return CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256, at=past)


@pytest.fixture
async def node(own_ca: CertificateAuthority, server: str) -> AsyncIterator[Node]:
    own_ca.issue("node", key_type=KeyType.P256)
    options: dict[str, Any] = {"cert_dir": own_ca.directory, "registrars": [register]}
    async with Node("node", address="127.0.0.1:0", grace=0, **options) as running:
        yield running


class Client:
    """A client with one connection, which keeps streams of every kind busy."""

    def __init__(self, node: Node, tls: TLSConfig) -> None:
        self.channel = open_channel(tls, "node", node.address)
        self._tasks: list[asyncio.Task[None]] = []
        self.received: dict[str, int] = {}
        self.writes = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self.channel.close()

    async def who(self) -> bytes:
        answer: bytes = await self.channel.unary_unary("/t/Who")(b"", timeout=5)
        return answer

    def open_all(self, *but: str) -> dict[str, grpc.aio.Call]:
        calls: dict[str, grpc.aio.Call] = {}
        for name in DOWN.keys() - {*but}:
            calls[name] = self.channel.unary_stream(f"/t/{name}")(b"")
            self._begin(self._read(name, calls[name]))
        for name in UP:
            calls[name] = self.channel.stream_unary(f"/t/{name}")()
            self._begin(self._write(name, calls[name]))
        for name in BOTH:
            calls[name] = self.channel.stream_stream(f"/t/{name}")()
            self._begin(self._write(name, calls[name]))
            self._begin(self._read(name, calls[name]))
        return calls

    def _begin(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _read(self, name: str, call: Any) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in call:
                self._count(name)

    async def _write(self, name: str, call: Any) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                if self.writes:
                    await call.write(b"x")
                    self._count(name)
                await asyncio.sleep(0.02)

    def _count(self, name: str) -> None:
        self.received[name] = self.received.get(name, 0) + 1


async def over(call: grpc.aio.Call) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(15):
            await call.code()
    return call.done()


class Slow:
    """A sync handler that waits before it reads the caller."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = threading.Event()
        self.callers: list[str] = []

    def handle(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.begun += 1
        assert self.go_on.wait(15)
        self.callers.append(f"{caller_from_context(context).node_id} {bool(context.peer())}")
        return b"done"

    def register(self, server: grpc.aio.Server) -> None:
        handlers = {"Slow": grpc.unary_unary_rpc_method_handler(self.handle)}
        generic = grpc.method_handlers_generic_handler("t", handlers)
        server.add_generic_rpc_handlers((generic,))


async def test_callers_that_give_up_on_sync_handlers_do_not_disturb_others(
    own_ca: CertificateAuthority, until: Until
) -> None:
    # gRPC crashes the process when a thread asks for the connection of a call that has ended.
    slow = Slow()
    tls = own_ca.issue_in_memory("node")
    async with Node(
        "node", address="127.0.0.1:0", grace=0, tls=tls, registrars=[slow.register], max_workers=1
    ) as node:
        channel = open_channel(own_ca.issue_in_memory("caller"), "node", node.address)
        method = channel.unary_unary("/t/Slow")
        served = method(b"")
        await until(lambda: slow.begun == 1)
        queued, patient = method(b""), method(b"")
        for call in (served, queued):
            call.cancel()
            assert await call.code() is grpc.StatusCode.CANCELLED
        # A later call on the connection is answered after the node noticed the cancellations.
        await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)
        slow.go_on.set()
        assert await patient == b"done"
        assert {*slow.callers} == {"caller True"}
        await channel.close()


async def test_a_refused_call_of_a_sync_handler_does_not_run_it(
    own_ca: CertificateAuthority, until: Until
) -> None:
    slow = Slow()
    slow.go_on.set()
    own_ca.issue("node", key_type=KeyType.P256)
    theirs = own_ca.issue("caller", key_type=KeyType.P256)
    own_ca.revoke("caller")
    options: dict[str, Any] = {"cert_dir": own_ca.directory, "registrars": [slow.register]}
    async with Node("node", address="127.0.0.1:0", grace=0, **options) as node:
        channel = open_channel(theirs, "node", node.address)
        for _ in range(3):
            assert await channel.unary_unary("/t/Slow")(b"").code() is REFUSED
        await channel.close()
    assert slow.begun == 0


@pytest.mark.parametrize(
    ("server", "why"),
    [("aio", "revoked"), ("aio", "expired"), ("blocking", "revoked"), ("public", "revoked")],
    indirect=["server"],
)
async def test_open_streams_and_further_calls_are_refused_with_the_reason(
    node: Node,
    own_ca: CertificateAuthority,
    until: Until,
    why: str,
    server: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    days = SHORT if why == "expired" else 1.0
    theirs = own_ca.issue("caller", key_type=KeyType.P256, days=days)
    bystander = own_ca.issue_in_memory("bystander")
    async with Client(node, theirs) as client, Client(node, bystander) as other:
        await client.who()
        calls, others = client.open_all(), other.open_all("Stubborn")
        await until(lambda: calls.keys() == client.received.keys())
        await until(lambda: others.keys() == other.received.keys())
        # The aio client of gRPC (1.78 to 1.85) may report INTERNAL if a call ends while it writes.
        client.writes = False
        if why == "revoked":
            own_ca.revoke("caller")
        for name, call in calls.items():
            assert await over(call), name
            assert (name, await call.code()) == (name, REFUSED)
            assert why in str(await call.details()), name
        ended = [line for line in caplog.messages if line.startswith("an open stream is ended")]
        assert len(ended) == 1, "one line a minute for each caller"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.who()
        assert refused.value.code() is REFUSED, "the connection is still the same"
        assert why in str(refused.value.details())
        marks = dict(other.received)
        await until(
            lambda: all(other.received[name] > marks[name] for name in {*UP, *BOTH, "Ticks"})
        )
        assert [name for name, call in others.items() if call.done()] == []
        assert await other.who()
        for call in others.values():
            call.cancel()


async def test_a_revoked_caller_is_refused_on_new_connections_too(
    node: Node, own_ca: CertificateAuthority, until: Until
) -> None:
    theirs = own_ca.issue("caller", key_type=KeyType.P256)
    async with Client(node, theirs) as before:
        await before.who()
        own_ca.revoke("caller")
        codes: list[grpc.StatusCode] = []

        async def try_again() -> None:
            while REFUSED not in codes:
                async with Client(node, theirs) as client:
                    try:
                        await client.who()
                    except grpc.aio.AioRpcError as error:
                        codes.append(error.code())

        async with asyncio.timeout(15):
            await try_again()
        assert codes == [REFUSED]
        renewed = own_ca.issue("caller", key_type=KeyType.P256)
        async with Client(node, renewed) as client:
            assert int(await client.who()) == renewed.certificate.serial_number


async def test_a_handshake_with_an_expired_certificate_fails(
    node: Node, own_ca: CertificateAuthority
) -> None:
    past = datetime.now(UTC) - timedelta(days=2)
    async with Client(node, own_ca.issue_in_memory("caller", days=1, at=past)) as client:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.who()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


EXPOSES_TLS_VERSION = tuple(map(int, grpc.__version__.split(".")[:2])) >= (1, 85)


@contextlib.asynccontextmanager
async def channel_with_tls(
    version: ssl.TLSVersion, node: Node, tls: TLSConfig, directory: Path
) -> AsyncIterator[grpc.aio.Channel]:
    """Opens a gRPC channel whose bytes are sent to the node in TLS of exactly this version."""
    pem = directory / "client.pem"
    pem.write_bytes(tls.certificate_chain + tls.private_key)
    context = ssl.create_default_context(cadata=tls.trust_bundle.decode())
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(pem)
    host, port = node.address.rsplit(":", 1)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def bridge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="node")
        await asyncio.gather(pipe(reader, far[1]), pipe(far[0], writer))

    async with AsyncExitStack() as stack:
        server = await asyncio.start_server(bridge, "127.0.0.1", 0)
        stack.callback(server.close)
        near = server.sockets[0].getsockname()[1]
        yield await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{near}"))


@pytest.mark.skipif(not EXPOSES_TLS_VERSION, reason="gRPC does not expose the version before 1.85")
async def test_a_caller_with_tls_1_2_is_refused_at_its_first_call(
    node: Node, own_ca: CertificateAuthority, tmp_path: Path
) -> None:
    theirs = own_ca.issue_in_memory("caller")
    async with channel_with_tls(ssl.TLSVersion.TLSv1_3, node, theirs, tmp_path) as channel:
        assert await channel.unary_unary("/t/Who")(b"", timeout=5)
    async with channel_with_tls(ssl.TLSVersion.TLSv1_2, node, theirs, tmp_path) as channel:
        calls = [
            channel.unary_unary("/t/Who")(b"", timeout=5),
            channel.unary_stream("/t/Ticks")(b"", timeout=5),
            channel.unary_stream("/t/SyncTicks")(b"", timeout=5),
            channel.unary_stream("/aegis.mesh.v1.Mesh/Watch")(b"", timeout=5),
        ]
        for call in calls:
            assert await call.code() is REFUSED
            assert "TLSv1.2" in str(await call.details())


def caller_of(ca: CertificateAuthority, fingerprint: bytes = b"1") -> Caller:
    certificate = ca.issue_in_memory("a").certificate
    return Caller("a", certificate, not_after=2.0, fingerprint=fingerprint)


class FakeRevocations:
    """A list of revocations with one answer, which calls a function before it answers."""

    def __init__(self, *, revoked: bool, before: Callable[[], object] = lambda: None) -> None:
        self.asked = 0
        self._revoked, self._before = revoked, before

    def is_revoked(
        self, certificate: x509.Certificate, intermediates: Iterable[x509.Certificate] = ()
    ) -> object | None:
        self.asked += 1
        self._before()
        return "revoked" if self._revoked else None


def test_a_decision_of_the_old_list_is_not_remembered_as_one_of_the_new_list(
    own_ca: CertificateAuthority,
) -> None:
    # Handlers on threads may ask the old list while the new list is set.
    verifier, caller = CallerVerifier(own_ca.bundle, clock=lambda: 1.0), caller_of(own_ca)
    new = FakeRevocations(revoked=True)
    verifier.apply_revocations(
        FakeRevocations(revoked=False, before=lambda: verifier.apply_revocations(new))
    )
    assert verifier.check(caller) is None
    assert "revoked" in str(verifier.check(caller))


def test_a_caller_is_looked_up_once_in_each_list_and_memory_is_bounded(
    own_ca: CertificateAuthority,
) -> None:
    verifier, caller = CallerVerifier(own_ca.bundle, clock=lambda: 1.0), caller_of(own_ca)
    listed = FakeRevocations(revoked=False)
    verifier.apply_revocations(listed)
    assert [verifier.check(caller) for _ in range(9)] == [None] * 9
    assert listed.asked == 1
    for number in range(2 * MAX_DECISIONS):
        verifier.check(
            Caller("a", caller.certificate, not_after=2.0, fingerprint=number.to_bytes(4))
        )
    before = listed.asked
    verifier.check(caller)
    assert listed.asked == before + 1, "it was forgotten"
