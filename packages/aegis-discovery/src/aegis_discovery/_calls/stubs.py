"""What the balanced and borrowed channels and their stub callables are, sync and async."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeAlias

from aegis_discovery._calls.endpoint import ChannelT, Endpoint
from aegis_discovery._calls.router import Router
from aegis_discovery._calls.service_config import MethodConfig

Connect: TypeAlias = Callable[[Endpoint[ChannelT]], ChannelT]
"""Returns an endpoint's channel."""


class StubCallable(Generic[ChannelT]):
    """A method of a service: each call of it goes to the same method of the endpoint picked.

    Args:
        kind: Which of a channel's four methods makes it.
        router: Picks.
        connect: Returns an endpoint's channel.
        config: What applies to its calls.
        args: As given to the channel's `unary_unary` or the like.
        kwargs: As `args`.
    """

    def __init__(
        self,
        kind: str,
        router: Router[ChannelT],
        connect: Connect[ChannelT],
        config: MethodConfig,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.router = router
        self.retry = config.retry
        self.timeout = config.timeout
        self.wait_for_ready = config.wait_for_ready
        self._kind = kind
        self._connect = connect
        self._args = args
        self._kwargs = kwargs
        self.key = object()
        self._made_at: weakref.WeakSet[Endpoint[ChannelT]] = weakref.WeakSet()

    def at(self, endpoint: Endpoint[ChannelT]) -> Any:
        """Returns gRPC's own callable for an endpoint.

        The endpoint keeps it, since its channel must go with the endpoint and with nothing else.
        """
        found = endpoint.callables.get(self.key)
        if found is None:
            make = getattr(self._connect(endpoint), self._kind)
            found = endpoint.callables[self.key] = make(*self._args, **self._kwargs)
            self._made_at.add(endpoint)
        return found

    def within(self, timeout: float | None) -> float | None:
        """Returns the seconds that a call may take: as it asks, and no more than configured."""
        if self.timeout is None:
            return timeout
        return self.timeout if timeout is None else min(timeout, self.timeout)

    def __del__(self) -> None:
        for endpoint in self._made_at:
            endpoint.callables.pop(self.key, None)


def repeatable(metadata: Any) -> Any:
    """Returns a call's metadata for all its attempts: the first one would use an iterator up."""
    return tuple(metadata) if hasattr(metadata, "__next__") else metadata


class Methods:
    """The four methods of a channel, which differ in one word."""

    def _method(self, kind: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Makes the stub callable of one method."""
        raise NotImplementedError

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.unary_unary`."""
        return self._method("unary_unary", method, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.unary_stream`."""
        return self._method("unary_stream", method, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.stream_unary`."""
        return self._method("stream_unary", method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel.stream_stream`."""
        return self._method("stream_stream", method, *args, **kwargs)


class BalancedMethods(Methods, Generic[ChannelT]):
    """A channel whose calls each go to the provider whose turn it is.

    Args:
        router: Picks.
        connect: Returns an endpoint's channel.
        configure: Returns what applies to a method.
    """

    kinds: ClassVar[Mapping[str, type[StubCallable[Any]]]]
    """The stub callables, by the method of a channel that makes them."""

    def __init__(
        self,
        router: Router[ChannelT],
        connect: Connect[ChannelT],
        configure: Callable[[str], MethodConfig],
    ) -> None:
        self._router = router
        self._connect = connect
        self._configure = configure

    def __repr__(self) -> str:
        return f"<BalancedChannel {self._router!r}>"

    def _method(self, kind: str, method: str, *args: Any, **kwargs: Any) -> Any:
        config = self._configure(method)
        make = self.kinds[kind]
        return make(kind, self._router, self._connect, config, (method, *args), kwargs)


class BorrowedMethods(Methods, Generic[ChannelT]):
    """The channel of one provider, shared with the rest of the pool."""

    def __init__(self, endpoint: Endpoint[ChannelT], channel: ChannelT) -> None:
        self._endpoint = endpoint
        self._channel: Any = channel

    def __repr__(self) -> str:
        return f"<BorrowedChannel {self._endpoint!r}>"

    def _method(self, kind: str, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._channel, kind)(method, *args, **kwargs)
