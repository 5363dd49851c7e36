"""Async calls that had nowhere to go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, NoReturn

import grpc
import grpc.aio

from aegis_discovery.errors import NoProvidersError

# The stubs of grpc make these classes generic; at run time not all of them are.
# mypy: disable-error-code="type-arg"


class NoProvidersRpcError(NoProvidersError, grpc.aio.AioRpcError):
    """The error of a call that had nowhere to go."""

    def __init__(self, name: str, version: str, known: int = 0) -> None:
        # Two errors with constructors of their own meet here; neither one calls the other's.
        message = str(NoProvidersError(name, version, known))
        nothing = grpc.aio.Metadata()
        grpc.aio.AioRpcError.__init__(
            self, grpc.StatusCode.UNAVAILABLE, nothing, nothing, message, message
        )
        self.args = (message,)
        self.name = name
        self.version = version
        self.known = known

    def __str__(self) -> str:
        return str(self.args[0])


class UnroutedCall(
    grpc.aio.UnaryUnaryCall,
    grpc.aio.UnaryStreamCall,
    grpc.aio.StreamUnaryCall,
    grpc.aio.StreamStreamCall,
):
    """A call of any kind that had nowhere to go: it has ended with the error."""

    def __init__(self, error: NoProvidersRpcError) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, None, Any]:
        raise self._error
        yield

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> NoReturn:
        raise self._error

    async def read(self) -> NoReturn:
        """Raises the error."""
        raise self._error

    async def write(self, request: Any) -> NoReturn:
        """Raises the error."""
        raise self._error

    async def done_writing(self) -> None:
        """Does nothing: the call has ended."""

    async def wait_for_connection(self) -> NoReturn:
        """Raises the error."""
        raise self._error

    async def code(self) -> grpc.StatusCode:
        """Returns UNAVAILABLE."""
        return self._error.code()

    async def details(self) -> str:
        """Says which service has no provider."""
        return str(self._error)

    async def debug_error_string(self) -> str:
        """Says the same as `details`."""
        return str(self._error)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Returns nothing, since nobody answered."""
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Returns nothing, since nobody answered."""
        return grpc.aio.Metadata()

    def done(self) -> bool:
        """Returns True."""
        return True

    def cancel(self) -> bool:
        """Returns False: it is too late."""
        return False

    def cancelled(self) -> bool:
        """Returns False."""
        return False

    def time_remaining(self) -> float | None:
        """Returns None, as for a call without a deadline."""
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Calls back at once."""
        callback(self)
