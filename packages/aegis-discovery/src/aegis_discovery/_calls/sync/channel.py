"""The channels that the sync pool hands out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any, Self, TypeAlias

import grpc

from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.router import deadline_of, time_left
from aegis_discovery._calls.stubs import BalancedMethods, BorrowedMethods, StubCallable, repeatable
from aegis_discovery._calls.sync.call import RetriedCall, end_of, observe
from aegis_discovery._calls.sync.no_providers import NoProvidersRpcError

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


# The stubs of grpc make these classes generic; at run time they are not.
# mypy: disable-error-code="type-arg"
_Callable: TypeAlias = StubCallable[grpc.Channel]

_WATCHED = 4
"""Providers whose connectivity one subscriber follows: gRPC polls each with a thread."""


def _waiting(how: str) -> Callable[..., Any]:
    """Makes a method that blocks for the response to one request."""

    def call(
        self: _Callable,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        router, policy = self.router, self.retry
        began = monotonic()
        endpoint = router.pick(began)
        if self.timeout is not None:
            timeout = self.within(timeout)
        deadline = None if timeout is None else began + timeout
        waits = self.wait_for_ready if wait_for_ready is None else wait_for_ready
        wait = waits and router.waits(policy)
        if metadata is not None:
            metadata = repeatable(metadata)
        tried: tuple[Endpoint[grpc.Channel], ...] = ()
        while True:
            token = object()
            endpoint.asked(began, token)
            waiting = endpoint.waiting
            try:
                response = getattr(self.at(endpoint), how)(
                    request, timeout, metadata, credentials, wait, compression
                )
            except grpc.RpcError as error:
                if not isinstance(error, grpc.Call):
                    raise  # an interceptor's own
                tried = (*tried, endpoint)
                other = router.after(tried, end_of(error), policy, deadline=deadline, waiting=waits)
                if other is None:
                    raise
            else:
                endpoint.answered(began, monotonic())
                return response
            finally:
                waiting.discard(token)
            endpoint, timeout, began = other, time_left(deadline), monotonic()
            wait = waits and router.waits(policy, len(tried))

    return call


def _beginning(how: str) -> Callable[..., Any]:
    """Makes a method that sends one request and returns the call."""

    def call(
        self: _Callable,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        def start(
            endpoint: Endpoint[grpc.Channel], timeout: float | None, wait: bool | None
        ) -> Any:
            return getattr(self.at(endpoint), how)(
                request, timeout, metadata, credentials, wait, compression
            )

        router, policy = self.router, self.retry
        metadata = repeatable(metadata)
        timeout = self.within(timeout)
        wait = self.wait_for_ready if wait_for_ready is None else wait_for_ready
        streams = how != "future"
        try:
            endpoint = router.pick(monotonic())
        except NoProvidersRpcError as error:
            return error
        deadline = deadline_of(timeout)
        call = start(endpoint, timeout, wait and router.waits(policy))
        if not isinstance(call, grpc.Call):
            return call  # an interceptor's own: it tells nothing of itself, and cannot go on
        if policy is None:
            return observe(call, router, endpoint, streams=streams)
        return RetriedCall(router, start, policy, deadline, wait, endpoint, call, streams=streams)

    return call


def _waiting_stream(how: str) -> Callable[..., Any]:
    """Makes a method that blocks for the response to a stream; nothing can send that twice."""

    def call(
        self: _Callable,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        began = monotonic()
        endpoint = self.router.pick(began)
        wait = self.wait_for_ready if wait_for_ready is None else wait_for_ready
        token = object()
        endpoint.streaming.add(token)
        try:
            response = getattr(self.at(endpoint), how)(
                request_iterator, self.within(timeout), metadata, credentials, wait, compression
            )
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call):
                self.router.note(endpoint, end_of(error, streams=True), monotonic())
            raise
        finally:
            endpoint.streaming.discard(token)
        if endpoint.troubled:
            endpoint.succeeded()
        return response

    return call


def _beginning_stream(how: str) -> Callable[..., Any]:
    """Makes a method that sends a stream and returns the call."""

    def call(
        self: _Callable,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        try:
            endpoint = self.router.pick(monotonic())
        except NoProvidersRpcError as error:
            return error
        wait = self.wait_for_ready if wait_for_ready is None else wait_for_ready
        started = getattr(self.at(endpoint), how)(
            request_iterator, self.within(timeout), metadata, credentials, wait, compression
        )
        if not isinstance(started, grpc.Call):
            return started
        return observe(started, self.router, endpoint, streams=True)

    return call


class _UnaryUnary(_Callable, grpc.UnaryUnaryMultiCallable):
    __call__ = _waiting("__call__")
    with_call = _waiting("with_call")
    future = _beginning("future")


class _UnaryStream(_Callable, grpc.UnaryStreamMultiCallable):
    __call__ = _beginning("__call__")


class _StreamUnary(_Callable, grpc.StreamUnaryMultiCallable):
    __call__ = _waiting_stream("__call__")
    with_call = _waiting_stream("with_call")
    future = _beginning_stream("future")


class _StreamStream(_Callable, grpc.StreamStreamMultiCallable):
    __call__ = _beginning_stream("__call__")


class BalancedChannel(BalancedMethods[grpc.Channel], grpc.Channel):
    """A channel to a service: each call goes to the provider whose turn it is.

    Closing it refuses further calls through it, and leaves the pool's connections alone.
    """

    kinds = {  # noqa: RUF012 - a ClassVar by its declaration
        "unary_unary": _UnaryUnary,
        "unary_stream": _UnaryStream,
        "stream_unary": _StreamUnary,
        "stream_stream": _StreamStream,
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._watches: dict[Any, ConnectivityWatch] = {}

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool | None = None,
    ) -> None:
        """Follows the connectivity of the next few providers, and tells the best of it.

        Raises:
            NoProvidersError: If nobody provides the service.
        """
        self.unsubscribe(callback)
        channels = {self._connect(self._router.pick(monotonic())) for _ in range(_WATCHED)}
        self._watches[callback] = ConnectivityWatch(channels, callback, bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Ends what `subscribe` began."""
        watch = self._watches.pop(callback, None)
        if watch is not None:
            watch.end()

    def close(self) -> None:
        """Takes no more calls."""
        self._router.closed = True
        for callback in list(self._watches):
            self.unsubscribe(callback)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BorrowedChannel(BorrowedMethods[grpc.Channel], grpc.Channel):
    """The channel of one provider, shared with the rest of the pool; closing it does nothing."""

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool | None = None,
    ) -> None:
        """See `grpc.Channel.subscribe`."""
        self._channel.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """See `grpc.Channel.unsubscribe`."""
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        """Does nothing, since others use the channel too."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
