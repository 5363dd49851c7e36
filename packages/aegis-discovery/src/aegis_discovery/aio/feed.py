"""Following a feed over gRPC. For those who build nodes."""

from aegis_discovery.aio._feed import SILENCE, FeedApartError, FeedSilentError, follow

__all__ = ["SILENCE", "FeedApartError", "FeedSilentError", "follow"]
