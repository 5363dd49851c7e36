"""Addresses, identity probes and channels to single nodes. For code that builds nodes."""

from aegis_discovery._runtime.addresses import (
    SeedPeer,
    is_wildcard,
    join_address,
    parse_seed,
    split_address,
    split_host_port,
)
from aegis_discovery.transport._backoff import Backoff
from aegis_discovery.transport._channels import ChannelCache, open_channel
from aegis_discovery.transport._probe import describe_call_error, probe_identity
from aegis_discovery.transport._resolve import Resolver, resolve_seed
from aegis_discovery.transport._shared import FEED_OPTIONS, SHED_METADATA, channel_credentials

__all__ = [
    "FEED_OPTIONS",
    "SHED_METADATA",
    "Backoff",
    "ChannelCache",
    "Resolver",
    "SeedPeer",
    "channel_credentials",
    "describe_call_error",
    "is_wildcard",
    "join_address",
    "open_channel",
    "parse_seed",
    "probe_identity",
    "resolve_seed",
    "split_address",
    "split_host_port",
]
