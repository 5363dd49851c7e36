"""A caller lets its messages become complete while the calls that would read them end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from aegis_core._server.memory import allocated_bytes, return_freed_memory
from aegis_core._server.rejections import STOPPED
from aegis_core.aio import Node

from .test_one_caller import (
    UNJUDGED,
    Mallory,
    StartVictim,
    Until,
    frames,
    mallory,
    start_victim,
)

__all__ = ["mallory", "start_victim"]  # fixtures

SIZE = 4_000_000
ROUNDS = 5


class Service:
    """Reads messages in the ways that a handler can."""

    async def iterate(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        async for _ in requests:
            pass
        return b""

    async def read(self, requests: Any, context: Any) -> bytes:
        while await context.read() is not grpc.aio.EOF:
            pass
        return b""

    async def answer(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield b"x"

    async def answer_one(self, request: bytes, context: Any) -> bytes:
        return b""

    def on_thread(self, requests: Any, context: Any) -> bytes:
        for _ in requests:
            pass
        return b""

    def register(self, server: Any) -> None:
        handlers = {
            "Iterate": grpc.stream_unary_rpc_method_handler(self.iterate),
            "Read": grpc.stream_unary_rpc_method_handler(self.read),
            "Answer": grpc.stream_stream_rpc_method_handler(self.answer),
            "Unary": grpc.unary_unary_rpc_method_handler(self.answer_one),
            "Thread": grpc.stream_unary_rpc_method_handler(self.on_thread),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", handlers)])


def allocated() -> int:
    gc.collect()
    return_freed_memory()
    return allocated_bytes() or 0


def ping(connection: Any) -> None:
    """Waits until the node has received all that was sent."""
    connection.send(frames.frame(frames.PING, 0, b"complete"))
    while not any(got.kind == frames.PING for got in connection.receive()):
        pass


class Uploads:
    """Calls on one connection, each with a message of which the last byte is missing."""

    def __init__(self, attacker: Mallory, path: str, count: int) -> None:
        self.connection = attacker.connect()
        self.connection.await_settings()
        self.streams = [self.connection.open(path) for _ in range(count)]
        windows = dict.fromkeys(self.streams, self.connection.stream_window)
        left = dict.fromkeys(self.streams, frames.message(bytes(SIZE))[:-1])
        while any(left.values()) or min(windows.values()) < 1 or self.connection.window < count:
            has_sent = False
            for stream, data in left.items():
                size = min(len(data), windows[stream], self.connection.window, frames.MAX_FRAME)
                if size:
                    self.connection.send(frames.frame(frames.DATA, stream, data[:size]))
                    left[stream] = data[size:]
                    windows[stream] -= size
                    self.connection.window -= size
                    has_sent = True
            if not has_sent:
                for got in self.connection.receive():
                    if got.kind == frames.WINDOW_UPDATE and got.stream:
                        windows[got.stream] += int.from_bytes(got.payload, "big")

    def complete(self) -> None:
        """Sends the last bytes, and waits until the node has them."""
        last = [frames.frame(frames.DATA, stream, b"x") for stream in self.streams]
        self.connection.send(b"".join(last))
        ping(self.connection)


@pytest.mark.parametrize("server", ["aio"], indirect=True)
@pytest.mark.parametrize(
    ("how", "count", "judged"),
    [
        ("Iterate", 2, 2),
        ("Read", 2, 2),
        ("Answer", 2, 2),
        ("Thread", 2, 2),
        ("Unary", UNJUDGED + 1, 1),
    ],
)
async def test_messages_that_arrive_as_their_calls_are_ended_are_not_kept(
    start_victim: StartVictim,
    mallory: Callable[[Node], Mallory],
    until: Until,
    how: str,
    count: int,
    judged: int,
) -> None:
    node = await start_victim(registrars=[Service().register])
    streams = node.server._checks.streams
    attacker = mallory(node)
    before = allocated()
    for _ in range(ROUNDS):
        uploads = await asyncio.to_thread(Uploads, attacker, f"/t/{how}", count)
        await until(lambda: len(streams) == judged)
        uploads.complete()  # here, so that this loop learns of it after the calls were ended
        for task in list(streams):
            node.server.end_call(task, STOPPED)
        await until(lambda: not streams)
        attacker.close()
    await until(lambda: allocated() < before + SIZE)
