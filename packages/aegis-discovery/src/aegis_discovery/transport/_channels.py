"""One secure channel to one known node."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any, TypeAlias

import grpc
from aegis_certs import TLSConfig

from aegis_discovery._address import SeedPeer, parse_seed
from aegis_discovery._message_limits import SERVICE_CONFIG
from aegis_discovery.errors import ClosedError
from aegis_discovery.transport._probe import describe_call_error, probe_identity

__all__ = [
    "ChannelCache",
    "Options",
    "SeedPeer",
    "channel_credentials",
    "channel_options",
    "describe_call_error",
    "open_channel",
    "parse_seed",
    "probe_identity",
]

Options: TypeAlias = Sequence[tuple[str, Any]]


def channel_options(node_id: str, options: Options = ()) -> Options:
    """Returns what a channel of the mesh is opened with.

    Args:
        node_id: Who must answer.
        options: Options of the user; they win over all of ours but the check of the name.
    """
    # Of two options of one name, gRPC takes the first.
    return (
        # The server's certificate must be this node's, whatever the address says.
        ("grpc.ssl_target_name_override", node_id),
        *options,
        # What a peer sends costs memory before anybody can look at it.
        ("grpc.service_config", SERVICE_CONFIG),
        # The probes measure bandwidth for windows above 64 KiB, and more than double the
        # traffic of an idle stream.
        ("grpc.http2.bdp_probe", 0),
        # Nodes dial each other directly; a proxy of the environment is for the world outside.
        ("grpc.enable_http_proxy", 0),
        # gRPC's own pace of reconnecting is 1 s to 2 min: a provider that is back would stay
        # unused long after the pool wants to try it again.
        ("grpc.initial_reconnect_backoff_ms", 250),
        ("grpc.max_reconnect_backoff_ms", 10_000),
        # One attempt to connect may take 20 s by default, and the first call waits for it.
        ("grpc.min_reconnect_backoff_ms", 5_000),
    )


def channel_credentials(tls: TLSConfig) -> grpc.ChannelCredentials:
    """Returns the credentials that show our certificate and trust our bundle only."""
    return grpc.ssl_channel_credentials(tls.trust_bundle, tls.private_key, tls.certificate_chain)


def open_channel(
    tls: TLSConfig, node_id: str, address: str, *, options: Options = ()
) -> grpc.Channel:
    """Opens a channel that only the node with this id can serve; it connects when first used.

    Args:
        tls: Our identity.
        node_id: Who must answer.
        address: Where, as `host:port`.
        options: Further channel options of gRPC.
    """
    return grpc.secure_channel(
        address, channel_credentials(tls), options=channel_options(node_id, options)
    )


class ChannelCache:
    """One channel per node id and address, shared by all who call that node.

    A channel lives as long as somebody holds it. Who has no more use for one lets go of it; calls
    that are under way end in their own time, then gRPC closes the connection.

    Args:
        tls: Our identity.
        options: Further channel options of gRPC.
    """

    def __init__(self, tls: TLSConfig, *, options: Options = ()) -> None:
        self._credentials = channel_credentials(tls)
        self._options = tuple(options)
        self._lock = threading.Lock()
        self._closed = False
        self._channels: weakref.WeakValueDictionary[tuple[str, str], grpc.Channel] = (
            weakref.WeakValueDictionary()
        )

    def __len__(self) -> int:
        return len(self._channels)

    def get(self, node_id: str, address: str) -> grpc.Channel:
        """Returns the channel to a node, opening it where there is none.

        Raises:
            ClosedError: If the cache was closed.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("channel cache")
            channel = self._channels.get((node_id, address))
            if channel is None:
                channel = grpc.secure_channel(
                    address,
                    self._credentials,
                    options=channel_options(node_id, self._options),
                )
                self._channels[node_id, address] = channel
            return channel

    def change_identity(self, tls: TLSConfig) -> None:
        """Opens channels with another identity from now on; those that somebody holds go on."""
        credentials = channel_credentials(tls)
        with self._lock:
            self._credentials = credentials
            self._channels.clear()

    def close(self) -> None:
        """Closes every channel; calls under way are cancelled."""
        with self._lock:
            self._closed = True
            channels = list(self._channels.values())
        for channel in channels:
            channel.close()
