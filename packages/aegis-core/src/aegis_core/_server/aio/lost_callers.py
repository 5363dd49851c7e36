"""Callers that are gone before an answer was sent to them."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

import grpc.aio

_log = logging.getLogger("aegis.server")

LostCaller = tuple[Callable[[str], None], str]
"""What to call if a caller is lost, and which caller that is."""


class HasAnswered(Protocol):
    """A server that knows who called."""

    def lost_caller_of(self, task: asyncio.Task[Any]) -> LostCaller | None: ...


on_lost_caller: ContextVar[LostCaller | None] = ContextVar("on_lost_caller", default=None)
"""What to call, and who calls, if the answer finds no caller: a fast handler ends before gRPC says
so."""

lost_callers_of: weakref.WeakSet[HasAnswered] = weakref.WeakSet()
"""Servers that know who called, of calls that were just answered. `on_lost_caller` is not set for
most of these: that would cost each call more than the search costs the few."""


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
    lost = on_lost_caller.get() or _find()
    if lost is not None:
        count, caller_id = lost
        count(caller_id)
    _log.debug("a caller was gone before it was answered: %s", record.getMessage())
    return False


def _find() -> LostCaller | None:
    task = asyncio.current_task()
    if task is None:
        return None
    found = (server.lost_caller_of(task) for server in list(lost_callers_of))
    return next(filter(None, found), None)
