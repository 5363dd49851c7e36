"""Follows one server's feed over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc

from aegis_discovery.feed._pacing import HEARTBEAT
from aegis_discovery.feed._reader import FeedReader, ReceiveResult, split_message
from aegis_discovery.proto import mesh_pb2, mesh_pb2_grpc

SILENCE = 3 * HEARTBEAT
"""Seconds without a message after which a feed counts as broken."""

SLICE = 0.005
"""Seconds of work for one feed after which it rests for as long."""


class FeedSilentError(Exception):
    """The server said nothing for too long."""


class FeedDivergedError(Exception):
    """Both sides are at rest and know different things: open the feed anew, for a snapshot."""


async def follow(
    channel: grpc.aio.Channel,
    reader: FeedReader,
    request: mesh_pb2.WatchRequest,
    *,
    source: str,
    on_message: Callable[[ReceiveResult], None],
    silence: float = SILENCE,
) -> None:
    """Reads a feed until its server ends it, which says that the server leaves.

    Whatever comes, one feed takes half of the loop's time at most, and little of it at once: what
    is not read yet waits at the server.

    Raises:
        grpc.aio.AioRpcError: If the feed ended in any other way.
        FeedSilentError: If nothing came for `silence` seconds.
        FeedDivergedError: If it is to be opened anew; that speaks against nobody.
    """
    call = mesh_pb2_grpc.MeshStub(channel).Watch(request)
    worked = 0.0
    try:
        while True:
            try:
                async with asyncio.timeout(silence):
                    message = await call.read()
            except TimeoutError:
                raise FeedSilentError(f"{source} was silent for {silence:.0f} s") from None
            if message is grpc.aio.EOF:
                return
            for part in split_message(message):
                began = time.monotonic()
                received = reader.receive(part, source=source)
                on_message(received)
                if received.diverged:
                    raise FeedDivergedError(f"{source} knows other things; its feed is opened anew")
                worked += time.monotonic() - began
                if worked >= SLICE:
                    await asyncio.sleep(worked)
                    worked = 0.0
    finally:
        call.cancel()
