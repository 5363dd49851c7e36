"""The feed, both ends, without I/O. For those who build nodes."""

from aegis_discovery._feed import BATCH, CHUNK, HEARTBEAT, FeedReader, FeedWriter, Received

__all__ = ["BATCH", "CHUNK", "HEARTBEAT", "FeedReader", "FeedWriter", "Received"]
