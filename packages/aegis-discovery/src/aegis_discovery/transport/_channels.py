"""Blocking channels: each to one known node, over mutual TLS."""

from __future__ import annotations

import time
from collections.abc import Iterable

import grpc
from aegis_certs import TLSConfig

from aegis_discovery.transport._shared import (
    BaseChannelCache,
    Options,
    channel_credentials,
    channel_options,
)

_POLLING_ENDS = 1.0
"""Seconds to wait at most until gRPC polls no connectivity any more."""


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
        channels = self._end()
        _end_polling(channels)
        for channel in channels:
            channel.close()

    def _open(self, address: str, options: Options) -> grpc.Channel:
        return grpc.secure_channel(address, self._credentials, options=options)


def _end_polling(channels: Iterable[grpc.Channel]) -> None:
    """Ends the watches of channels, and the threads with which gRPC polls for them.

    On a closed channel such a thread fails, with a traceback. It notices within 0.2 s that nothing
    watches any more. gRPC has no public way to wait for that.
    """
    states = []
    for channel in channels:
        state = getattr(channel, "_connectivity_state", None)
        if state is not None and getattr(state, "polling", False):
            with state.lock:
                state.callbacks_and_connectivities.clear()
                state.try_to_connect = False
            states.append(state)
    deadline = time.monotonic() + _POLLING_ENDS
    while any(state.polling for state in states) and time.monotonic() < deadline:
        time.sleep(0.01)
