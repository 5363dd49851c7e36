"""Both ends of a feed, without I/O. For code that builds nodes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aegis_discovery._runtime.message_limits import MAX_MESSAGE
    from aegis_discovery._runtime.ticks import PROCESS_TICKS, Ticks
    from aegis_discovery.feed._impersonators import remove_impersonators
    from aegis_discovery.feed._limits import MAX_REQUEST, request_problem
    from aegis_discovery.feed._pacing import (
        BATCH,
        HEARTBEAT,
        MAX_BATCH,
        FeedPacer,
        heartbeat_phase,
        heartbeat_ticks,
    )
    from aegis_discovery.feed._parts import split_message
    from aegis_discovery.feed._reader import FeedReader, ReceiveResult
    from aegis_discovery.feed._writer import CHUNK, FeedWriter

__all__ = [
    "BATCH",
    "CHUNK",
    "HEARTBEAT",
    "MAX_BATCH",
    "MAX_MESSAGE",
    "MAX_REQUEST",
    "PROCESS_TICKS",
    "FeedPacer",
    "FeedReader",
    "FeedWriter",
    "ReceiveResult",
    "Ticks",
    "heartbeat_phase",
    "heartbeat_ticks",
    "remove_impersonators",
    "request_problem",
    "split_message",
]

_HOMES = {
    "BATCH": "._pacing",
    "CHUNK": "._writer",
    "FeedPacer": "._pacing",
    "FeedReader": "._reader",
    "FeedWriter": "._writer",
    "HEARTBEAT": "._pacing",
    "MAX_BATCH": "._pacing",
    "MAX_MESSAGE": ".._runtime.message_limits",
    "MAX_REQUEST": "._limits",
    "PROCESS_TICKS": ".._runtime.ticks",
    "ReceiveResult": "._reader",
    "Ticks": ".._runtime.ticks",
    "heartbeat_phase": "._pacing",
    "heartbeat_ticks": "._pacing",
    "remove_impersonators": "._impersonators",
    "request_problem": "._limits",
    "split_message": "._parts",
}


def __getattr__(name: str) -> Any:
    # A client reads feeds and serves none, and each module takes time to load.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
