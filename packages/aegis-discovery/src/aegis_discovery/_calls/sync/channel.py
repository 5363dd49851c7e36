"""The channels that the sync pool hands out."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import grpc

from aegis_discovery._calls.attempt import deadline_of, time_left
from aegis_discovery._calls.endpoint import FAST_RESPONSE, RESPONSE_TIMEOUT, Endpoint
from aegis_discovery._calls.stubs import (
    BalancedMethods,
    BorrowedMethods,
    StubCallable,
    reusable_metadata,
    trace_of,
)
from aegis_discovery._calls.sync.call import RetriedCall
from aegis_discovery._calls.sync.ended import UNKNOWN, number_of, result_of, track
from aegis_discovery._calls.sync.no_providers import NoProvidersRpcError
from aegis_discovery._calls.sync.waiting import wait_for_endpoint
from aegis_discovery._runtime.edges import FOLD_MASK

if TYPE_CHECKING:
    from aegis_discovery._calls.sync.connectivity import ConnectivityWatch

# The stubs of grpc make these classes generic; at run time they are not.
# mypy: disable-error-code="type-arg"
_Callable: TypeAlias = StubCallable[grpc.Channel]


class _Waiting(_Callable):
    def wait(self, deadline: float | None, *, once: bool = False) -> Endpoint[grpc.Channel]:
        """Waits for an endpoint; counts a call that gets none."""
        router: Any = self.router
        try:
            return wait_for_endpoint(router, deadline, once=once)
        except NoProvidersRpcError as error:
            self.edges[""].rejected(number_of(error))
            raise

    def wait_or_raise(self, waits: bool | None, deadline: float | None) -> Endpoint[grpc.Channel]:
        """Waits for an endpoint where the call may; raises the error of one that may not."""
        if waits and not self.router.closed:
            return self.wait(deadline)
        error = self.router.pick_error()
        if isinstance(error, NoProvidersRpcError):  # a closed channel has no calls
            self.edges[""].rejected(number_of(error))
        raise error


def _blocking_call(how: str) -> Callable[..., Any]:
    """Makes a method that sends one request and waits for the response."""

    def call(
        self: _Waiting,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        router, began = self.router, monotonic()
        if self.timeout is not None:
            timeout = self.limit_timeout(timeout)
        deadline = None if timeout is None else began + timeout
        waits = self.wait_for_ready if wait_for_ready is None else wait_for_ready
        # What `router.pick` does, without its frame.
        endpoint = None if router.closed else router.service.pick(began)
        if endpoint is None:
            endpoint = self.wait_or_raise(waits, deadline)
            timeout, began = time_left(deadline), monotonic()
        if metadata is not None:
            metadata = reusable_metadata(metadata)
        tried: tuple[Endpoint[grpc.Channel], ...] = ()
        while True:
            route = endpoint.routes.get(self.key)  # nearly always there, as in the async calls
            if route is None or not route[1].is_kept:
                route = self.route_to(endpoint)
            method, edge = route
            edge.started = started = edge.started + 1
            if not started & FOLD_MASK:
                edge.fold()
            token, waiting = object(), endpoint.waiting
            if not waiting:  # as `endpoint.call_started` does
                endpoint.unresponsive_at = began + endpoint.response_timeout
            waiting.add(token)
            try:
                response = getattr(method, how)(
                    request, timeout, metadata, credentials, None, compression
                )
            except BaseException as error:
                waiting.discard(token)
                is_known = isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call)
                edge.ended(number_of(error) if is_known else UNKNOWN, monotonic() - began)
                if not is_known:
                    raise  # an interceptor's own error
                result, retry = result_of(error), None
                if waits and result.was_not_sent_to(endpoint.address):
                    router.record(endpoint, result, monotonic())
                else:
                    tried = (*tried, endpoint)
                    retry = router.pick_retry(tried, result, self.retry, deadline=deadline)
                    if retry is None:
                        raise
            else:
                waiting.discard(token)
                seconds = monotonic() - began
                edge.pending.append(seconds)
                # Nearly always a fast answer of a healthy provider.
                if seconds > FAST_RESPONSE or endpoint.has_failed or endpoint.response_time:
                    endpoint.call_answered(began, began + seconds)
                else:
                    endpoint.unresponsive_at = began + seconds + RESPONSE_TIMEOUT
                return response
            endpoint = retry or self.wait(deadline)
            timeout, began = time_left(deadline), monotonic()

    return call


def _started_call(how: str) -> Callable[..., Any]:
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
        def start(endpoint: Endpoint[grpc.Channel], timeout: float | None) -> Any:
            return getattr(self.route_to(endpoint)[0], how)(
                request, timeout, metadata, credentials, None, compression
            )

        router: Any = self.router
        policy, edges = self.retry, self.edges
        metadata = reusable_metadata(metadata)
        timeout = self.limit_timeout(timeout)
        waits = bool(self.wait_for_ready if wait_for_ready is None else wait_for_ready)
        streams = how != "future"
        deadline = deadline_of(timeout)
        try:
            endpoint = router.pick(monotonic())
        except NoProvidersRpcError as error:
            if not waits:
                edges[""].rejected(number_of(error))
                return error
            return RetriedCall(
                router,
                start,
                policy,
                deadline,
                None,
                edges=edges,
                waits=True,
                streams=streams,
                trace=trace_of(metadata),
            )
        call = start(endpoint, timeout)
        if not isinstance(call, grpc.Call):
            return call  # an interceptor's own object: it cannot be tracked or retried
        if policy is None and not waits:
            return track(call, router, endpoint, edges, streams=streams)
        first = (endpoint, call)
        return RetriedCall(
            router,
            start,
            policy,
            deadline,
            first,
            edges=edges,
            waits=waits,
            streams=streams,
            trace=trace_of(metadata),
        )

    return call


def _blocking_stream(how: str) -> Callable[..., Any]:
    """Makes a method that sends a stream, which cannot be repeated, and waits for the response."""

    def call(
        self: _Waiting,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        waits = self.wait_for_ready if wait_for_ready is None else wait_for_ready
        timeout = self.limit_timeout(timeout)
        if waits:
            self.router.check_open()
            deadline = deadline_of(timeout)
            endpoint = self.wait(deadline, once=True)
            timeout = time_left(deadline)
        else:
            try:
                endpoint = self.router.pick(monotonic())
            except NoProvidersRpcError as error:
                self.edges[""].rejected(number_of(error))
                raise
        token, began = object(), monotonic()
        edge, code = self.edges[endpoint.node_id], UNKNOWN
        edge.started += 1
        endpoint.streaming.add(token)
        try:
            response = getattr(self.route_to(endpoint)[0], how)(
                request_iterator, timeout, metadata, credentials, None, compression
            )
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call):
                self.router.record(endpoint, result_of(error, streams=True), monotonic())
                code = number_of(error)
            raise
        else:
            code = 0
        finally:
            endpoint.streaming.discard(token)
            edge.ended(code, monotonic() - began)
        if endpoint.has_failed:
            endpoint.call_succeeded()
        return response

    return call


def _started_stream(how: str) -> Callable[..., Any]:
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
        def start(endpoint: Endpoint[grpc.Channel], timeout: float | None) -> Any:
            return getattr(self.route_to(endpoint)[0], how)(
                request_iterator, timeout, metadata, credentials, None, compression
            )

        router: Any = self.router
        timeout = self.limit_timeout(timeout)
        if self.wait_for_ready if wait_for_ready is None else wait_for_ready:
            router.check_open()
            deadline, trace = deadline_of(timeout), trace_of(metadata)
            begin: Any = start
            if trace is not None:
                # Another thread may start it; gRPC reads the requests in the context of that.
                begin = partial(copy_context().run, begin)
            return RetriedCall(
                router,
                begin,
                None,
                deadline,
                None,
                edges=self.edges,
                waits=True,
                once=True,
                streams=True,
                trace=trace,
            )
        try:
            endpoint = router.pick(monotonic())
        except NoProvidersRpcError as error:
            self.edges[""].rejected(number_of(error))
            return error
        started = start(endpoint, timeout)
        if not isinstance(started, grpc.Call):
            return started
        return track(started, router, endpoint, self.edges, streams=True)

    return call


class _UnaryUnary(_Waiting, grpc.UnaryUnaryMultiCallable):
    __call__ = _blocking_call("__call__")
    with_call = _blocking_call("with_call")
    future = _started_call("future")


class _UnaryStream(_Callable, grpc.UnaryStreamMultiCallable):
    __call__ = _started_call("__call__")


class _StreamUnary(_Waiting, grpc.StreamUnaryMultiCallable):
    __call__ = _blocking_stream("__call__")
    with_call = _blocking_stream("with_call")
    future = _started_stream("future")


class _StreamStream(_Callable, grpc.StreamStreamMultiCallable):
    __call__ = _started_stream("__call__")


class BalancedChannel(BalancedMethods[grpc.Channel], grpc.Channel):
    """A channel to a service that balances each call over the providers.

    A closed channel refuses further calls. The connections of the pool stay open.
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
        """Watches the next few providers and reports the best connectivity of them.

        Without a provider it reports `TRANSIENT_FAILURE`, and goes on with the first one.
        """
        from aegis_discovery._calls.sync.connectivity import ConnectivityWatch  # few subscribe

        self.unsubscribe(callback)
        router: Any = self._router
        self._watches[callback] = ConnectivityWatch(
            router, self._connect, callback, bool(try_to_connect)
        )

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        watch = self._watches.pop(callback, None)
        if watch is not None:
            watch.cancel()

    def _traced(self, kind: str) -> type[StubCallable[Any]]:
        from aegis_discovery._calls.sync.traced import traced  # few pools are traced

        kinds: Any = self.kinds
        return traced(kinds[kind], kind)

    def close(self) -> None:
        self._router.close()
        for callback in list(self._watches):
            self.unsubscribe(callback)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BorrowedChannel(BorrowedMethods[grpc.Channel], grpc.Channel):
    """The channel of one provider, which the rest of the pool also uses."""

    def _traced(self, kind: str) -> Callable[..., Any]:
        from aegis_discovery._calls.sync.traced import borrowed  # few pools are traced

        return borrowed(kind)

    def subscribe(
        self,
        callback: Callable[[grpc.ChannelConnectivity], None],
        try_to_connect: bool | None = None,
    ) -> None:
        self._channel.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        pass  # other calls use the channel too

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
