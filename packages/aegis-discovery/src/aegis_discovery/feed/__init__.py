"""The feed, both ends, without I/O. For those who build nodes."""

from aegis_discovery._message_limits import MAX_MESSAGE
from aegis_discovery.feed._limits import MAX_REQUEST, why_not_served
from aegis_discovery.feed._pacing import BATCH, HEARTBEAT, MAX_BATCH, Pace
from aegis_discovery.feed._reader import FeedReader, Received, parts
from aegis_discovery.feed._writer import CHUNK, FeedWriter

__all__ = [
    "BATCH",
    "CHUNK",
    "HEARTBEAT",
    "MAX_BATCH",
    "MAX_MESSAGE",
    "MAX_REQUEST",
    "FeedReader",
    "FeedWriter",
    "Pace",
    "Received",
    "parts",
    "why_not_served",
]
