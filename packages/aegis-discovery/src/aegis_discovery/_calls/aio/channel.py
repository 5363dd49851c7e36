"""The channels that the async pool hands out."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, Self

import grpc
import grpc.aio

from aegis_discovery._calls.aio.call import RetriedCall, RetriedStreamCall, RetriedUnaryCall
from aegis_discovery._calls.aio.ended import track
from aegis_discovery._calls.aio.no_providers import NoProvidersCall, NoProvidersRpcError
from aegis_discovery._calls.aio.request_streams import WaitingChatCall, WaitingRequestsCall
from aegis_discovery._calls.aio.waiting import provider_may_have_come
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.stubs import (
    BalancedMethods,
    BorrowedMethods,
    StubCallable,
    reusable_metadata,
)
from aegis_discovery.transport._grpc_internals import direct

# The stubs of grpc make these classes generic; at run time not all of them are.
# mypy: disable-error-code="type-arg"


_READY = grpc.ChannelConnectivity.READY
_LOST = frozenset({grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN})
_RETRY_INTERVAL = 0.05
"""Seconds between two unreachable providers, while a caller waits for any connection."""


class _Callable(StubCallable[grpc.aio.Channel]):
    def _make(self, endpoint: Endpoint[grpc.aio.Channel]) -> Any:
        return super()._make(endpoint).__call__  # which takes fewer steps than the object itself


def _one_request(retried: type[RetriedCall]) -> Callable[..., Any]:
    """Makes the method that sends one request, and may repeat it."""

    def call(
        self: _Callable,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        if self.timeout is not None:
            timeout = self.limit_timeout(timeout)
        if wait_for_ready is None:
            wait_for_ready = self.wait_for_ready
        if metadata is not None:
            metadata = reusable_metadata(metadata)
        try:
            return retried(
                self, request, timeout, wait_for_ready, metadata, credentials, compression
            )
        except NoProvidersRpcError as error:
            self.edges[""].rejected(error.code().value[0])
            return NoProvidersCall(error)

    return call


def _many_requests(waiting: type[RetriedCall]) -> Callable[..., Any]:
    """Makes the method that sends a stream of requests, which cannot be repeated."""

    def call(
        self: _Callable,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        timeout = self.limit_timeout(timeout)
        if self.wait_for_ready if wait_for_ready is None else wait_for_ready:
            return waiting(
                self, request_iterator, timeout, True, metadata, credentials, compression
            )
        try:
            endpoint = self.router.pick(monotonic())
        except NoProvidersRpcError as error:
            self.edges[""].rejected(error.code().value[0])
            return NoProvidersCall(error)
        method, edge = self.route_to(endpoint)
        started = method(request_iterator, timeout, metadata, credentials, None, compression)
        return track(started, self.router, endpoint, edge)

    return call


class _UnaryUnary(_Callable, grpc.aio.UnaryUnaryMultiCallable):
    def _make(self, endpoint: Endpoint[grpc.aio.Channel]) -> Any:
        channel = self._connect(endpoint)
        method = channel.unary_unary(*self._args, **self._kwargs)
        return direct(channel, method, endpoint.waiting) or method.__call__

    __call__ = _one_request(RetriedUnaryCall)


class _UnaryStream(_Callable, grpc.aio.UnaryStreamMultiCallable):
    __call__ = _one_request(RetriedStreamCall)


class _StreamUnary(_Callable, grpc.aio.StreamUnaryMultiCallable):
    __call__ = _many_requests(WaitingRequestsCall)


class _StreamStream(_Callable, grpc.aio.StreamStreamMultiCallable):
    __call__ = _many_requests(WaitingChatCall)


class BalancedChannel(BalancedMethods[grpc.aio.Channel], grpc.aio.Channel):
    """A channel to a service that balances each call over the providers.

    A closed channel refuses further calls. The connections of the pool stay open. The connectivity
    of the channel is that of one provider at a time, and of the next one when that fails.
    """

    kinds = {  # noqa: RUF012 - a ClassVar by its declaration
        "unary_unary": _UnaryUnary,
        "unary_stream": _UnaryStream,
        "stream_unary": _StreamUnary,
        "stream_stream": _StreamStream,
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._watched: weakref.ref[grpc.aio.Channel] | None = None

    def _traced(self, kind: str) -> type[StubCallable[Any]]:
        from aegis_discovery._calls.aio.traced import traced  # few pools are traced

        kinds: Any = self.kinds
        return traced(kinds[kind], kind)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Returns the connectivity of the watched provider.

        Without a provider it is `TRANSIENT_FAILURE`.
        """
        try:
            return self._watched_channel().get_state(try_to_connect)
        except NoProvidersRpcError:
            self._watched = None
            return grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        # Only get_state moves on to the next provider: without a request to connect, that one may
        # stay in the same state for ever.
        channel = self._watched() if self._watched else None
        if channel is None:
            if last_observed_state in _LOST:
                await provider_may_have_come(self._router)
            return
        if channel.get_state() is not last_observed_state:
            return
        if last_observed_state in _LOST:
            # gRPC keeps this state until it reconnects; the next provider may be connected already.
            await asyncio.sleep(_RETRY_INTERVAL)
        else:
            await channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until there is a provider that is connected."""
        while (state := self.get_state(try_to_connect=True)) is not _READY:
            await self.wait_for_state_change(state)

    def _watched_channel(self) -> grpc.aio.Channel:
        channel = self._watched() if self._watched else None
        if channel is None or channel.get_state() in _LOST:
            channel = self._connect(self._router.pick(monotonic()))
            self._watched = weakref.ref(channel)
        return channel

    async def close(self, grace: float | None = None) -> None:
        self._router.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class BorrowedChannel(BorrowedMethods[grpc.aio.Channel], grpc.aio.Channel):
    """The channel of one provider, which the rest of the pool also uses."""

    def _traced(self, kind: str) -> Callable[..., Any]:
        from aegis_discovery._calls.aio.traced import borrowed  # few pools are traced

        return borrowed(kind)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        state: grpc.ChannelConnectivity = self._channel.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        pass  # other calls use the channel too

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass
