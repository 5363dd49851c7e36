"""All that is used of `grpc.aio`'s server besides its public API: how it waits for the next call.

Since gRPC 1.84 a server makes a task for the next call and waits for it by `asyncio.wait`, which
costs 11 to 18 % of a call with one request and one answer. Here it waits for the call itself, as
older ones do. Where `_is_usable` finds another gRPC than expected, its own server is used.
"""

# ruff: noqa: SLF001 - this module is where private members are used

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
from collections.abc import Coroutine, Generator, Iterable, Sequence
from typing import Any

import grpc
import grpc.aio

_server: Any = importlib.import_module("grpc.aio._server")
cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")

_SEEN = {"1.84", "1.85"}
_CORE = {
    "_make_request_call_future": "self method_bytes",
    "_request_call": "self",
    "_server_main_loop": "self server_started",
}
_OPTIONS = "generic_handlers interceptors options maximum_concurrent_rpcs compression"


def new_server(
    handlers: Sequence[grpc.GenericRpcHandler],
    interceptors: Sequence[grpc.aio.ServerInterceptor],
    options: Sequence[tuple[str, Any]],
) -> grpc.aio.Server:
    """Returns a server. No method may be registered with it.

    Args:
        handlers: See `grpc.aio.server`.
        interceptors: See `grpc.aio.server`.
        options: See `grpc.aio.server`.
    """
    if not _is_usable():
        return grpc.aio.server(handlers=handlers, interceptors=interceptors, options=options)
    cygrpc.asyncio = _ASYNCIO
    server: grpc.aio.Server = _Server(handlers, interceptors, options)
    return server


class _Server(_server.Server):  # type: ignore[misc]  # its type is not known
    """A server as `grpc.aio.server` makes it, with another core."""

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, Any]],
    ) -> None:
        options = _server._augment_channel_arguments(options, None)
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, None, handlers, interceptors, options, None)


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # its type is not known
    def _make_request_call_future(self, method_bytes: bytes | None) -> Any:
        if method_bytes is not None:
            raise NotImplementedError("methods are not registered")
        return _NextCall(self._request_call())


class _NextCall:
    """The next call that arrives. `wait` returns it, and it can be awaited as `asyncio.wait` can.

    It has those methods of a future that gRPC calls.
    """

    __slots__ = ("_call", "_error", "_request")

    def __init__(self, request: Coroutine[Any, Any, Any]) -> None:
        self._request: Coroutine[Any, Any, Any] | None = request

    def __await__(self) -> Generator[Any, None, tuple[tuple[_NextCall, ...], tuple[()]]]:
        if self._request is not None:
            self._error: Exception | None = None
            try:
                self._call = yield from self._request.__await__()
            except Exception as error:  # noqa: BLE001 - `result` raises it, whatever it is
                self._error = error
            self._request = None
        return (self,), ()

    def done(self) -> bool:
        return self._request is None

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._call

    def cancel(self) -> None:
        if self._request is not None:
            self._request.close()
            self._request = None


class _Asyncio:
    """What gRPC finds as `asyncio`: the same, but for how its servers wait.

    gRPC uses `wait` for nothing else. Servers that are not ours get `asyncio.wait` itself.
    """

    FIRST_COMPLETED = asyncio.FIRST_COMPLETED
    get_running_loop = staticmethod(asyncio.get_running_loop)  # as each call asks for it

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    def wait(fs: Iterable[Any], **options: Any) -> Any:
        for one in fs:
            if type(one) is _NextCall:  # a server has no other
                return one
            break
        return asyncio.wait(fs, **options)


_ASYNCIO = _Asyncio()


@functools.cache
def _is_usable() -> bool:
    """Tells whether gRPC is as this module expects it."""
    try:
        core = {name: _parameters(getattr(cygrpc.AioServer, name)) for name in _CORE}
        return (
            ".".join(grpc.__version__.split(".")[:2]) in _SEEN
            and core == _CORE
            and _parameters(_server.Server) == f"thread_pool {_OPTIONS}"
            and _parameters(_server._augment_channel_arguments) == "base_options compression"
            and callable(cygrpc.get_working_loop)
            and cygrpc.asyncio in (asyncio, _ASYNCIO)
        )
    except Exception:  # noqa: BLE001 - whatever it is, gRPC is another one
        return False


def _parameters(function: Any) -> str:
    return " ".join(inspect.signature(function).parameters)
