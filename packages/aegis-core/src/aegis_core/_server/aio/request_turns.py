"""Reads the requests of calls in turn on an asyncio server, and counts those that handlers have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc

from aegis_core._server import rejections
from aegis_core._server.aio.handlers import give_turn, reject
from aegis_core._server.aio.whole_reads import to_its_end
from aegis_core._server.held.request_reads import RequestReads
from aegis_core._server.held.running_requests import LARGE
from aegis_core._server.rejections import LATE_REQUEST, NO_REQUEST, TOO_LARGE

Reads = RequestReads[asyncio.Task[Any]]


async def read_request(
    reads: Reads,
    note: Callable[[str, Callable[[], str], int], None],
    context: Any,
    caller_id: str,
    path: str | None,
    task: asyncio.Task[Any],
) -> Any:
    """Reads the one request of a call when it has its turn, or ends the call.

    Args:
        reads: Gives the turns.
        note: Counts a request that is complete.
        context: gRPC's context.
        caller_id: Who calls.
        path: The method; None for the node's own.
        task: Serves the call. Where the request is large, `release_when_done` must follow.
    """
    turn = task.get_loop().create_future()
    try:
        async with asyncio.timeout(rejections.REQUEST_TIMEOUT):
            reads.begin(caller_id, task, path, partial(give_turn, turn), context.peer)
            await turn
            request = await to_its_end(context.read())
        if request is not grpc.aio.EOF:
            note(caller_id, context.peer, len(request))
            if len(request) >= LARGE:  # before the read ends, and another one begins
                await hold(reads, context, caller_id, path, task, len(request))
    except TimeoutError:
        await reject(context, LATE_REQUEST)
    finally:
        reads.end(caller_id, task)
    if request is grpc.aio.EOF:
        await reject(context, NO_REQUEST)
    return request


async def hold(
    reads: Reads, context: Any, caller_id: str, path: str | None, task: asyncio.Task[Any], size: int
) -> None:
    """Counts a large request until `release_when_done`, or ends the call if it is one too many."""
    if not reads.running.add(caller_id, task, path, size):
        await reject(context, TOO_LARGE)


def release_when_done(
    reads: Reads, caller_id: str, on_thread_done: Callable[..., None] | None, task: Any
) -> None:
    """Counts the request of a call no more once nothing holds it.

    Args:
        reads: Counts it.
        caller_id: Who called.
        on_thread_done: Calls back, from any thread, when the thread of the handler has ended; None
            if it has none.
        task: Serves the call, and may send its answer for long.
    """
    if on_thread_done is None:
        task.add_done_callback(partial(reads.release, caller_id))
        return
    loop = task.get_loop()

    def done(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it all calls
            loop.call_soon_threadsafe(reads.release, caller_id, task)

    on_thread_done(done)
