"""Callers that vanish in the middle of a message."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_certs import TLSConfig
from aegis_core.aio import Node
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


def register(server: Any) -> None:
    handlers = {
        name: grpc.unary_stream_rpc_method_handler(handler)
        for name, handler in [
            ("Flood", flood),
            ("Write", flood_by_writing),
            ("Thread", flood_in_thread),
        ]
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])


@asynccontextmanager
async def relay(address: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """A TCP relay to a server; yields its address, and a function that resets its connections."""
    host, port = address.rsplit(":", 1)
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        writers.extend((writer, back))
        await asyncio.gather(copy(reader, back), copy(there, writer))

    def reset() -> None:
        for writer in writers:
            linger = struct.pack("ii", 1, 0)  # as the system does for a process that was killed
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", reset
    server.close()


@pytest.mark.parametrize("method", ["Flood", "Write", "Thread"])
async def test_a_caller_that_is_killed_while_it_is_sent_to_logs_no_traceback(
    method: str, identity: MakeIdentity, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    tls = identity("a")
    node = Node("a", address="127.0.0.1:0", tls=tls, registrars=[register], grace=0)
    async with node:
        for _ in range(8):
            async with relay(node.address) as (address, kill):
                channel = open_channel(identity("client"), "a", address)
                calls: list[Any] = [channel.unary_stream(f"/t/{method}")(b"") for _ in range(4)]
                for call in calls:
                    await call.read()
                kill()
                await channel.close()
            await until(lambda: node.stats().calls.running == 0)
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
