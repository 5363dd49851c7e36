"""Counts the messages of calls with many requests, where gRPC shows them: when they are parsed."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from aegis_core._server.held.complete_messages import Inflow

current_inflow: ContextVar[Inflow[Any] | None] = ContextVar("current_inflow", default=None)
"""The call that the running task serves, if it has many requests."""


def counting(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Returns what counts a message, and parses it."""

    def counted(message: bytes) -> Any:
        inflow = current_inflow.get()
        if inflow is not None:
            inflow.note(len(message))
        return message if parse is None else parse(message)

    return counted
