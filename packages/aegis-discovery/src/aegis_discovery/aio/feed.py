"""Following a feed over gRPC. For code that builds nodes."""

from aegis_discovery._client.follow import SILENCE, FeedDivergedError, FeedSilentError, follow

__all__ = ["SILENCE", "FeedDivergedError", "FeedSilentError", "follow"]
