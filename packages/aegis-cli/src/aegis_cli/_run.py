"""Runs the asynchronous part of a command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import grpc

from aegis_cli.errors import CallFailedError

T = TypeVar("T")


def run(
    work: Coroutine[Any, Any, T],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Runs a coroutine to its end.

    Args:
        work: The coroutine.
        loop_factory: Creates the event loop; asyncio's by default.

    Raises:
        CallFailedError: In place of a gRPC error, whose text is not written for users.
    """
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(work)
    except grpc.RpcError as error:
        raise CallFailedError(error) from error
