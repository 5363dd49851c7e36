"""Whether a service can be reached, for those who wait for a channel to be ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial

import grpc

_BEST_FIRST = (
    grpc.ChannelConnectivity.READY,
    grpc.ChannelConnectivity.CONNECTING,
    grpc.ChannelConnectivity.IDLE,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN,
)


class ConnectivityWatch:
    """Follows some channels, and tells the best state that any of them is in.

    Args:
        channels: The channels.
        callback: Told that state, and each change of it.
        try_to_connect: Whether the channels are to connect for it.
    """

    def __init__(
        self,
        channels: Iterable[grpc.Channel],
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool,
    ) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        self._states: dict[grpc.Channel, grpc.ChannelConnectivity] = {}
        self._told: grpc.ChannelConnectivity | None = None
        self._watchers = {channel: partial(self._changed, channel) for channel in channels}
        for channel, watcher in self._watchers.items():
            channel.subscribe(watcher, try_to_connect)

    def _changed(self, channel: grpc.Channel, state: grpc.ChannelConnectivity) -> None:
        with self._lock:
            self._states[channel] = state
            best = min(self._states.values(), key=_BEST_FIRST.index)
            if best is self._told:
                return
            self._told = best
        self._callback(best)

    def end(self) -> None:
        """Tells nothing more."""
        for channel, watcher in self._watchers.items():
            channel.unsubscribe(watcher)
