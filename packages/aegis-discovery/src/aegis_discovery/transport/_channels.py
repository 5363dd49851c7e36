"""Blocking channels: each to one known node, over mutual TLS."""

from __future__ import annotations

import grpc
from aegis_certs import TLSConfig

from aegis_discovery.transport._shared import (
    BaseChannelCache,
    Options,
    channel_credentials,
    channel_options,
)


def open_channel(
    tls: TLSConfig, node_id: str, address: str, *, options: Options = ()
) -> grpc.Channel:
    """Opens a channel that only the given node can serve; it connects on first use.

    Args:
        tls: Our identity.
        node_id: The node that must answer.
        address: Its `host:port`.
        options: Further channel options of gRPC.
    """
    return grpc.secure_channel(
        address, channel_credentials(tls), options=channel_options(node_id, options)
    )


class ChannelCache(BaseChannelCache[grpc.Channel]):
    """One channel per node id and address, shared by all code that calls that node.

    The cache holds weak references: a channel lives as long as somebody holds it. Drop the
    reference to release it; calls under way end normally, then gRPC closes the connection.

    Args:
        tls: Our identity; without one it opens no channel before `change_identity`.
        options: Further channel options of gRPC.
    """

    def __init__(self, tls: TLSConfig | None = None, *, options: Options = ()) -> None:
        super().__init__(tls, options)

    def close(self) -> None:
        """Closes every channel; calls under way are cancelled."""
        for channel in self._end():
            channel.close()

    def _open(self, address: str, options: Options) -> grpc.Channel:
        return grpc.secure_channel(address, self._credentials, options=options)
