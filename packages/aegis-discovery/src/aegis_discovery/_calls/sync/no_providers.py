"""Sync calls to a service without providers."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc

from aegis_discovery.errors import NoProvidersError


class NoProvidersRpcError(NoProvidersError, grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]  # generic in the stubs only
    """The error of a call to a service without providers, and the ended call itself."""

    def __init__(
        self, *args: Any, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, **fields: Any
    ) -> None:
        super().__init__(*args, **fields)
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return str(self)

    debug_error_string = details

    def initial_metadata(self) -> Any:
        return ()

    trailing_metadata = initial_metadata

    def is_active(self) -> bool:
        return False

    running = cancel = cancelled = is_active

    def time_remaining(self) -> Any:
        return None

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        raise self

    def exception(self, timeout: float | None = None) -> Exception:
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        return self.__traceback__

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> NoReturn:
        raise self
