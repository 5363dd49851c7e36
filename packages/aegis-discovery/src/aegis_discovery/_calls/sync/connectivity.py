"""The connectivity of a balanced channel, for those who subscribe to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TypeAlias

import grpc

from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.stubs import Connect
from aegis_discovery._calls.sync.no_providers import NoProvidersRpcError
from aegis_discovery._calls.sync.waiting import Pause, SyncRouter

_Callback: TypeAlias = Callable[[grpc.ChannelConnectivity], None]

_BEST_FIRST = (
    grpc.ChannelConnectivity.READY,
    grpc.ChannelConnectivity.CONNECTING,
    grpc.ChannelConnectivity.IDLE,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
    grpc.ChannelConnectivity.SHUTDOWN,
)

_LOST = frozenset(_BEST_FIRST[3:])

_WATCHED = 4
"""Providers that one subscriber watches: gRPC polls the connectivity of each with a thread."""


class ConnectivityWatch:
    """Watches the next few providers; reports their best state and each change of it.

    While there is no provider, and while none of them can be reached, the state is
    `TRANSIENT_FAILURE`. The watch goes on with the first provider that joins or answers.

    Raises:
        ClosedError: If the channel or its pool was closed.
    """

    def __init__(
        self,
        router: SyncRouter,
        connect: Connect[grpc.Channel],
        callback: _Callback,
        try_to_connect: bool,
    ) -> None:
        self._router = router
        self._connect = connect
        self._callback = callback
        self._try_to_connect = try_to_connect
        self._lock = threading.Lock()
        self._states: dict[grpc.Channel, grpc.ChannelConnectivity] = {}
        self._reported: grpc.ChannelConnectivity | None = None
        self._watchers: dict[grpc.Channel, _Callback] = {}
        self._pause: Pause | None = None
        self._cancelled = False
        try:
            endpoints = {router.pick(monotonic()) for _ in range(_WATCHED)}
        except NoProvidersRpcError:
            # As in gRPC, the first state arrives in another thread.
            threading.Thread(target=self._start_without_provider, daemon=True).start()
        else:
            self._watch(endpoints)

    def _start_without_provider(self) -> None:
        self._reported = grpc.ChannelConnectivity.TRANSIENT_FAILURE
        self._callback(self._reported)
        self._follow()

    def _watch(self, endpoints: set[Endpoint[grpc.Channel]]) -> None:
        with self._lock:
            if self._cancelled:
                return
            before, self._watchers = self._watchers, {}
            self._states.clear()
            self._pause = None
            for endpoint in endpoints:
                channel = self._connect(endpoint)
                self._watchers[channel] = partial(self._changed, channel)
            watchers = dict(self._watchers)
        for channel, watcher in before.items():
            channel.unsubscribe(watcher)
        for channel, watcher in watchers.items():
            channel.subscribe(watcher, self._try_to_connect)

    def _changed(self, channel: grpc.Channel, state: grpc.ChannelConnectivity) -> None:
        with self._lock:
            if channel not in self._watchers:
                return
            self._states[channel] = state
            best = min(self._states.values(), key=_BEST_FIRST.index)
            lost = best in _LOST and len(self._states) == len(self._watchers)
            if best is self._reported:
                return
            self._reported = best
        if lost and self._try_to_connect:
            self._follow()
        self._callback(best)

    def _follow(self) -> None:
        """Goes on with the next provider; one that is only connected to answers a probe first."""
        with self._lock:
            if self._pause is None and not self._cancelled:
                self._pause = Pause(
                    self._router,
                    None,
                    lambda endpoint: self._watch({endpoint}),
                    once=self._try_to_connect,
                )

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            pause, self._pause = self._pause, None
        if pause is not None:
            pause.cancel()
        for channel, watcher in self._watchers.items():
            channel.unsubscribe(watcher)
