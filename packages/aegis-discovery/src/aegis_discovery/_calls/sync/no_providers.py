"""Sync calls that had nowhere to go."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc

from aegis_discovery.errors import NoProvidersError


class NoProvidersRpcError(NoProvidersError, grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]  # generic in the stubs only
    """The error of a call that had nowhere to go, and such a call itself: it has ended."""

    def code(self) -> grpc.StatusCode:
        """Returns UNAVAILABLE."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Says which service has no provider."""
        return str(self)

    def debug_error_string(self) -> str:
        """Says the same as `details`."""
        return str(self)

    def initial_metadata(self) -> Any:
        """Returns nothing, since nobody answered."""
        return ()

    def trailing_metadata(self) -> Any:
        """Returns nothing, since nobody answered."""
        return ()

    def is_active(self) -> bool:
        """Returns False."""
        return False

    def time_remaining(self) -> Any:
        """Returns None, as for a call without a deadline."""
        return None

    def running(self) -> bool:
        """Returns False."""
        return False

    def done(self) -> bool:
        """Returns True."""
        return True

    def cancel(self) -> bool:
        """Returns False: it is too late."""
        return False

    def cancelled(self) -> bool:
        """Returns False."""
        return False

    def result(self, timeout: float | None = None) -> NoReturn:
        """Raises the error."""
        raise self

    def exception(self, timeout: float | None = None) -> Exception:
        """Returns the error."""
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Returns the error's traceback, where it was raised."""
        return self.__traceback__

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Returns False: the call has ended."""
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Calls back at once."""
        fn(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> NoReturn:
        raise self
