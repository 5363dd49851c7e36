"""Following a feed over gRPC. For those who build nodes."""

from aegis_discovery._client.follow import SILENCE, FeedApartError, FeedSilentError, follow

__all__ = ["SILENCE", "FeedApartError", "FeedSilentError", "follow"]
