"""Balanced and borrowed channels and their multi-callables: what sync and async share."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias

from aegis_discovery._calls.endpoint import ChannelT, Endpoint, Route
from aegis_discovery._calls.router import Router
from aegis_discovery._calls.service_config import MethodConfig

if TYPE_CHECKING:
    from aegis_discovery.telemetry._calls import MethodTelemetry, ServiceTelemetry

Connect: TypeAlias = Callable[[Endpoint[ChannelT]], ChannelT]
"""Returns the channel of an endpoint."""


class StubCallable(Generic[ChannelT]):
    """The multi-callable of a method; each call goes to the same method of a picked endpoint.

    Args:
        kind: The method of a channel that makes it, such as `unary_unary`.
        router: Picks the endpoints.
        connect: Returns the channel of an endpoint.
        config: The configuration of its calls.
        args: The arguments of the channel's method.
        kwargs: Its keyword arguments.
        telemetry: Reports the calls, if they are traced.
    """

    def __init__(
        self,
        kind: str,
        router: Router[ChannelT],
        connect: Connect[ChannelT],
        config: MethodConfig,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        telemetry: MethodTelemetry | None = None,
    ) -> None:
        self.router = router
        self.retry = config.retry
        self.timeout = config.timeout
        self.wait_for_ready = config.wait_for_ready
        self._kind = kind
        self._connect = connect
        self._args = args
        self._kwargs = kwargs
        self.telemetry = telemetry
        self.key = object()
        self.edges = router.service.edges_of(args[0])
        self._endpoints: weakref.WeakSet[Endpoint[ChannelT]] = weakref.WeakSet()

    def route_to(self, endpoint: Endpoint[ChannelT]) -> Route:
        """Returns how to call an endpoint, and what counts these calls.

        It is stored in the endpoint, so that the channel lives exactly as long as the endpoint.
        """
        found = endpoint.routes.get(self.key)
        if found is None or not found[1].is_kept:
            method = self._make(endpoint) if found is None else found[0]
            found = endpoint.routes[self.key] = (method, self.edges[endpoint.node_id])
            self._endpoints.add(endpoint)
        return found

    def _make(self, endpoint: Endpoint[ChannelT]) -> Any:
        make = getattr(self._connect(endpoint), self._kind)
        return make(*self._args, **self._kwargs)

    def limit_timeout(self, timeout: float | None) -> float | None:
        """Returns the timeout of a call: the caller's, limited by the configured one."""
        if self.timeout is None:
            return timeout
        return self.timeout if timeout is None else min(timeout, self.timeout)

    def __del__(self) -> None:
        for endpoint in self._endpoints:
            endpoint.routes.pop(self.key, None)


def reusable_metadata(metadata: Any) -> Any:
    """Returns metadata that every attempt of a call can read; an iterator can be read once."""
    return tuple(metadata) if hasattr(metadata, "__next__") else metadata


def trace_of(metadata: Any) -> Any:
    """Returns the trace of a call that has this metadata; None if it is not traced."""
    return getattr(metadata, "trace", None)


class Methods:
    """The four methods of a channel that make multi-callables."""

    def _method(self, kind: str, method: str, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method("unary_unary", method, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method("unary_stream", method, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method("stream_unary", method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method("stream_stream", method, *args, **kwargs)


class BalancedMethods(Methods, Generic[ChannelT]):
    """A channel that balances each call."""

    kinds: ClassVar[Mapping[str, type[StubCallable[Any]]]]
    """The classes of its multi-callables, by the method that makes them."""

    def __init__(
        self,
        router: Router[ChannelT],
        connect: Connect[ChannelT],
        configure: Callable[[str], MethodConfig],
        telemetry: ServiceTelemetry | None = None,
    ) -> None:
        self._router = router
        self._connect = connect
        self._configure = configure
        self._telemetry = telemetry

    def __repr__(self) -> str:
        return f"<BalancedChannel {self._router!r}>"

    def _method(self, kind: str, method: str, *args: Any, **kwargs: Any) -> Any:
        config, telemetry = self._configure(method), None
        make = self.kinds[kind]
        if self._telemetry is not None:
            telemetry, make = self._telemetry.method(method), self._traced(kind)
        return make(kind, self._router, self._connect, config, (method, *args), kwargs, telemetry)

    def _traced(self, kind: str) -> type[StubCallable[Any]]:
        """Returns the class of the multi-callables whose calls are traced."""
        raise NotImplementedError


class BorrowedMethods(Methods, Generic[ChannelT]):
    """The channel of one provider, which the rest of the pool also uses."""

    def __init__(
        self,
        endpoint: Endpoint[ChannelT],
        channel: ChannelT,
        telemetry: ServiceTelemetry | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._channel: Any = channel
        self._telemetry = telemetry

    def __repr__(self) -> str:
        return f"<BorrowedChannel {self._endpoint!r}>"

    def _method(self, kind: str, method: str, *args: Any, **kwargs: Any) -> Any:
        make = getattr(self._channel, kind)
        if self._telemetry is None:
            return make(method, *args, **kwargs)
        return self._traced(kind)(
            self._telemetry.method(method), self._endpoint, make, method, *args, **kwargs
        )

    def _traced(self, kind: str) -> Callable[..., Any]:
        """Returns the class of the multi-callables whose calls are traced."""
        raise NotImplementedError
