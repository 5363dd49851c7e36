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
from aegis_discovery._stubs import StubCallable
from aegis_discovery.aio._calls import RetriedCall, RetriedStreamCall, RetriedUnaryCall, observe
from aegis_discovery.aio._unrouted import NoProvidersRpcError, UnroutedCall

# The stubs of grpc make these classes generic; at run time not all of them are.
# mypy: disable-error-code="type-arg"

_Callable: TypeAlias = StubCallable[grpc.aio.Channel]

_READY = grpc.ChannelConnectivity.READY
_LOST = frozenset({grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN})
_PACE = 0.05
"""Seconds from one provider that is out of reach to the next, for those who wait for any."""

Connect: TypeAlias = Callable[["Endpoint[grpc.aio.Channel]"], grpc.aio.Channel]


def _one_request(retried: type[RetriedCall]) -> Callable[..., Any]:
    """Makes the method that sends one request, which can be sent again."""

    def call(
        self: _Callable,
        request: Any,
        *,
        timeout: float | None = None,
        wait_for_ready: bool | None = None,
        **options: Any,
    ) -> Any:
        router = self.router
        try:
            if router.retry:
                return retried(self, request, timeout, wait_for_ready, options)
            endpoint = router.pick()
        except NoProvidersRpcError as error:
            return UnroutedCall(error)
        started = self.at(endpoint)(
            request, timeout=timeout, wait_for_ready=wait_for_ready, **options
        )
        return observe(started, router, endpoint)

    return call


def _many_requests(self: _Callable, request_iterator: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Sends a stream of requests; nothing can send that twice."""
    try:
        endpoint = self.router.pick()
    except NoProvidersRpcError as error:
        return UnroutedCall(error)
    call = self.at(endpoint)(request_iterator, *args, **kwargs)
    return observe(call, self.router, endpoint)


class _UnaryUnary(_Callable, grpc.aio.UnaryUnaryMultiCallable):
    kind = "unary_unary"
    __call__ = _one_request(RetriedUnaryCall)


class _UnaryStream(_Callable, grpc.aio.UnaryStreamMultiCallable):
    kind = "unary_stream"
    __call__ = _one_request(RetriedStreamCall)


class _StreamUnary(_Callable, grpc.aio.StreamUnaryMultiCallable):
    kind = "stream_unary"
    __call__ = _many_requests


class _StreamStream(_Callable, grpc.aio.StreamStreamMultiCallable):
    kind = "stream_stream"
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

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.unary_unary`."""
        return _UnaryUnary(self._router, self._connect, method, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.unary_stream`."""
        return _UnaryStream(self._router, self._connect, method, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.stream_unary`."""
        return _StreamUnary(self._router, self._connect, method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.stream_stream`."""
        return _StreamStream(self._router, self._connect, method, *args, **kwargs)

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

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.unary_unary`."""
        return self._channel.unary_unary(method, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.unary_stream`."""
        return self._channel.unary_stream(method, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.stream_unary`."""
        return self._channel.stream_unary(method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel.stream_stream`."""
        return self._channel.stream_stream(method, *args, **kwargs)

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
