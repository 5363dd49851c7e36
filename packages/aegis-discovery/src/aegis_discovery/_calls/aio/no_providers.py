"""Async calls to a service without providers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, NoReturn

import grpc
import grpc.aio

from aegis_discovery.errors import NoProvidersError

# The stubs of grpc make these classes generic; at run time not all of them are.
# mypy: disable-error-code="type-arg"


class NoProvidersRpcError(NoProvidersError, grpc.aio.AioRpcError):
    """The error of a call to a service without providers."""

    def __init__(
        self, *args: Any, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, **fields: Any
    ) -> None:
        # The constructors of the two bases take different arguments and do not call each other.
        error = NoProvidersError(*args, **fields)
        message = str(error)
        nothing = grpc.aio.Metadata()
        grpc.aio.AioRpcError.__init__(self, code, nothing, nothing, message, message)
        self.args = (message,)
        vars(self).update(vars(error))

    def __str__(self) -> str:
        return str(self.args[0])


class NoProvidersCall(
    grpc.aio.UnaryUnaryCall,
    grpc.aio.UnaryStreamCall,
    grpc.aio.StreamUnaryCall,
    grpc.aio.StreamStreamCall,
):
    """A call of any kind that ended with a `NoProvidersRpcError`."""

    def __init__(self, error: Any) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, None, Any]:
        raise self._error
        yield

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> NoReturn:
        raise self._error

    async def write(self, request: Any) -> NoReturn:
        raise self._error

    read = wait_for_connection = __anext__

    async def done_writing(self) -> None:
        pass

    async def code(self) -> Any:
        return self._error.code()

    async def details(self) -> str:
        return str(self._error)

    debug_error_string = details

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    trailing_metadata = initial_metadata

    def done(self) -> bool:
        return True

    def cancel(self) -> bool:
        return False

    cancelled = cancel

    def time_remaining(self) -> float | None:
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)
