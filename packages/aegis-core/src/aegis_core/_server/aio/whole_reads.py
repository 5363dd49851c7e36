"""Reads to their end what a call was sent, whether or not anybody still waits for it.

gRPC frees a message when it hands it over. If the task that waits for it was cancelled, `grpc.aio`
(seen in 1.84 and 1.85) never does that: a message that is complete by then, or becomes so before
the call has ended, stays for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextvars import Context
from functools import partial
from types import coroutine
from typing import Any

import grpc

Future = asyncio.Future[Any]
Work = Coroutine[Any, Any, Any]


async def messages(context: Any) -> AsyncIterator[Any]:
    """Returns the messages of a call, as those are that gRPC passes to a handler."""
    while (message := await to_its_end(context.read())) is not grpc.aio.EOF:
        yield message


class WholeReadsContext:
    """gRPC's own context, but for its reads.

    Args:
        context: gRPC's own.
    """

    __slots__ = ("_context", "write")

    def __init__(self, context: Any) -> None:
        self._context = context
        self.write = context.write  # a handler may call it for each message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """Waits for the next message; returns `grpc.aio.EOF` after the last one."""
        return await to_its_end(self._context.read())


@coroutine
def to_its_end(work: Work) -> Generator[Any, None, Any]:
    """Waits for a coroutine, which goes on by itself if this is cancelled.

    Args:
        work: Waits for futures only. Nobody waits for them but this.
    """
    try:
        future: Future = work.send(None)
        while True:
            try:
                yield _Patience(future)
            except BaseException as error:
                # Else it is the future's own, which the coroutine is going to find.
                if not (future.done() and isinstance(error, Exception)):
                    _go_on(work, future)
                    raise
            future = work.send(None)
    except StopIteration as end:
        return end.value


def _go_on(work: Work, future: Future) -> None:
    if not future.done():
        future.add_done_callback(partial(_go_on, work))
        return
    try:
        future = work.send(None)
    except Exception:  # noqa: BLE001 - it has ended; nobody waits for its result, or its error
        return
    _go_on(work, future)


class _Patience:
    """A future as a task sees it. When the task is cancelled, the future itself is not.

    `asyncio.shield` has a future of its own, which costs another turn of the event loop.
    """

    __slots__ = ("_asyncio_future_blocking", "_context", "_future", "_wake", "get_loop")

    def __init__(self, future: Future) -> None:
        self._asyncio_future_blocking = True  # it can be awaited: see `asyncio.isfuture`
        self._future = future
        self.get_loop = future.get_loop

    def add_done_callback(self, wake: Callable[[Future], object], *, context: Context) -> None:
        self._wake, self._context = wake, context
        self._future.add_done_callback(wake, context=context)

    def cancel(self, msg: Any = None) -> bool:
        """Wakes the task as a cancelled future does; returns False if it is woken already."""
        if not self._future.remove_done_callback(self._wake):
            return False
        cancelled = self.get_loop().create_future()
        cancelled.add_done_callback(self._wake, context=self._context)
        return cancelled.cancel(msg)
