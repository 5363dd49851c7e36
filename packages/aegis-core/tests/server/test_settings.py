"""The settings of the server do what gRPC means by their names."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import ConfigError, PoolOptions, ServiceInfo
from aegis_core._server.caller_limits import MAX_CALLS
from aegis_core.aio import Node
from aegis_discovery.aio import connect
from aegis_discovery.aio.transport import open_channel

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]
WAIT = 15.0
LARGE = b"x" * (6 * 1024 * 1024)
RECEIVE = "grpc.max_receive_message_length"
COMPRESSION = "grpc.compression_enabled_algorithms_bitset"


class Handlers:
    def __init__(self) -> None:
        self.running = 0
        self.go_on = threading.Event()
        self.ended = threading.Event()

    async def echo(self, request: bytes, context: Any) -> bytes:
        return request

    def wait(self, request: bytes, context: Any) -> bytes:
        self.running += 1
        assert self.go_on.wait(WAIT)
        return b""

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    def register(self, server: Any) -> None:
        handlers = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "Stream": grpc.unary_stream_rpc_method_handler(self.stream),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])


def provider(identity: MakeIdentity, handlers: Handlers, **options: Any) -> Node:
    services = [ServiceInfo("t", "v1")]
    register = [handlers.register]
    tls = identity("a")
    return Node(
        "a", address="127.0.0.1:0", tls=tls, services=services, registrars=register, **options
    )


async def test_a_large_message_is_served_where_the_options_allow_it(
    identity: MakeIdentity,
) -> None:
    pool_options = PoolOptions(options=[(RECEIVE, 2 * len(LARGE))])
    options: dict[str, Any] = {"tls": identity("client"), "pool_options": pool_options}
    small = provider(identity, Handlers(), grace=0)
    async with small, await connect(small.address, **options) as mesh:
        echo = mesh.pool.channel("t", "v1").unary_unary("/t/Echo")
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
            await echo(LARGE, timeout=WAIT)
    large = provider(identity, Handlers(), max_receive_message_length=2 * len(LARGE), grace=0)
    async with large, await connect(large.address, **options) as mesh:
        echo = mesh.pool.channel("t", "v1").unary_unary("/t/Echo")
        assert await echo(LARGE, timeout=WAIT) == LARGE


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_refused_unless_the_options_allow_them(
    identity: MakeIdentity, server: str, compression: grpc.Compression
) -> None:
    options: dict[str, Any] = {"tls": identity("client")}
    usual = provider(identity, Handlers(), grace=0)
    async with usual, await connect(usual.address, **options) as mesh:
        echo = mesh.pool.channel("t", "v1").unary_unary("/t/Echo")
        with pytest.raises(grpc.aio.AioRpcError, match="is disabled") as refused:
            await echo(b"x" * 1000, timeout=WAIT, compression=compression)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await echo(b"x" * 1000, timeout=WAIT) == b"x" * 1000
    allowing = provider(identity, Handlers(), options=[(COMPRESSION, 7)], grace=0)
    async with allowing, await connect(allowing.address, **options) as mesh:
        echo = mesh.pool.channel("t", "v1").unary_unary("/t/Echo")
        assert await echo(b"x" * 1000, timeout=WAIT, compression=compression) == b"x" * 1000


@pytest.mark.parametrize("server", ["aio", "blocking", "public"], indirect=True)
async def test_there_are_as_many_threads_as_the_option_says(
    identity: MakeIdentity, until: Until, server: str
) -> None:
    handlers = Handlers()
    async with (
        provider(identity, handlers, max_workers=40, grace=0) as node,
        open_channel(identity("client"), "a", node.address) as channel,
    ):
        calls = [channel.unary_unary("/t/Wait")(b"", timeout=WAIT) for _ in range(40)]
        await until(lambda: handlers.running == 40)
        handlers.go_on.set()
        assert await asyncio.gather(*calls) == [b""] * 40


async def test_a_connection_without_a_certificate_is_closed_soon(
    identity: MakeIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core._node.options.HANDSHAKE_TIMEOUT_MS", 200)
    async with provider(identity, Handlers(), grace=0) as node:
        host, _, port = node.address.partition(":")
        for sent in (b"", b"no TLS"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            async with asyncio.timeout(WAIT):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_a_caller_with_500_calls_at_once_waits_for_none_of_them(
    identity: MakeIdentity, until: Until, server: str
) -> None:
    handlers = Handlers()
    async with (
        provider(identity, handlers, max_workers=500, grace=0) as node,
        open_channel(identity("client"), "a", node.address) as channel,
    ):
        calls = [channel.unary_unary("/t/Wait")(b"", timeout=2 * WAIT) for _ in range(500)]
        await until(lambda: handlers.running == 500)
        handlers.go_on.set()
        assert await asyncio.gather(*calls) == [b""] * 500


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_a_caller_with_2000_calls_at_once_waits_and_none_of_them_fails(
    identity: MakeIdentity, server: str
) -> None:
    async with (
        provider(identity, Handlers(), grace=0) as node,
        open_channel(identity("client"), "a", node.address) as channel,
    ):
        echo = channel.unary_unary("/t/Echo")
        answers = await asyncio.gather(*(echo(b"x", timeout=2 * WAIT) for _ in range(2000)))
        assert answers == [b"x"] * 2000


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_three_callers_with_500_calls_at_once_wait_and_none_of_them_fails(
    identity: MakeIdentity, server: str
) -> None:
    """One of them calls on ten connections, as the processes of one identity do."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    names = ["one"] * 10 + ["two", "three"]
    async with (
        provider(identity, Handlers(), grace=0) as node,
        contextlib.AsyncExitStack() as stack,
    ):
        calls: list[Any] = []
        for name in names:
            opened = open_channel(identity(name), "a", node.address, options=options)
            channel = await stack.enter_async_context(opened)
            echo = channel.unary_unary("/t/Echo")
            calls += [echo(b"x", timeout=2 * WAIT) for _ in range(500 // names.count(name))]
        assert await asyncio.gather(*calls) == [b"x"] * 1500
        assert node.stats().calls.closed_connections == 0


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_three_processes_with_one_identity_and_500_calls_each_are_refused_what_exceeds_600(
    identity: MakeIdentity, until: Until, server: str
) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    handlers, tls = Handlers(), identity("replicas")
    async with (
        provider(identity, handlers, grace=0) as node,
        contextlib.AsyncExitStack() as stack,
    ):
        calls: list[Any] = []
        for _ in range(3):
            opened = open_channel(tls, "a", node.address, options=options)
            wait = (await stack.enter_async_context(opened)).unary_unary("/t/Wait")
            calls += [wait(b"x" * 100, timeout=2 * WAIT) for _ in range(500)]
        await until(lambda: sum(call.done() for call in calls) == 1500 - MAX_CALLS)
        refused = [call for call in calls if call.done()]
        handlers.go_on.set()
        assert {await call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        texts = {await call.details() for call in refused}
        assert [text for text in texts if "replicas has 600 calls open" not in text] == []
        assert await asyncio.gather(*(c for c in calls if c not in refused)) == [b""] * MAX_CALLS
        assert node.stats().calls.closed_connections == 0


class Relay:
    """Forwards one address to another until it freezes: then nothing arrives, and nothing ends."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.partition(":")
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        self._thawed.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection(self._host, int(self._port))
        for source, sink in ((reader, other_writer), (other_reader, writer)):
            self._tasks.append(asyncio.create_task(self._forward(source, sink)))

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.closing(sink):
            while data := await source.read(65536):
                await self._thawed.wait()
                sink.write(data)


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_a_caller_that_vanished_holds_no_stream(
    identity: MakeIdentity, until: Until, server: str
) -> None:
    handlers = Handlers()
    options = {"keepalive_time_ms": 1000, "keepalive_timeout_ms": 500, "grace": 0}
    async with (
        provider(identity, handlers, **options) as node,
        Relay(node.address) as relay,
        open_channel(identity("client"), "a", relay.address) as channel,
    ):
        call: Any = channel.unary_stream("/t/Stream")(b"")
        assert await call.read() == b"first"
        relay.freeze()
        await until(handlers.ended.is_set)


@pytest.mark.parametrize(
    ("name", "value"), [("max_workers", 0), ("max_receive_message_length", 1024)]
)
def test_a_setting_that_cannot_work_is_refused(
    identity: MakeIdentity, name: str, value: int
) -> None:
    with pytest.raises(ConfigError, match=name):
        Node("a", address="127.0.0.1:0", tls=identity("a"), **{name: value})
