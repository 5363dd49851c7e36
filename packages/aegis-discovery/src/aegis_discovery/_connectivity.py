"""Whether a service can be reached, for those who wait for a channel to be ready."""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc

from aegis_discovery.errors import DiscoveryError


class ConnectivityWatch:
    """Follows the connectivity of one provider's channel, and of the next one when that fails.

    Args:
        next_channel: Returns the channel of the provider whose turn it is.
        callback: Told every state.
        try_to_connect: Whether to connect for it.
    """

    def __init__(
        self,
        next_channel: Callable[[], grpc.Channel],
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool,
    ) -> None:
        self._next_channel = next_channel
        self._callback = callback
        self._try_to_connect = try_to_connect
        self._lock = threading.Lock()
        self._ended = False
        self._channel = next_channel()
        self._channel.subscribe(self._changed, try_to_connect)

    def _changed(self, state: grpc.ChannelConnectivity) -> None:
        self._callback(state)
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            self._move()

    def _move(self) -> None:
        try:
            channel = self._next_channel()
        except DiscoveryError:
            return  # nobody is left to move to
        with self._lock:
            if self._ended or channel is self._channel:
                return
            self._channel.unsubscribe(self._changed)
            self._channel = channel
            channel.subscribe(self._changed, self._try_to_connect)

    def end(self) -> None:
        """Tells nothing more."""
        with self._lock:
            self._ended = True
            self._channel.unsubscribe(self._changed)
