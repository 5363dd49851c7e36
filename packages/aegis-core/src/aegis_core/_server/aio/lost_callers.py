"""Callers that are gone before an answer was sent to them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar

import grpc.aio

_log = logging.getLogger("aegis.server")


on_lost_caller: ContextVar[tuple[Callable[[str], None], str] | None] = ContextVar(
    "on_lost_caller", default=None
)
"""What to call, and who calls, if the answer finds no caller: a fast handler ends before gRPC says
so."""


def log_lost_callers_quietly() -> None:
    """Keeps gRPC from logging a traceback where it cannot send to a caller that is gone.

    gRPC itself ignores such a failure if it learned before that the caller is gone. When a process
    is killed, the failure mostly comes first.
    """
    # The same function is added once, however many nodes there are.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_lost_caller)


def _is_no_lost_caller(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, grpc.aio.InternalError):
        return True
    lost = on_lost_caller.get()
    if lost is not None:
        count, caller_id = lost
        count(caller_id)
    _log.debug("a caller was gone before it was answered: %s", record.getMessage())
    return False
