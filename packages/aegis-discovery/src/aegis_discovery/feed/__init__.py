"""Both ends of a feed, without I/O. For code that builds nodes."""

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
