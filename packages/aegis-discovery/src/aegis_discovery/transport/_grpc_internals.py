"""All that is used of `grpc.aio` besides its public API: calls with one request and one answer.

gRPC makes a task for each of these, and its caller goes on two turns of the event loop after the
answer arrived. A `DirectCall` has no task and saves these turns, and more than a pool adds. Where
`direct` finds another gRPC than expected, gRPC's own calls are made. Seen in gRPC 1.80 to 1.85.
"""

# ruff: noqa: SLF001 - this module is where private members are used

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import weakref
from collections.abc import Callable, Generator
from functools import partial
from time import time
from typing import Any

import grpc
import grpc.aio

_call: Any = importlib.import_module("grpc.aio._call")
_channel: Any = importlib.import_module("grpc.aio._channel")
_common: Any = importlib.import_module("grpc._common")
cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")

_SIGNATURES = {
    "add_done_callback": "self callback",
    "cancel": "self details",
    "cancelled": "self",
    "done": "self",
    "initial_metadata": "self",
    "is_locally_cancelled": "self",
    "is_ok": "self",
    "status": "self",
    "time_remaining": "self",
    "unary_unary": "self request outbound_initial_metadata context",
}
_MAKES_CALL = "self method deadline python_call_credentials wait_for_ready"
_WITH_HANDLE = f"{_MAKES_CALL} registered_call_handle"
_ATTRIBUTES = {"_channel", "_interceptors", "_method", "_request_serializer"}
_CANCELLED_HERE = "Locally cancelled by application!"


_calls_of: weakref.WeakKeyDictionary[grpc.aio.Channel, set[Any]] = weakref.WeakKeyDictionary()
"""The direct calls of each channel that have not ended."""


def direct(channel: grpc.aio.Channel, method: Any, waiting: set[Any]) -> Callable[..., Any] | None:
    """Returns what makes direct calls of a method; None if gRPC is to make them.

    Args:
        channel: A channel.
        method: Its multi-callable of one request and one answer.
        waiting: A call is removed from it when it ends.
    """
    if (
        type(method) is not _channel.UnaryUnaryMultiCallable
        or method._interceptors
        or not _is_usable(method)
    ):
        return None
    make, name = method._channel.call, method._method
    serialize, deserialize = method._request_serializer, method._response_deserializer
    handle = getattr(method, "_registered_call_handle", None)
    calls = _calls_of.setdefault(channel, set())

    def call(
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        deadline = None if timeout is None else time() + timeout
        sent: tuple[Any, ...] = ()
        if metadata or compression:
            sent = tuple(method._init_metadata(metadata, compression))
        try:
            data = request if serialize is None else serialize(request)
            if handle is None:
                cython_call = make(name, deadline, credentials, None)
            else:
                cython_call = make(name, deadline, credentials, None, handle)
            coroutine = cython_call.unary_unary(data, sent)
            batch = coroutine.send(None)
        except Exception:  # noqa: BLE001 - whatever it is, gRPC's own call fails as it should
            return method(
                request,
                timeout=timeout,
                metadata=metadata,
                credentials=credentials,
                compression=compression,
            )
        return DirectCall(cython_call, coroutine, batch, deserialize, waiting, calls)

    return call


class DirectCall:
    """A call with one request and one answer, which has begun. It behaves as one of gRPC's."""

    __slots__ = (
        "_batch", "_calls", "_coroutine", "_cython_call", "_deserialize", "_error", "_response",
        "_waiting",
    )  # fmt: skip

    def __init__(
        self,
        cython_call: Any,
        coroutine: Any,
        batch: Any,
        deserialize: Callable[[bytes], Any] | None,
        waiting: set[Any],
        calls: set[Any],
    ) -> None:
        self._cython_call = cython_call
        self._coroutine = coroutine
        self._batch = batch
        self._deserialize = deserialize
        self._waiting = waiting
        self._calls = calls
        self._error: Exception | None = None
        calls.add(self)
        batch._asyncio_future_blocking = False  # as a task does with what its coroutine waits for
        batch.add_done_callback(self._ended)

    def __repr__(self) -> str:
        return repr(self._cython_call)

    def _ended(self, batch: Any) -> None:
        """Takes the answer or the status; called once the batch is done, and then again."""
        if self._batch is None:
            return
        coroutine = self._coroutine
        self._coroutine = self._batch = None
        self._waiting.discard(self)
        self._calls.discard(self)
        self._response = cygrpc.EOF
        try:
            coroutine.send(None)  # it waits for nothing else
        except StopIteration as stop:
            data = stop.value
            if data is not None or self._cython_call.is_ok():
                if self._deserialize is not None:
                    data = _common.deserialize(data, self._deserialize)
                self._response = data
        except asyncio.CancelledError:
            self.cancel()
        except Exception as error:  # noqa: BLE001 - raised for those who wait for the answer
            self._error = error

    def __await__(self) -> Generator[Any, None, Any]:
        batch = self._batch
        if batch is not None:
            try:
                yield from batch
            finally:
                if self._batch is not None and batch.done():  # before the callback's turn
                    self._ended(batch)
        if self._error is not None:
            raise self._error
        if self._response is cygrpc.EOF:
            cython_call = self._cython_call
            if cython_call.is_locally_cancelled():
                raise asyncio.CancelledError
            raise _call._create_rpc_error(cython_call._initial_metadata, cython_call._status)
        return self._response

    async def wait_for_connection(self) -> None:
        await self  # as gRPC's own

    def cancel(self) -> bool:
        if self._cython_call.done():
            return False
        self._cython_call.cancel(_CANCELLED_HERE)
        self._waiting.discard(self)
        if self._batch is not None and not self._batch.cancel():
            # The answer is here, and is taken in a moment: then the call would not be cancelled.
            self._coroutine.close()
            self._coroutine = self._batch = None
            self._calls.discard(self)
            self._response = cygrpc.EOF
        return True

    def done(self) -> Any:
        return self._cython_call.done()

    def cancelled(self) -> Any:
        return self._cython_call.cancelled()

    def time_remaining(self) -> Any:
        return self._cython_call.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._cython_call.add_done_callback(partial(callback, self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return _metadata(await self._cython_call.initial_metadata())

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return _metadata((await self._cython_call.status()).trailing_metadata())

    async def code(self) -> grpc.StatusCode:
        code = (await self._cython_call.status()).code()
        known: grpc.StatusCode = _common.CYGRPC_STATUS_CODE_TO_STATUS_CODE[code]
        return known

    async def details(self) -> Any:
        return (await self._cython_call.status()).details()

    async def debug_error_string(self) -> Any:
        return (await self._cython_call.status()).debug_error_string()


def _metadata(raw: Any) -> grpc.aio.Metadata:
    return grpc.aio.Metadata.from_tuple(raw) if raw else grpc.aio.Metadata()


async def end_calls(channel: grpc.aio.Channel, grace: float | None) -> None:
    """Ends the direct calls of a channel that is being closed, of which gRPC does not know.

    Args:
        channel: The channel.
        grace: Seconds until they are cancelled; None for 0.
    """
    calls = _calls_of.get(channel)
    if not calls:
        return
    batches = [call._batch for call in calls if call._batch is not None]
    if grace and batches:
        await asyncio.wait(batches, timeout=grace)
    for call in tuple(calls):
        call.cancel()


@functools.cache
def _has_expected_api() -> bool:
    """Tells whether names and parameters of gRPC are as this module expects them."""
    try:
        call, channel = cygrpc._AioCall, cygrpc.AioChannel
        found = {name: _parameters(getattr(call, name)) for name in _SIGNATURES}
        return (
            found == _SIGNATURES
            and _parameters(channel.call) in (_MAKES_CALL, _WITH_HANDLE)
            and _parameters(_call._create_rpc_error) == "initial_metadata status"
            and _parameters(_common.deserialize) == "serialized_message deserializer"
            and cygrpc.build_census_context() is None  # calls would need it
            and set(dir(call)) >= {"_initial_metadata", "_status"}
            and _parameters(_channel.UnaryUnaryMultiCallable._init_metadata)
            == "metadata compression"
        )
    except Exception:  # noqa: BLE001 - whatever it is, gRPC is another one
        return False


def _parameters(function: Any) -> str:
    return " ".join(inspect.signature(function).parameters)


_behaves: dict[type, bool] = {}
"""Whether calls of such channels behave as expected; there is one type, and at most one entry."""


def _is_usable(method: Any) -> bool:
    """Tells whether gRPC is as this module expects it; to be called in the loop of a channel."""
    if not _has_expected_api() or not vars(method).keys() >= _ATTRIBUTES:
        return False
    kind = type(method._channel)
    if kind not in _behaves:
        _behaves[kind] = _behaves_as_expected(method)
    return _behaves[kind]


def _behaves_as_expected(method: Any) -> bool:
    """Waits for the status of a call that is never sent: with a future, as a batch does."""
    has_handle = hasattr(method, "_registered_call_handle")
    try:
        makes_call = _parameters(type(method._channel).call)
        call = method._channel.call(method._method, None, None, None)
        waiting = call.status()
        future = waiting.send(None)
        waiting.close()
        return (
            makes_call == (_WITH_HANDLE if has_handle else _MAKES_CALL)
            and future._asyncio_future_blocking is True
            and future.get_loop() is method._loop
            and not call.done()
        )
    except Exception:  # noqa: BLE001 - whatever it is, gRPC is another one
        return False
