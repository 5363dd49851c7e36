"""What channels of the blocking and the asyncio API have in common."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import grpc
from aegis_certs import TLSConfig, owner_of

from aegis_discovery._runtime.message_limits import SERVICE_CONFIG
from aegis_discovery.errors import ClosedError

ChannelT = TypeVar("ChannelT")
Options: TypeAlias = Sequence[tuple[str, Any]]

FEED_OPTIONS: Options = (("grpc.http2.bdp_probe", 0),)
"""Options of a channel for a feed, which is idle most of the time.

gRPC's probes measure how much is under way, for windows above 64 KiB. They more than double the
traffic of an idle stream, and without them a stream brings 64 KiB in each round trip.
"""

SHED_METADATA = ("aegis-shed", "1")
"""Trailing metadata of a call that its provider shed before it ran: others may have room."""


def channel_options(node_id: str, options: Options = ()) -> Options:
    """Returns the options of a channel to one node.

    Args:
        node_id: The node that must answer.
        options: The user's options. They override ours, except for the check of the name.
    """
    # Of two options with one name, gRPC takes the first.
    return (
        # The server's certificate must be this node's, whatever the address is.
        ("grpc.ssl_target_name_override", owner_of(node_id)),
        *options,
        # A large message costs memory before any of our code can check it.
        ("grpc.service_config", SERVICE_CONFIG),
        *common_options(),
    )


def common_options() -> Options:
    """Returns the options of a channel to a node, or to a registry."""
    return (
        # Nodes dial each other directly; the environment's proxy is for other destinations.
        ("grpc.enable_http_proxy", 0),
        # gRPC itself waits 1 s to 2 min between attempts to reconnect, so a provider that is
        # back would stay unused long after the pool wants to try it again.
        ("grpc.initial_reconnect_backoff_ms", 250),
        ("grpc.max_reconnect_backoff_ms", 10_000),
        # One attempt to connect may take 20 s by default, and the first call waits for it.
        ("grpc.min_reconnect_backoff_ms", 5_000),
    )


def channel_credentials(tls: TLSConfig) -> grpc.ChannelCredentials:
    """Returns the credentials that show our certificate and trust our bundle only."""
    return grpc.ssl_channel_credentials(tls.trust_bundle, tls.private_key, tls.certificate_chain)


class BaseChannelCache(Generic[ChannelT]):
    """The part of both channel caches that does not depend on the API."""

    def __init__(self, tls: TLSConfig | None, options: Options) -> None:
        self._credentials: Any = None if tls is None else channel_credentials(tls)
        self._options = tuple(options)
        self._lock = threading.Lock()
        self._closed = False
        self._channels: weakref.WeakValueDictionary[tuple[str, str], ChannelT] = (
            weakref.WeakValueDictionary()
        )

    def __len__(self) -> int:
        return len(self._channels)

    def get(self, node_id: str, address: str) -> ChannelT:
        """Returns the channel to a node; opens it if there is none.

        Raises:
            ClosedError: The cache is closed.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("channel cache")
            channel = self._channels.get((node_id, address))
            if channel is None:
                channel = self._open(address, channel_options(node_id, self._options))
                self._channels[node_id, address] = channel
            return channel

    def change_identity(self, tls: TLSConfig) -> None:
        """Opens further channels with another identity; channels that are in use stay open."""
        credentials = channel_credentials(tls)
        with self._lock:
            self._credentials = credentials
            self._channels.clear()

    def _open(self, address: str, options: Options) -> ChannelT:
        raise NotImplementedError

    def _end(self) -> list[ChannelT]:
        with self._lock:
            self._closed = True
            return list(self._channels.values())
