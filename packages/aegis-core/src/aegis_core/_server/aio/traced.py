"""Counts the messages of traced calls on an asyncio server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aegis_core._server.telemetry import counting, counting_received


def traced(
    handler: Any, inner: Callable[..., Any]
) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes] | None, Callable[..., Any]]:
    """Returns a handler's deserializer, serializer and function, which count its messages.

    The function of a handler with one response serializes it, since gRPC does so only when the
    trace of the call has ended.

    Args:
        handler: The handler.
        inner: A coroutine that does its work.
    """
    from aegis_discovery.telemetry import current_handler  # it needs an extra

    parse = counting_received(handler.request_deserializer, current_handler.get)
    serialize = counting(handler.response_serializer, current_handler.get)
    if handler.response_streaming:
        return parse, serialize, inner

    async def answer(request: Any, context: Any) -> bytes:
        return serialize(await inner(request, context))

    return parse, None, answer
