"""Following a feed over gRPC. For code that builds nodes."""

from aegis_discovery._client.follow import (
    FEED_TIMEOUT,
    FeedDivergedError,
    FeedGarbageError,
    FeedTimeoutError,
    follow,
)

__all__ = ["FEED_TIMEOUT", "FeedDivergedError", "FeedGarbageError", "FeedTimeoutError", "follow"]
