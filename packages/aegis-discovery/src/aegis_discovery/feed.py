"""The feed, both ends, without I/O. For those who build nodes."""

from aegis_discovery._complaints import Complaints
from aegis_discovery._feed import FeedReader, Received, parts
from aegis_discovery._feed_writer import CHUNK, FeedWriter
from aegis_discovery._limits import MAX_MESSAGE, MAX_REQUEST, why_not_served
from aegis_discovery._pace import BATCH, HEARTBEAT, MAX_BATCH, Pace

__all__ = [
    "BATCH",
    "CHUNK",
    "HEARTBEAT",
    "MAX_BATCH",
    "MAX_MESSAGE",
    "MAX_REQUEST",
    "Complaints",
    "FeedReader",
    "FeedWriter",
    "Pace",
    "Received",
    "parts",
    "why_not_served",
]
