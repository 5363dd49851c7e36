"""Calls of a method of any of the four kinds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from aegis_cli._rpc.messages import to_json, to_message
from aegis_cli._rpc.target import Target
from aegis_cli.errors import CallFailedError, InvalidMessageError

TIMEOUT = 30.0
"""Seconds that a call with a single answer may take, unless the user says more."""


def invoke(
    target: Target,
    method: MethodDescriptor,
    values: Iterable[Any],
    *,
    timeout: float | None,
    metadata: Sequence[tuple[str, str]],
) -> Iterator[Any]:
    """Calls a method; yields its answers as JSON values, each as it arrives.

    Args:
        target: The service.
        method: One of its methods.
        values: The requests as JSON values; they are sent as they are read.
        timeout: Seconds for the whole call; None for 30 where there is a single answer, and for no
            limit otherwise.
        metadata: Sent with the call.

    Raises:
        InvalidMessageError: If a request does not fit the method, or their number does not.
        CallFailedError: If the call fails.
    """
    if timeout is None and not method.server_streaming:
        timeout = TIMEOUT
    requests = _Requests(values, method, target.reflection.descriptors)
    call = _start(target.channel, method, requests, timeout, metadata)
    try:
        for answer in call if method.server_streaming else [call.result()]:
            yield to_json(answer, target.reflection.descriptors)
    except grpc.RpcError as error:
        if requests.problem is not None:
            raise requests.problem from None
        raise CallFailedError(error) from error
    finally:
        call.cancel()


class _Requests:
    """The requests of a call; gRPC reads them in a thread of its own."""

    def __init__(self, values: Iterable[Any], method: MethodDescriptor, descriptors: Any) -> None:
        self._values = enumerate(values, 1)
        self._method = method
        self._descriptors = descriptors
        self.problem: InvalidMessageError | None = None

    def one(self) -> Message:
        """The only request; an empty message if the user gave none."""
        found = list(itertools.islice(self, 2))
        if self.problem is not None:
            raise self.problem
        if len(found) > 1:
            problem = f"one too many: {self._method.full_name} takes a single request"
            raise InvalidMessageError(2, problem)
        return found[0] if found else GetMessageClass(self._method.input_type)()

    def __iter__(self) -> Iterator[Message]:
        try:
            for number, value in self._values:
                yield to_message(number, value, self._method.input_type, self._descriptors)
        except InvalidMessageError as error:
            self.problem = error
            raise  # so that gRPC ends the call


def _start(
    channel: Any,
    method: MethodDescriptor,
    requests: _Requests,
    timeout: float | None,
    metadata: Sequence[tuple[str, str]],
) -> Any:
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = (
        f"{'stream' if method.client_streaming else 'unary'}_"
        f"{'stream' if method.server_streaming else 'unary'}"
    )
    answer = GetMessageClass(method.output_type)
    stub = getattr(channel, kind)(
        path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    data = iter(requests) if method.client_streaming else requests.one()
    start = stub if method.server_streaming else stub.future
    return start(data, timeout=timeout, metadata=tuple(metadata) or None)
