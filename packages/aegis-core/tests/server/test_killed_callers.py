"""Callers that vanish in the middle of a message."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_certs import TLSConfig
from aegis_core.aio import Node
from aegis_discovery import ServiceInfo
from aegis_discovery.aio import connect
from aegis_discovery.aio.transport import open_channel

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]


async def flood(request: bytes, context: Any) -> AsyncIterator[bytes]:
    """Sends without end, so that a message is always under way."""
    while True:
        yield b"x" * 100_000


async def flood_by_writing(request: bytes, context: Any) -> None:
    while True:
        await context.write(b"x" * 100_000)


def flood_in_thread(request: bytes, context: Any) -> Iterator[bytes]:
    while True:
        yield b"x" * 100_000


async def answer_much(request: bytes, context: Any) -> bytes:
    return b"x" * 400_000


def register(server: Any) -> None:
    handlers = {
        "Much": grpc.unary_unary_rpc_method_handler(answer_much),
    } | {
        name: grpc.unary_stream_rpc_method_handler(handler)
        for name, handler in [
            ("Flood", flood),
            ("Write", flood_by_writing),
            ("Thread", flood_in_thread),
        ]
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])


@asynccontextmanager
async def relay(address: str) -> AsyncIterator[tuple[str, Callable[[], None], asyncio.Event]]:
    """A TCP relay to a server.

    Yields its address, a function that resets its connections, and an event: while it is not set,
    nothing is read from the server, as by a process that was stopped.
    """
    runs = asyncio.Event()
    runs.set()
    host, port = address.rsplit(":", 1)
    writers: list[asyncio.StreamWriter] = []
    callers: set[asyncio.StreamWriter] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if writer in callers:
                    await runs.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        writers.extend((writer, back))
        callers.add(writer)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    def reset() -> None:
        server.close()
        runs.set()
        for writer in writers:
            linger = struct.pack("ii", 1, 0)  # as the system does for a process that was killed
            with suppress(OSError):  # it is closed already
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", reset, runs
    server.close()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns what gRPC or Aegis logged as an error."""
    return [
        f"{record.getMessage()} {record.exc_info}"
        for record in caplog.records
        if record.levelno >= logging.ERROR and record.name.startswith(("grpc", "aegis"))
    ]


@pytest.mark.parametrize(
    ("server", "method"),
    [("aio", "Flood"), ("aio", "Write"), ("aio", "Thread"), ("blocking", "Thread")],
    indirect=["server"],
)
async def test_a_caller_that_is_killed_while_it_is_sent_to_logs_no_traceback(
    method: str,
    server: str,
    identity: MakeIdentity,
    until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tls = identity("a")
    node = Node("a", address="127.0.0.1:0", tls=tls, registrars=[register], grace=0)
    async with node:
        for _ in range(8):
            async with relay(node.address) as (address, kill, _):
                channel = open_channel(identity("client"), "a", address)
                calls: list[Any] = [channel.unary_stream(f"/t/{method}")(b"") for _ in range(4)]
                for call in calls:
                    await call.read()
                kill()
                await channel.close()
            await until(lambda: node.stats().calls.running == 0)
    assert errors(caplog) == []


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_a_caller_that_is_killed_before_its_answer_arrives_logs_no_traceback(
    identity: MakeIdentity, until: Until, caplog: pytest.LogCaptureFixture, server: str
) -> None:
    node = Node("a", address="127.0.0.1:0", tls=identity("a"), registrars=[register], grace=0)
    async with node:
        for _ in range(8):
            async with relay(node.address) as (address, kill, runs):
                channel = open_channel(identity("client"), "a", address)
                call = channel.unary_unary("/t/Much")
                with suppress(grpc.RpcError):
                    await call(b"")
                begun = node.stats().calls.begun + 16
                runs.clear()
                calls: list[Any] = [call(b"", timeout=60) for _ in range(16)]
                await until(lambda begun=begun: node.stats().calls.begun == begun)
                kill()
                await asyncio.gather(*calls, return_exceptions=True)
                await channel.close()
            await until(lambda: node.stats().calls.running == 0)
    assert errors(caplog) == []


@pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True)
async def test_watchers_that_are_killed_under_many_changes_log_no_traceback(
    identity: MakeIdentity, until: Until, caplog: pytest.LogCaptureFixture, server: str
) -> None:
    node = Node("a", address="127.0.0.1:0", tls=identity("a"), grace=0)
    async with node:
        for _ in range(2):
            async with relay(node.address) as (address, kill, runs), AsyncExitStack() as stack:
                for number in range(12):
                    mesh = connect(address, tls=identity(f"client-{number}"))
                    await stack.enter_async_context(mesh)
                await until(lambda: node.stats().feeds.served == 12)
                for number in range(200):
                    info = node.topology.nodes["a"]
                    services = tuple(ServiceInfo(f"s{number}-{n}" * 10, "v1") for n in range(50))
                    node.topology.update_node(replace(info, services=services))
                    await asyncio.sleep(0.005)  # a load of changes, not a wait
                    if number == 20:
                        runs.clear()
                kill()
            await until(lambda: node.stats().feeds.served == 0)
    assert errors(caplog) == []
