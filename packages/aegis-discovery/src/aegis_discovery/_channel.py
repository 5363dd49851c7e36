"""The channels that the sync pool hands out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeAlias

import grpc

from aegis_discovery._calls import RetriedCall, observe
from aegis_discovery._connectivity import ConnectivityWatch
from aegis_discovery._endpoints import Endpoint
from aegis_discovery._routing import Router, deadline_of, time_left
from aegis_discovery._stubs import StubCallable
from aegis_discovery._unrouted import NoProvidersRpcError

# The stubs of grpc make these classes generic; at run time they are not.
# mypy: disable-error-code="type-arg"
_Callable: TypeAlias = StubCallable[grpc.Channel]

_WATCHED = 4
"""Providers whose connectivity one subscriber follows: gRPC polls each with a thread."""

Connect: TypeAlias = Callable[["Endpoint[grpc.Channel]"], grpc.Channel]


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
        router = self.router
        endpoint = router.pick()
        deadline = deadline_of(timeout)
        wait = router.first_wait(wait_for_ready) if wait_for_ready else wait_for_ready
        again = True
        while True:
            try:
                response = getattr(self.at(endpoint), how)(
                    request, timeout, metadata, credentials, wait, compression
                )
            except grpc.RpcError as error:
                other = _after(router, endpoint, error, deadline=deadline, again=again)
                if other is None:
                    raise
            else:
                if endpoint.backoff:
                    endpoint.succeeded()
                return response
            endpoint, timeout, wait, again = other, time_left(deadline), wait_for_ready, False

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

        router = self.router
        try:
            if router.retry:
                return RetriedCall(router, start, timeout, wait_for_ready)
            endpoint = router.pick()
        except NoProvidersRpcError as error:
            return error
        return observe(start(endpoint, timeout, wait_for_ready), router, endpoint)

    return call


def _waiting_stream(how: str) -> Callable[..., Any]:
    """Makes a method that blocks for the response to a stream; nothing can send that twice."""

    def call(self: _Callable, request_iterator: Any, *args: Any, **kwargs: Any) -> Any:
        endpoint = self.router.pick()
        try:
            response = getattr(self.at(endpoint), how)(request_iterator, *args, **kwargs)
        except grpc.RpcError as error:
            _after(self.router, endpoint, error)
            raise
        if endpoint.backoff:
            endpoint.succeeded()
        return response

    return call


def _beginning_stream(how: str) -> Callable[..., Any]:
    """Makes a method that sends a stream and returns the call."""

    def call(self: _Callable, request_iterator: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            endpoint = self.router.pick()
        except NoProvidersRpcError as error:
            return error
        started = getattr(self.at(endpoint), how)(request_iterator, *args, **kwargs)
        return observe(started, self.router, endpoint)

    return call


def _after(
    router: Router[grpc.Channel],
    endpoint: Endpoint[grpc.Channel],
    error: Any,
    *,
    deadline: float | None = None,
    again: bool = False,
) -> Endpoint[grpc.Channel] | None:
    answered = bool(error.initial_metadata())
    return router.after(endpoint, error.code(), answered=answered, deadline=deadline, again=again)


class _UnaryUnary(_Callable, grpc.UnaryUnaryMultiCallable):
    kind = "unary_unary"
    __call__ = _waiting("__call__")
    with_call = _waiting("with_call")
    future = _beginning("future")


class _UnaryStream(_Callable, grpc.UnaryStreamMultiCallable):
    kind = "unary_stream"
    __call__ = _beginning("__call__")


class _StreamUnary(_Callable, grpc.StreamUnaryMultiCallable):
    kind = "stream_unary"
    __call__ = _waiting_stream("__call__")
    with_call = _waiting_stream("with_call")
    future = _beginning_stream("future")


class _StreamStream(_Callable, grpc.StreamStreamMultiCallable):
    kind = "stream_stream"
    __call__ = _beginning_stream("__call__")


class BalancedChannel(grpc.Channel):
    """A channel to a service: each call goes to the provider whose turn it is.

    Closing it refuses further calls through it, and leaves the pool's connections alone.
    """

    def __init__(self, router: Router[grpc.Channel], connect: Connect) -> None:
        self._router = router
        self._connect = connect
        self._watches: dict[Any, ConnectivityWatch] = {}

    def __repr__(self) -> str:
        return f"<BalancedChannel {self._router!r}>"

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.unary_unary`."""
        return _UnaryUnary(self._router, self._connect, method, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.unary_stream`."""
        return _UnaryStream(self._router, self._connect, method, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.stream_unary`."""
        return _StreamUnary(self._router, self._connect, method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.stream_stream`."""
        return _StreamStream(self._router, self._connect, method, *args, **kwargs)

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
        channels = {self._connect(self._router.pick()) for _ in range(_WATCHED)}
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


class BorrowedChannel(grpc.Channel):
    """The channel of one provider, shared with the rest of the pool; closing it does nothing."""

    def __init__(self, endpoint: Endpoint[grpc.Channel], channel: grpc.Channel) -> None:
        self._endpoint = endpoint
        self._channel = channel

    def __repr__(self) -> str:
        return f"<BorrowedChannel {self._endpoint!r}>"

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.unary_unary`."""
        return self._channel.unary_unary(method, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.unary_stream`."""
        return self._channel.unary_stream(method, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.stream_unary`."""
        return self._channel.stream_unary(method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.stream_stream`."""
        return self._channel.stream_stream(method, *args, **kwargs)

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
