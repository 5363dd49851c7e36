"""Callers send messages compressed, honest ones and one that makes 4 MB of 4 KB."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from aegis_discovery.aio.transport import open_channel

from .test_one_caller import WAIT, MakeIdentity, StartVictim, Until, both, start_victim

__all__ = ["start_victim"]  # a fixture

LARGE = bytes(4_190_000)
STREAMS = 16
COMPRESSION = [("grpc.compression_enabled_algorithms_bitset", 7)]
HONEST, USUAL = 100, b"x" * 65_536


class Message:
    """A request, while something refers to it."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Upload:
    """A handler, and the requests that are held."""

    def __init__(self) -> None:
        self.held = weakref.WeakSet[Message]()

    def read(self, data: bytes) -> Message:
        message = Message(data)
        self.held.add(message)
        return message

    def upload(self, requests: Iterator[Message], context: Any) -> bytes:
        size = 0
        for request in requests:
            size += len(request.data)
        return b"%d" % size

    async def upload_async(self, requests: AsyncIterator[Message], context: Any) -> bytes:
        size = 0
        async for request in requests:
            size += len(request.data)
        return b"%d" % size

    async def both_async(self, requests: AsyncIterator[Message], context: Any) -> Any:
        async for request in requests:
            yield b"%d" % len(request.data)

    def register(self, server: Any) -> None:
        handlers = {
            "BothAsync": grpc.stream_stream_rpc_method_handler(self.both_async, self.read),
            "Upload": grpc.stream_unary_rpc_method_handler(self.upload, self.read),
            "UploadAsync": grpc.stream_unary_rpc_method_handler(self.upload_async, self.read),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@both
@pytest.mark.parametrize("method", ["Upload", "UploadAsync", "BothAsync"])
@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
@pytest.mark.usefixtures("no_collection")
async def test_large_messages_are_not_kept_when_their_calls_were_ended(
    start_victim: StartVictim,
    identity: MakeIdentity,
    until: Until,
    method: str,
    compression: grpc.Compression,
) -> None:
    service = Upload()
    node = await start_victim(registrars=[service.register], options=COMPRESSION)
    async with open_channel(identity("caller"), "a", node.address) as channel:
        streams = channel.stream_stream if method == "BothAsync" else channel.stream_unary
        upload: Any = streams(f"/t/{method}")
        calls = [upload(timeout=WAIT, compression=compression) for _ in range(STREAMS)]
        for call in calls:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(LARGE)
        await until(lambda: node.stats().calls.over_limit > 0)
        for call in calls:
            call.cancel()
    await until(lambda: not service.held)


@both
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_honest_callers_may_compress_many_uploads_at_once(
    start_victim: StartVictim, identity: MakeIdentity, compression: grpc.Compression
) -> None:
    node = await start_victim(registrars=[Upload().register], options=COMPRESSION)
    async with open_channel(identity("caller"), "a", node.address) as channel:
        upload = channel.stream_unary("/t/Upload")
        calls = [
            upload(iter([USUAL] * 2), timeout=WAIT, compression=compression) for _ in range(HONEST)
        ]
        assert await asyncio.gather(*calls) == [b"%d" % (2 * len(USUAL))] * HONEST
