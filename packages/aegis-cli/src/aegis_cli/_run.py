"""Runs the asynchronous part of a command."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

from aegis_cli.errors import CallFailedError

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end.

    Raises:
        CallFailedError: In place of a gRPC error, whose text is not written for users.
    """
    try:
        return asyncio.run(work)
    except grpc.RpcError as error:
        raise CallFailedError(error) from error
