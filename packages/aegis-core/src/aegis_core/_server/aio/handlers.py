"""Handlers of an asyncio server, as they are kept with the checks before them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, NamedTuple

from aegis_core._server.admission import PendingCalls


class CheckedHandler(NamedTuple):
    """A handler, and the same handler with the checks before it.

    Attributes:
        handler: The handler.
        checked: Checks the caller when its request has arrived, if it sends only one.
        early: Checks the caller when its call arrives, which costs up to 17 % more.
        is_limited: Whether it is of the user's services.
        pending: Its calls that do not run yet, among others.
    """

    handler: Any
    checked: Any
    early: Any
    is_limited: bool
    pending: PendingCalls[asyncio.Task[Any]]


def as_coroutine(generator: Any) -> Any:
    """Makes a coroutine of a handler that is an async generator.

    It writes the responses instead of gRPC. So a stream that is ended while it sends a message
    still tells its caller why.
    """

    async def write(request: Any, context: Any) -> None:
        async with contextlib.aclosing(generator(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    return write
