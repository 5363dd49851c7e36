"""All that is used of `grpc.server` besides its public API.

The public API gives a thread to a call before its request has arrived, so callers that send none
would occupy all threads; and it cannot end a unary call, from outside of its handler, with a status
of our choice. Where `is_usable` finds another gRPC than expected, the server uses the public API
only, which costs more. Seen in gRPC 1.78 to 1.85.
"""

# ruff: noqa: SLF001 - this module is where private members are used

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import grpc

from aegis_core._access.caller import CERTIFICATE, INTERMEDIATES, NOTHING, TLS_VERSION

_server: Any = importlib.import_module("grpc._server")
cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")

_IN_POOL = "rpc_event state behavior argument_thunk request_deserializer response_serializer"
_FUNCTIONS = {
    "_Context": "rpc_event state request_deserializer",
    "_abort": "state call code details",
    "_is_rpc_state_active": "state",
    "_receive_message": "state call request_deserializer",
    "_send_message": "state token",
    "_get_initial_metadata_operation": "state metadata",
    "_serialize_response": "rpc_event state response response_serializer",
    "_unary_response_in_pool": _IN_POOL,
    "_stream_response_in_pool": _IN_POOL,
    "_handle_unary_unary": "rpc_event state method_handler default_thread_pool",
    "_handle_unary_stream": "rpc_event state method_handler default_thread_pool",
}
_STATE = {
    *("condition", "due", "request", "client", "code", "details", "statused", "callbacks"),
    *("initial_metadata_allowed", "rpc_errors"),
}
_TOKEN = "receive_message"  # noqa: S105 - gRPC's name of an operation
_SEND = "send_message"
_SEND_FIRST = "send_initial_metadata * send_message"
_CANCELLED = "cancelled"


@functools.cache
def is_usable() -> bool:
    """Tells whether gRPC is as this module expects it."""
    try:
        signatures = {
            name: " ".join(inspect.signature(getattr(_server, name)).parameters)
            for name in _FUNCTIONS
        }
        constants = (
            _server._RECEIVE_MESSAGE_TOKEN,
            _server._SEND_MESSAGE_TOKEN,
            _server._SEND_INITIAL_METADATA_AND_SEND_MESSAGE_TOKEN,
            _server._CANCELLED,
        )
        cygrpc.ReceiveMessageOperation(0)
        cygrpc.SendMessageOperation(b"", 0)
        event = object()
        return (
            signatures == _FUNCTIONS
            and constants == (_TOKEN, _SEND, _SEND_FIRST, _CANCELLED)
            and vars(_server._RPCState()).keys() >= _STATE
            and _server._Context(event, None, None)._rpc_event is event
            and callable(cygrpc.auth_context)
            and _submits_as_expected()
        )
    except Exception:  # noqa: BLE001 - whatever it is, gRPC is another one
        return False


def _submits_as_expected() -> bool:
    submitted: list[Any] = []

    class Recorder:
        def submit(self, *arguments: Any) -> None:
            submitted.append(arguments)

    def behavior(request: Any, context: Any) -> Any: ...

    event, state = object(), _server._RPCState()
    handler: Any = grpc.unary_unary_rpc_method_handler(behavior)
    returned = _server._handle_unary_unary(event, state, handler, Recorder())
    ((run, in_pool, *given, wait_for_request, deserializer, serializer),) = submitted
    return (
        returned is None
        and run == state.context.run
        and in_pool is _server._unary_response_in_pool
        and given == [event, state, behavior]
        and callable(wait_for_request)
        and deserializer is serializer is None
    )


def behavior_of(arguments: tuple[Any, ...]) -> Any:
    """Returns the function of the handler of a call.

    Args:
        arguments: What gRPC submits to its threads, after the first argument.
    """
    return arguments[3]


class _JudgedContext(_server._Context):  # type: ignore[misc]  # its type is not known
    """A context that tells of a connection only what a caller is judged by.

    gRPC's own one decodes the names of all that it knows, at each call.
    """

    def auth_context(self) -> dict[str, Any]:
        auth = cygrpc.auth_context(self._rpc_event.call)
        return {
            CERTIFICATE: auth.get(b"x509_pem_cert", ()),
            INTERMEDIATES: auth.get(b"x509_pem_cert_chain", NOTHING),
            TLS_VERSION: auth.get(b"ssl_tls_version", NOTHING),
        }


def context_of(arguments: tuple[Any, ...]) -> grpc.ServicerContext:
    """Returns a context of a call that has no thread yet; its handler gets another one.

    Args:
        arguments: As in `behavior_of`.
    """
    context: grpc.ServicerContext = _JudgedContext(arguments[1], arguments[2], None)
    return context


def when_over(arguments: tuple[Any, ...], callback: Callable[[], object]) -> None:
    """Calls back on gRPC's serving thread when a call is over that has just arrived.

    Args:
        arguments: As in `behavior_of`.
        callback: What to call; it must not block.
    """
    arguments[2].callbacks.append(callback)


def is_active(arguments: tuple[Any, ...]) -> bool:
    """Tells whether a call goes on: its caller is there, and it has no status yet.

    Args:
        arguments: As in `behavior_of`.
    """
    return bool(_server._is_rpc_state_active(arguments[2]))


def read_first(
    arguments: tuple[Any, ...], ready: Callable[[int], object]
) -> tuple[Any, ...] | None:
    """Reads the request of a call without a thread.

    Args:
        arguments: As in `behavior_of`.
        ready: Called on gRPC's serving thread when the request has arrived, with its bytes, or when
            none will, with 0.

    Returns:
        The arguments to submit then; None if the call is over. The function gets a list of the
        request, of which it takes it: else gRPC would hold it until the function returns.
    """
    in_pool, event, state, behavior, wait_for_request, *functions = arguments
    receive = _server._receive_message(state, event.call, None)

    def received(received_event: Any) -> Any:
        outcome = receive(received_event)
        ready(len(state.request or b""))
        return outcome

    def take_request() -> Any:
        if not _server._is_rpc_state_active(state):
            return None
        request, state.request = state.request, None  # no other thread takes it
        # Without a request the caller gets gRPC's own error.
        return wait_for_request() if request is None else [request]

    with state.condition:
        if not _server._is_rpc_state_active(state):
            return None
        event.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
        state.due.add(_TOKEN)
    return (in_pool, event, state, behavior, take_request, *functions)


def begin_send(arguments: tuple[Any, ...], message: Any, sent: Callable[[], object]) -> None:
    """Begins to send a message of a stream, unless the call is over.

    gRPC's public API waits until it is written. One message may be sent at a time.

    Args:
        arguments: As in `behavior_of`.
        message: The message, not serialized.
        sent: Called on gRPC's serving thread when it is written, or when it will not be.
    """
    event, state, serializer = arguments[1], arguments[2], arguments[-1]
    data = _server._serialize_response(event, state, message, serializer)
    with state.condition:
        if data is None or not _server._is_rpc_state_active(state):
            return
        operations: tuple[Any, ...] = (cygrpc.SendMessageOperation(data, 0),)
        token = _SEND
        if state.initial_metadata_allowed:
            state.initial_metadata_allowed = False
            operations = (_server._get_initial_metadata_operation(state, None), *operations)
            token = _SEND_FIRST
        note_written = _server._send_message(state, token)

        def written(written_event: Any) -> Any:
            outcome = note_written(written_event)
            sent()
            return outcome

        event.call.start_server_batch(operations, written)
        state.due.add(token)


def was_cancelled(arguments: tuple[Any, ...]) -> bool:
    """Tells whether the caller cancelled a call, before it had its status.

    Args:
        arguments: As in `behavior_of`.
    """
    return bool(arguments[2].client == _CANCELLED)


def forget_errors(arguments: tuple[Any, ...]) -> None:
    """Lets go of errors that a call has raised in its handler, when the handler has ended.

    They refer to its frames, and these to them: its newest message would stay until Python's next
    full collection of garbage, which may never come.

    Args:
        arguments: As in `behavior_of`.
    """
    errors = arguments[2].rpc_errors
    while errors:
        errors.pop().__traceback__ = None


def end_call(
    arguments: tuple[Any, ...],
    code: grpc.StatusCode,
    text: str,
    trailers: tuple[tuple[str, str], ...],
    *,
    has_handler: bool,
) -> None:
    """Ends a call with a status, wherever it is. Its handler sees that the caller gave up.

    Args:
        arguments: As in `behavior_of`.
        code: The status code.
        text: Its text.
        trailers: The trailing metadata.
        has_handler: Whether a handler may have begun. Without one, `was_cancelled` goes on to tell
            what the caller did.
    """
    event, state = arguments[1], arguments[2]
    with state.condition:
        if not _server._is_rpc_state_active(state):
            return
        state.code, state.details = code, text.encode()
        state.trailing_metadata = trailers or None
        _server._abort(state, event.call, cygrpc.StatusCode.unknown, b"")
        if has_handler:
            state.client = _CANCELLED
        state.condition.notify_all()
