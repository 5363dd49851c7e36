"""Follows one server's feed over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from aegis_discovery._runtime import loop_timers
from aegis_discovery.feed._pacing import HEARTBEAT
from aegis_discovery.feed._parts import PartSize, split_message
from aegis_discovery.feed._reader import FeedReader, ReceiveResult
from aegis_discovery.proto import mesh_pb2

_WATCH = "/aegis.mesh.v1.Mesh/Watch"

FEED_TIMEOUT = 2 * HEARTBEAT
"""Seconds without a message after which a feed counts as broken."""

SLICE = 0.005
"""Seconds of work on one feed after which other work of the event loop gets its turn."""

BURST = 0.05
"""Seconds of work after which a feed pauses for as long, until it is complete; then it does so
after each slice.

A process that joins can do little else, and after each pause the processor's caches hold something
else: pauses after each slice made a join a fifth more expensive.
"""


class FeedTimeoutError(Exception):
    """The server sent nothing for too long."""


class FeedGarbageError(Exception):
    """The server sent bytes that are no message of the protocol."""


class FeedDivergedError(Exception):
    """Nothing is in transit, but the two sides hold different records: reopen for a snapshot."""


async def follow(
    channel: grpc.aio.Channel,
    reader: FeedReader,
    request: mesh_pb2.WatchRequest,
    *,
    source: str,
    on_message: Callable[[ReceiveResult], None],
    timeout: float | None = FEED_TIMEOUT,
) -> None:
    """Reads a feed until its server ends it, which means that the server is leaving.

    One feed takes at most half of the event loop's time, in short slices, and in longer ones until
    it is complete. Flow control keeps unread messages at the server.

    Args:
        channel: The channel to the server.
        reader: Merges the messages.
        request: The request that opens the feed.
        source: The server's node id.
        on_message: Called with the result of each message.
        timeout: Seconds without a message after which the feed counts as broken; None if the caller
            watches that.

    Raises:
        grpc.aio.AioRpcError: If the feed ended in any other way.
        FeedTimeoutError: If no message arrived for `timeout` seconds.
        FeedGarbageError: If what arrived is no message.
        FeedDivergedError: If it must be reopened; this is not a failure of the server.
    """
    # Parsed here: gRPC would log a traceback for bytes that are no message.
    method: Any = channel.unary_stream(_WATCH, mesh_pb2.WatchRequest.SerializeToString)
    call = method(request)
    worked = owed = 0.0
    pause_after, size = BURST, PartSize()
    try:
        while True:
            if timeout is None:
                data = await call.read()
            else:
                try:
                    async with loop_timers.timeout(timeout):
                        data = await call.read()
                except TimeoutError:
                    raise FeedTimeoutError(f"{source} sent nothing for {timeout:.0f} s") from None
            if data is grpc.aio.EOF:
                return
            try:
                message = mesh_pb2.WatchResponse.FromString(data)
            except DecodeError:
                raise FeedGarbageError(f"{source} sent what is no message of a feed") from None
            for part in split_message(message, size):
                began, cpu = time.monotonic(), time.thread_time()
                received = reader.receive(part, source=source)
                on_message(received)
                size.received(part, time.thread_time() - cpu, complete=received.complete)
                if received.diverged:
                    raise FeedDivergedError(f"{source} holds other records; its feed is reopened")
                if received.complete:
                    pause_after = SLICE
                worked += time.monotonic() - began
                if worked < SLICE:
                    continue
                owed, worked = owed + worked, 0.0
                if owed < pause_after:
                    await asyncio.sleep(0)
                    continue
                await loop_timers.sleep(owed)
                owed = 0.0
    finally:
        call.cancel()
