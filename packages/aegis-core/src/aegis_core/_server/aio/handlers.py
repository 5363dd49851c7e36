"""Handlers of an asyncio server, as they are kept with the checks before them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from aegis_discovery.signals import CODES

from aegis_core._server.admission import PendingCalls
from aegis_core._server.rejections import UNKNOWN, Rejection


@dataclass(slots=True)  # whose attributes each call reads
class CheckedHandler:
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


def number_of(code: grpc.StatusCode | int | None) -> int:
    """Returns the number of a status that a handler has set; 0 if it has set none."""
    if isinstance(code, grpc.StatusCode):
        number: int = code.value[0]
        return number
    number = code or 0
    return number if 0 <= number < len(CODES) else UNKNOWN  # what gRPC sends then


async def reject(context: Any, rejection: Rejection) -> None:
    """Ends a call with a status; raises an error."""
    code = grpc.StatusCode[rejection.code]
    try:
        await context.abort(code, rejection.text, rejection.trailers)
    except grpc.aio.UsageError as error:  # it is being ended with another status
        raise asyncio.CancelledError from error


def rejecting_by(rejection_of: Callable[[Any], Rejection]) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns a handler that rejects every call, without its request."""

    async def reject_all(_: AsyncIterator[Any], context: Any) -> None:
        await reject(context, rejection_of(context))

    # On the wire all kinds of calls are alike, and this kind does not wait for a request.
    return grpc.stream_stream_rpc_method_handler(reject_all)


def give_turn(turn: asyncio.Future[None]) -> bool:
    """Lets a call read its request; returns False if the call is over."""
    if turn.done():
        return False
    turn.set_result(None)
    return True


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
