"""The channels that the async pool hands out."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any, Self, TypeAlias

import grpc
import grpc.aio

from aegis_discovery._endpoints import Endpoint
from aegis_discovery._routing import Router
from aegis_discovery.aio._calls import (
    NoProvidersRpcError,
    RetriedStreamCall,
    RetriedUnaryCall,
    UnroutedCall,
    observe,
)

# The stubs of grpc make these classes generic; at run time not all of them are.
# mypy: disable-error-code="type-arg"

_READY = grpc.ChannelConnectivity.READY
_LOST = frozenset({grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN})
_PACE = 0.05
"""Seconds from one provider that is out of reach to the next, for those who wait for any."""

Connect: TypeAlias = Callable[["Endpoint[grpc.aio.Channel]"], grpc.aio.Channel]


class _StubCallable:
    """For each call, the same method of the endpoint that is picked."""

    _kind: str

    def __init__(
        self, router: Router[grpc.aio.Channel], connect: Connect, *args: Any, **kwargs: Any
    ) -> None:
        self._router = router
        self._connect = connect
        self._args = args
        self._kwargs = kwargs
        # By endpoint, and without holding one: it goes when its provider leaves the mesh.
        self._callables: weakref.WeakKeyDictionary[Endpoint[grpc.aio.Channel], Any] = (
            weakref.WeakKeyDictionary()
        )

    def _at(self, endpoint: Endpoint[grpc.aio.Channel]) -> Any:
        found = self._callables.get(endpoint)
        if found is None:
            make = getattr(self._connect(endpoint), self._kind)
            found = self._callables[endpoint] = make(*self._args, **self._kwargs)
        return found


def _one_request(retried: Callable[..., grpc.aio.Call]) -> Callable[..., Any]:
    """Makes the method that sends one request, which can be sent again."""

    def call(
        self: _StubCallable,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        def start(
            endpoint: Endpoint[grpc.aio.Channel], timeout: float | None, wait: bool | None
        ) -> Any:
            return self._at(endpoint)(
                request,
                timeout=timeout,
                metadata=metadata,
                credentials=credentials,
                wait_for_ready=wait,
                compression=compression,
            )

        router = self._router
        try:
            if router.retry:
                return retried(router, start, timeout, wait_for_ready)
            endpoint = router.pick()
        except NoProvidersRpcError as error:
            return UnroutedCall(error)
        return observe(start(endpoint, timeout, wait_for_ready), router, endpoint)

    return call


def _many_requests(
    self: _StubCallable, request_iterator: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Sends a stream of requests; nothing can send that twice."""
    try:
        endpoint = self._router.pick()
    except NoProvidersRpcError as error:
        return UnroutedCall(error)
    call = self._at(endpoint)(request_iterator, *args, **kwargs)
    return observe(call, self._router, endpoint)


class _UnaryUnary(_StubCallable, grpc.aio.UnaryUnaryMultiCallable):
    _kind = "unary_unary"
    __call__ = _one_request(RetriedUnaryCall)


class _UnaryStream(_StubCallable, grpc.aio.UnaryStreamMultiCallable):
    _kind = "unary_stream"
    __call__ = _one_request(RetriedStreamCall)


class _StreamUnary(_StubCallable, grpc.aio.StreamUnaryMultiCallable):
    _kind = "stream_unary"
    __call__ = _many_requests


class _StreamStream(_StubCallable, grpc.aio.StreamStreamMultiCallable):
    _kind = "stream_stream"
    __call__ = _many_requests


class BalancedChannel(grpc.aio.Channel):
    """A channel to a service: each call goes to the provider whose turn it is.

    Closing it refuses further calls through it, and leaves the pool's connections alone. Its
    connectivity is that of one provider at a time, and of the next one when that fails.
    """

    def __init__(self, router: Router[grpc.aio.Channel], connect: Connect) -> None:
        self._router = router
        self._connect = connect
        self._followed: weakref.ref[grpc.aio.Channel] | None = None

    def __repr__(self) -> str:
        return f"<BalancedChannel {self._router!r}>"

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.unary_unary`."""
        return _UnaryUnary(self._router, self._connect, *args, **kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.unary_stream`."""
        return _UnaryStream(self._router, self._connect, *args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.stream_unary`."""
        return _StreamUnary(self._router, self._connect, *args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.stream_stream`."""
        return _StreamStream(self._router, self._connect, *args, **kwargs)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Returns the connectivity of the provider that is followed.

        Raises:
            NoProvidersError: If nobody provides the service.
        """
        return self._follow().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until `get_state` may return another state."""
        # Only get_state moves on: the next provider may be in that state for good, if unasked.
        channel = self._followed() if self._followed else None
        if channel is None or channel.get_state() is not last_observed_state:
            return
        if last_observed_state in _LOST:
            # gRPC stays so until it is connected again; the next provider may be there already.
            await asyncio.sleep(_PACE)
        else:
            await channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until a provider is connected.

        Raises:
            NoProvidersError: If nobody provides the service.
        """
        while (state := self.get_state(try_to_connect=True)) is not _READY:
            await self.wait_for_state_change(state)

    def _follow(self) -> grpc.aio.Channel:
        channel = self._followed() if self._followed else None
        if channel is None or channel.get_state() in _LOST:
            channel = self._connect(self._router.pick())
            self._followed = weakref.ref(channel)
        return channel

    async def close(self, grace: float | None = None) -> None:
        """Takes no more calls."""
        self._router.closed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class BorrowedChannel(grpc.aio.Channel):
    """The channel of one provider, shared with the rest of the pool; closing it does nothing."""

    def __init__(self, endpoint: Endpoint[grpc.aio.Channel], channel: grpc.aio.Channel) -> None:
        self._endpoint = endpoint
        self._channel = channel

    def __repr__(self) -> str:
        return f"<BorrowedChannel {self._endpoint!r}>"

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.unary_unary`."""
        return self._channel.unary_unary(*args, **kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.unary_stream`."""
        return self._channel.unary_stream(*args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.stream_unary`."""
        return self._channel.stream_unary(*args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.stream_stream`."""
        return self._channel.stream_stream(*args, **kwargs)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See `grpc.aio.Channel.get_state`."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See `grpc.aio.Channel.wait_for_state_change`."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See `grpc.aio.Channel.channel_ready`."""
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Does nothing, since others use the channel too."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass
