"""Channels to single nodes, for asyncio. For code that builds nodes."""

from aegis_discovery.transport._aio_channels import ChannelCache, open_channel

__all__ = ["ChannelCache", "open_channel"]
