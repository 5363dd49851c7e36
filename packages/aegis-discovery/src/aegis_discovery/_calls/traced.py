"""Multi-callables whose calls are reported to OpenTelemetry: what sync and async share.

The trace of a call travels as its metadata, from the traced multi-callable, where the call begins,
to the traced callable of each endpoint that it tries. What lies between balances and retries; it
only settles the trace when no attempt follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from grpc import RpcError, StatusCode

from aegis_discovery._calls.attempt import attempt_result
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.stubs import StubCallable, trace_of

if TYPE_CHECKING:
    from aegis_discovery.telemetry._calls import AttemptTrace


class AttemptCallable:
    """The multi-callable of a method at one endpoint, whose traced calls are attempts.

    gRPC tells nothing of the messages of a call. So each attempt has a multi-callable of its own,
    whose serializers count its messages.

    Args:
        telemetry: Reports the calls of the method: a `MethodTelemetry`.
        endpoint: Where they go.
        make: The method of the endpoint's channel that makes multi-callables.
        method: The full method.
        request_serializer: As the arguments of `make`.
        response_deserializer: As the arguments of `make`.
        others: Further arguments of `make`.
        named: The same, by name.
    """

    wait_for_ready = None

    def __init__(
        self,
        telemetry: Any,
        endpoint: Endpoint[Any],
        make: Callable[..., Any],
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        *others: Any,
        **named: Any,
    ) -> None:
        self.telemetry = telemetry
        self.address = endpoint.address
        self._provider = telemetry.provider(endpoint.node_id)
        self._make = make
        self._method = method
        self._serialize = request_serializer
        self._deserialize = response_deserializer
        self._others = others
        self._named = named
        self._untraced: Any = None

    def begin(self, metadata: Any) -> tuple[Any, Any, Any]:
        """Begins an attempt; returns its trace if it has one, its callable, and what it sends."""
        trace = trace_of(metadata)
        attempt = None if trace is None else trace.attempt(self._provider)
        if attempt is None:
            if self._untraced is None:
                self._untraced = self._callable(self._serialize, self._deserialize)
            return None, self._untraced, metadata
        return attempt, self._counting(attempt), attempt.metadata(metadata)

    def _callable(self, serialize: Any, deserialize: Any) -> Any:
        return self._make(self._method, serialize, deserialize, *self._others, **self._named)

    def _counting(self, attempt: AttemptTrace) -> Any:
        serialize, deserialize = self._serialize, self._deserialize

        def send(message: Any) -> bytes:
            data: bytes = message if serialize is None else serialize(message)
            attempt.sent(len(data))
            return data

        def receive(data: bytes) -> Any:
            attempt.received(len(data))
            return data if deserialize is None else deserialize(data)

        return self._callable(send, receive)

    def end(
        self,
        attempt: AttemptTrace,
        code: StatusCode,
        details: str | None,
        trailers: Iterable[tuple[str, Any]] | None,
    ) -> None:
        """Ends an attempt."""
        is_unsent = False
        if attempt.waits and code is StatusCode.UNAVAILABLE:
            result = attempt_result(code, details, trailers, answered=False, streams=False)
            is_unsent = result.was_not_sent_to(self.address)
        attempt.end(code.name, details, is_unsent=is_unsent)


class TracedStub(StubCallable[Any]):
    """The multi-callable of a method whose calls are traced."""

    attempts: ClassVar[type[AttemptCallable]]

    def _make(self, endpoint: Endpoint[Any]) -> Any:
        make = getattr(self._connect(endpoint), self._kind)
        return self.attempts(self.telemetry, endpoint, make, *self._args, **self._kwargs)


def begin_call(
    stub: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, once: bool
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Begins a traced call; returns its trace, if it has one, and its arguments.

    Args:
        stub: Its multi-callable.
        args: The arguments of the call, in the order that all multi-callables have.
        kwargs: Its keyword arguments.
        once: Whether it sends a stream of requests, which cannot be repeated.
    """
    waits = args[4] if len(args) > 4 else kwargs.get("wait_for_ready")
    if waits is None:
        waits = stub.wait_for_ready
    given = args[2] if len(args) > 2 else kwargs.get("metadata")
    metadata = stub.telemetry.begin(given, waits=bool(waits) and not once)
    if len(args) > 2:
        args = (*args[:2], metadata, *args[3:])
    else:
        kwargs = {**kwargs, "metadata": metadata}
    return trace_of(metadata), args, kwargs


def settle_failed(trace: Any, error: BaseException) -> None:
    """Ends a call that raised an error."""
    if isinstance(error, RpcError) and hasattr(error, "code"):
        trace.settle(error.code().name, error.details())
    else:
        is_cancelled = not isinstance(error, Exception)
        trace.settle("CANCELLED" if is_cancelled else "UNKNOWN", type(error).__name__)
