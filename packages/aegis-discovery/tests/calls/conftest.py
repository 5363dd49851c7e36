"""What the tests of both pools share: providers, and one way to make sync and async calls."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from aegis_certs import TLSConfig
from aegis_discovery import aio
from aegis_discovery._calls.sync.pool import ServiceClientPool
from aegis_discovery._topology.topology import Topology
from aegis_discovery.transport import _aio_channels, _channels

WAIT = 10.0
"""Seconds after which a call or a condition has failed."""

ECHO = ("echo", "v1")
Make = Callable[[], Any]


class BlockingCalls:
    """Makes calls with the sync API, in threads."""

    unread_streams_are_cancelled = True

    pool_type: Any = ServiceClientPool
    cache_type: Any = _channels.ChannelCache
    open_channel: Any = staticmethod(_channels.open_channel)
    cancelled_error: type[BaseException] = grpc.RpcError
    answered_streams: tuple[bytes, ...] = (b"1!", b"meta0!")
    """Requests of streams that fail after a message, or after their initial metadata."""

    class InterceptorError(grpc.RpcError):
        """An error that an interceptor of a user raises."""

    def __init__(self) -> None:
        self._stalled = threading.Event()

    def release(self) -> None:
        """Ends the request streams of `stalled`."""
        self._stalled.set()

    async def unary(
        self,
        channel: Any,
        method: str,
        request: bytes = b"",
        *,
        timeout: Any = WAIT,
        **options: Any,
    ) -> Any:
        """Makes a call and returns its response, or raises its error."""
        stub = channel.unary_unary(method)
        return await asyncio.to_thread(stub, request, timeout=timeout, **options)

    async def who(self, channel: Any) -> str:
        """Returns the id of the provider that answers."""
        return bytes(await self.unary(channel, "/t/Who")).decode()

    async def stream(
        self, channel: Any, request: bytes, *, timeout: Any = WAIT, **options: Any
    ) -> list[bytes]:
        """Returns all responses of the method `Count`."""
        count = channel.unary_stream("/t/Count")
        return await asyncio.to_thread(lambda: list(count(request, timeout=timeout, **options)))

    async def chat(
        self, channel: Any, requests: Any, *, timeout: Any = WAIT, **options: Any
    ) -> list[bytes]:
        """Sends a stream and returns all responses."""
        chat = channel.stream_stream("/t/Chat")
        return await asyncio.to_thread(lambda: list(chat(requests, timeout=timeout, **options)))

    async def join(
        self, channel: Any, requests: Any, *, timeout: Any = WAIT, **options: Any
    ) -> Any:
        """Sends a stream and returns the one response."""
        return await asyncio.to_thread(
            channel.stream_unary("/t/Join"), requests, timeout=timeout, **options
        )

    def sent(self, *requests: bytes) -> Any:
        """Returns a request stream."""
        return iter(requests)

    def stalled(self) -> Any:
        """Returns a request stream that sends nothing."""

        def wait() -> Iterator[bytes]:
            self._stalled.wait(WAIT)
            yield b""

        return wait()

    def start(self, channel: Any, method: str, request: bytes = b"", *, timeout: Any = WAIT) -> Any:
        """Starts a call with one response."""
        return channel.unary_unary(method).future(request, timeout=timeout)

    async def result(self, call: Any) -> Any:
        """Returns the response of a started call."""
        return await asyncio.to_thread(call.result, timeout=WAIT)

    async def code(self, call: Any) -> Any:
        return await asyncio.to_thread(call.code)

    async def details(self, call: Any) -> Any:
        return await asyncio.to_thread(call.details)

    async def initial_metadata(self, call: Any) -> Any:
        return await asyncio.to_thread(call.initial_metadata)

    async def trailing_metadata(self, call: Any) -> Any:
        return await asyncio.to_thread(call.trailing_metadata)

    async def read(self, call: Any) -> Any:
        """Returns the next response of a stream, or EOF."""
        return await asyncio.to_thread(next, call, grpc.aio.EOF)

    iterate = read

    async def collect(self, call: Any) -> list[Any]:
        """Returns the further responses of a stream."""
        return await asyncio.to_thread(list, call)

    async def ready(self, channel: Any) -> None:
        """Waits until a channel is connected."""
        await asyncio.to_thread(grpc.channel_ready_future(channel).result, timeout=WAIT)

    async def close(self, closable: Any) -> None:
        """Closes a pool, channel or cache."""
        await asyncio.to_thread(closable.close)

    @contextlib.asynccontextmanager
    async def opened(self, closable: Any) -> AsyncIterator[Any]:
        """Enters the context manager of a pool or channel."""
        with closable:
            yield closable

    def interceptor(self, seen: list[str], error: Exception | None = None) -> Any:
        """Returns an interceptor that notes the methods of calls, and raises the error if any."""

        class Note(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
            def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
                seen.append(details.method)
                if error is not None:
                    raise error
                return go_on(details, request)

            intercept_unary_stream = intercept_unary_unary

        return Note()


class FutureCalls(BlockingCalls):
    """Makes calls with the sync API, as futures."""

    async def unary(
        self,
        channel: Any,
        method: str,
        request: bytes = b"",
        *,
        timeout: Any = WAIT,
        **options: Any,
    ) -> Any:
        call = channel.unary_unary(method).future(request, timeout=timeout, **options)
        return await asyncio.to_thread(call.result)

    async def join(
        self, channel: Any, requests: Any, *, timeout: Any = WAIT, **options: Any
    ) -> Any:
        call = channel.stream_unary("/t/Join").future(requests, timeout=timeout, **options)
        return await asyncio.to_thread(call.result)


class AioCalls(BlockingCalls):
    """Makes calls with the async API."""

    unread_streams_are_cancelled = False  # by grpc.aio 1.78, where a channel closes

    pool_type = aio.ServiceClientPool
    cache_type = _aio_channels.ChannelCache
    open_channel = staticmethod(_aio_channels.open_channel)
    cancelled_error = asyncio.CancelledError
    answered_streams = (b"1!",)  # grpc.aio may lose metadata that arrives together with the status

    class InterceptorError(LookupError):
        """An error that an interceptor of a user raises."""

    async def unary(
        self,
        channel: Any,
        method: str,
        request: bytes = b"",
        *,
        timeout: Any = WAIT,
        **options: Any,
    ) -> Any:
        return await channel.unary_unary(method)(request, timeout=timeout, **options)

    async def stream(
        self, channel: Any, request: bytes, *, timeout: Any = WAIT, **options: Any
    ) -> list[bytes]:
        call = channel.unary_stream("/t/Count")(request, timeout=timeout, **options)
        return [message async for message in call]

    async def chat(
        self, channel: Any, requests: Any, *, timeout: Any = WAIT, **options: Any
    ) -> list[bytes]:
        call = channel.stream_stream("/t/Chat")(requests, timeout=timeout, **options)
        return [message async for message in call]

    async def join(
        self, channel: Any, requests: Any, *, timeout: Any = WAIT, **options: Any
    ) -> Any:
        return await channel.stream_unary("/t/Join")(requests, timeout=timeout, **options)

    def sent(self, *requests: bytes) -> Any:
        async def send() -> AsyncIterator[bytes]:
            for request in requests:
                yield request

        return send()

    def stalled(self) -> Any:
        async def wait() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        return wait()

    def start(self, channel: Any, method: str, request: bytes = b"", *, timeout: Any = WAIT) -> Any:
        return channel.unary_unary(method)(request, timeout=timeout)

    async def result(self, call: Any) -> Any:
        return await call

    async def code(self, call: Any) -> Any:
        return await call.code()

    async def details(self, call: Any) -> Any:
        return await call.details()

    async def initial_metadata(self, call: Any) -> Any:
        return await call.initial_metadata()

    async def trailing_metadata(self, call: Any) -> Any:
        return await call.trailing_metadata()

    async def read(self, call: Any) -> Any:
        return await call.read()

    async def iterate(self, call: Any) -> Any:
        return await anext(aiter(call))

    async def collect(self, call: Any) -> list[Any]:
        return [message async for message in call]

    async def ready(self, channel: Any) -> None:
        await asyncio.wait_for(channel.channel_ready(), WAIT)

    async def close(self, closable: Any) -> None:
        await closable.close()

    @contextlib.asynccontextmanager
    async def opened(self, closable: Any) -> AsyncIterator[Any]:
        async with closable:
            yield closable

    def interceptor(self, seen: list[str], error: Exception | None = None) -> Any:
        class Note(grpc.aio.UnaryUnaryClientInterceptor, grpc.aio.UnaryStreamClientInterceptor):
            async def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
                seen.append(bytes(details.method).decode())
                if error is not None:
                    raise error
                return await go_on(details, request)

            async def intercept_unary_stream(self, go_on: Any, details: Any, request: Any) -> Any:
                return await go_on(details, request)

        return Note()


@pytest.fixture(params=[BlockingCalls, FutureCalls, AioCalls], ids=["sync", "future", "aio"])
def calls(request: pytest.FixtureRequest) -> Iterator[BlockingCalls]:
    """Makes calls in each of three ways."""
    calls: BlockingCalls = request.param()
    yield calls
    calls.release()


@pytest.fixture
def provider(start_provider: Callable[..., Any]) -> Any:
    """One provider."""
    return start_provider("one")


@pytest.fixture
def new_pool(calls: BlockingCalls, topology: Topology, tls: TLSConfig) -> Callable[..., Any]:
    """Makes a pool with some options, to be used with `async with`."""

    def make(source: Any = topology, **options: Any) -> Any:
        return calls.opened(calls.pool_type(source, tls, **options))

    return make


def _start_providers(ids: str, start: Callable[..., Any], topology: Topology) -> list[Any]:
    started = [start(node_id) for node_id in ids]
    for provider in started:
        topology.add_node(provider.info)
    return started


@pytest.fixture
def providers(start_provider: Callable[..., Any], topology: Topology) -> list[Any]:
    """Three providers, a, b and c."""
    return _start_providers("abc", start_provider, topology)


@pytest.fixture
def two(start_provider: Callable[..., Any], topology: Topology) -> list[Any]:
    """Two providers, a and b."""
    return _start_providers("ab", start_provider, topology)


@pytest.fixture
def attempts() -> Callable[[Iterable[Any], str], list[int]]:
    """Counts the calls of a method that each provider received."""
    return lambda providers, method: [provider.calls.count(method) for provider in providers]


@pytest.fixture
def connections_to() -> Callable[[int], int]:
    """Counts the established connections of this machine to a local port."""

    def count(port: int) -> int:
        tables = (Path(name).read_text() for name in ("/proc/net/tcp", "/proc/net/tcp6"))
        rows = [row.split() for table in tables for row in table.splitlines()[1:]]
        return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)

    return count


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
