"""Reaching one node: its address, its identity, a channel to it. For those who build nodes."""

from aegis_discovery._backoff import Backoff
from aegis_discovery._handshake import explain_failure, identify
from aegis_discovery._seed import (
    SeedPeer,
    is_wildcard,
    join_address,
    parse_seed,
    split_address,
    split_host_port,
)
from aegis_discovery._transport import ChannelCache, channel_credentials, open_channel

__all__ = [
    "Backoff",
    "ChannelCache",
    "SeedPeer",
    "channel_credentials",
    "explain_failure",
    "identify",
    "is_wildcard",
    "join_address",
    "open_channel",
    "parse_seed",
    "split_address",
    "split_host_port",
]
