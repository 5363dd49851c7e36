"""Presents handlers to `grpc.server` with the checks before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import grpc

from aegis_core._server.base import kind_of
from aegis_core._server.held.running_requests import LARGE
from aegis_core._server.held.unsent_answers import SMALL
from aegis_core._server.rejections import NO_REQUEST, TOO_LARGE, CallRejectedError, Rejection
from aegis_core._server.sync.calls import (
    ServerCall,
    current_call,
    current_trace,
)
from aegis_core._server.sync.method import Method
from aegis_core._server.sync.public_call import PublicCall
from aegis_core._server.sync.threads import CallThreads, InlineCalls
from aegis_core._server.telemetry import counting, telemetry_of

Read = Callable[[bytes, ServerCall], Any]
"""Parses a request of a call, or ends the call."""


class CallOverError(grpc.RpcError):
    """A handler used a call that is over."""

    def __init__(self) -> None:
        super().__init__("the call is over: its caller gave up, or this server ended it")


def present(handler: Any, path: str, threads: CallThreads) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns a handler with the checks before it.

    Of a caller that is rejected, no request is parsed.

    Args:
        handler: A handler of any kind, whose function is not a coroutine.
        path: The method.
        threads: Where it runs.
    """
    kind = kind_of(handler)
    inner = getattr(handler, kind)
    method = Method(
        threads.checks.policy_path(path),
        threads.checks.acceptor(path),
        threads.checks.edges_of(path),
        telemetry_of(threads.checks, path),
        is_stream=kind != "unary_unary",
        has_one_request=not handler.request_streaming,
    )
    serialize = handler.response_serializer
    if method.telemetry is not None:
        inner, serialize = _attached(inner), counting(serialize, current_trace)
    is_traced = method.telemetry is not None
    read = _reader(handler.request_deserializer, path, is_traced=is_traced)
    if threads.is_direct:
        serve = _direct(handler, inner, read)
    else:
        serve = _public(handler, inner, method, read)
        kind = "stream_stream"
    function: Any = serve
    function.experimental_thread_pool = threads
    function.method = method
    if threads.is_direct and not (handler.response_streaming or function.experimental_non_blocking):
        serialize = _counting(serialize)
    made: grpc.RpcMethodHandler[Any, Any] = getattr(grpc, f"{kind}_rpc_method_handler")(
        function, None, serialize
    )
    return made


def _attached(inner: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the trace of a call current while its handler runs.

    It stays so until the call ends: gRPC runs each call in a context of its own.
    """

    def attach(request: Any, context: Any, *send: Any) -> Any:
        trace = current_trace()
        if trace is not None:
            trace.attach()
        return inner(request, context, *send)

    function: Any = attach
    function.experimental_non_blocking = getattr(inner, "experimental_non_blocking", False)
    return function  # type: ignore[no-any-return]  # it has an attribute more


def rejecting(
    rejection_of: Callable[[grpc.ServicerContext], Rejection],
) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns a handler that rejects every call, without a thread and without its request."""

    def reject(_: Iterator[Any], context: grpc.ServicerContext) -> Any:
        abort(context, rejection_of(context))

    function: Any = reject
    function.experimental_thread_pool = InlineCalls()
    # On the wire all kinds of calls are alike, and this kind does not wait for a request.
    return grpc.stream_stream_rpc_method_handler(function)


def abort(context: Any, rejection: Rejection) -> None:
    """Ends the call of this thread."""
    context.set_trailing_metadata(rejection.trailers)
    context.abort(grpc.StatusCode[rejection.code], rejection.text)


def _direct(handler: Any, inner: Any, read: Read | None) -> Callable[..., Any]:
    sends_itself = getattr(inner, "experimental_non_blocking", False)

    def taken(request: Any) -> Any:
        if handler.request_streaming:
            return Requests(request, current_call(), read)
        # `grpc_internals` gives a list, so that nothing but the handler holds what it gets.
        return request.pop() if read is None else read(request.pop(), current_call())

    def serve(request: Any, context: Any) -> Any:
        try:
            return inner(taken(request), context)
        except BaseException:
            current_call().note_raised()
            raise

    def serve_stream(request: Any, context: Any) -> Iterator[Any]:
        return _noting_errors(serve(request, context))

    def send(request: Any, context: Any, send_message: Callable[[Any], None]) -> None:
        call = current_call()
        call.send = send_message
        try:
            inner(taken(request), context, send_message)
        except BaseException:
            call.note_raised()
            raise
        _detach(call)

    function: Any = send if sends_itself else serve_stream if handler.response_streaming else serve
    function.experimental_non_blocking = sends_itself
    return function  # type: ignore[no-any-return]  # it is one of the three


def _counting(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """Returns what serializes the one answer of a call, and counts it until it is sent."""

    def counted(answer: Any) -> bytes:
        data: bytes = answer if serialize is None else serialize(answer)
        size = len(data or b"")  # what a handler returned that set a status may be None
        if size >= SMALL:
            current_call().note_answer(size)
        return data

    return counted


def _noting_errors(answer: Any) -> Iterator[Any]:
    """Passes on the messages of a handler, and notes an error that ends them."""
    try:
        yield from answer
    except GeneratorExit:
        raise
    except BaseException:
        current_call().note_raised()
        raise


def _public(handler: Any, inner: Any, method: Method, read: Read | None) -> Callable[..., Any]:
    sends_itself = getattr(inner, "experimental_non_blocking", False)

    def take_request(requests: Iterator[Any], context: Any, call: PublicCall) -> Any:
        if handler.request_streaming:
            taken: Any = Requests(requests, call, read)
        else:
            call.open_inflow()
            with call.threads.lent(call):
                raw = next(requests, None)
            if raw is not None and call.inflow is not None:
                call.inflow.note(len(raw))
            call.close_inflow()
            if raw is None:
                abort(context, NO_REQUEST)
                return None
            if len(raw) >= LARGE and not call.hold(method, len(raw)):
                abort(context, TOO_LARGE)
            taken = raw if read is None else read(raw, call)
        call.threads.slots.acquire()
        call.holds_slot = True
        return taken

    def serve(requests: Iterator[Any], context: Any, send: Callable[[Any], None]) -> None:
        call = current_call()
        assert isinstance(call, PublicCall)  # noqa: S101 - CallThreads makes no other here
        call.context, call.send = context, send
        try:
            call.accept(method)
            if not context.add_callback(call.note_over):
                call.note_over()
            call.count(method)
            request = take_request(requests, context, call)
            if sends_itself:
                inner(request, context, send)
                _detach(call)
                return
            answer = inner(request, context)
            for message in answer if handler.response_streaming else (answer,):
                if not context.is_active():
                    return
                send(message)
            call.complete()
        except CallRejectedError as error:
            call.end(error.rejection)
        except Exception:
            call.note_raised()
            if call.claim_end():
                raise  # gRPC sends the status

    function: Any = serve
    function.experimental_non_blocking = True
    return function  # type: ignore[no-any-return]  # it has an attribute more


def _detach(call: Any) -> None:
    """Lets a call continue without a thread, until it is over."""
    call.is_detached = True
    if not call.context.add_callback(call.finish):
        call.is_detached = False


def _reader(parse: Callable[[bytes], Any] | None, path: str, *, is_traced: bool) -> Read | None:
    """Returns what parses the requests of a method, after its caller was judged."""
    if parse is None and not is_traced:
        return None

    def read(request: bytes, call: ServerCall) -> Any:
        if call.trace is not None:
            call.trace.received(len(request))
        try:
            return request if parse is None else parse(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request cannot be read
            rejection = call.threads.checks.unreadable(call.caller, path, error)
        abort(call.context, rejection)
        return None

    return read


class Requests(Iterator[Any]):
    """The requests of a call. Raises `grpc.RpcError` if the call ends before they do.

    When a caller gives up, its requests may end just before gRPC reports the cancellation. A
    handler must not take a part of the requests for all of them.

    Args:
        requests: gRPC's own iterator.
        call: The call.
        read: Parses a request; None for requests that are bytes.
    """

    def __init__(
        self,
        requests: Iterator[Any],
        call: ServerCall,
        read: Read | None,
    ) -> None:
        self._requests = requests
        self._call = call
        self._read = read
        self._have_ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._have_ended:
            raise StopIteration
        try:
            request = next(self._requests)
        except StopIteration:
            # Another read passes through the connection after all that has happened to the call. So
            # gRPC knows of a cancellation when this read ends, and raises an error of its own.
            next(self._requests, None)
            if not self._call.context.is_active():
                raise CallOverError from None
            self._have_ended = True
            raise
        if self._call.inflow is not None:
            self._call.inflow.note(len(request))
        return request if self._read is None else self._read(request, self._call)
