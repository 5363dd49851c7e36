"""The context of an async handler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import grpc

from aegis_core.testing._context import ContextBase, Metadata

_END = object()


class FakeContext(ContextBase):
    """A context for tests that call an async handler themselves.

    It is `aegis_core.testing.FakeContext` with the coroutines of `grpc.aio.ServicerContext`.
    `written` has what the handler wrote; `read` returns `requests`, one after another.

    Args:
        caller: The node id of the caller, whose certificate is made for the test; None for a
            caller without a certificate, which no node lets in.
        requests: The messages that `read` returns.
        metadata: The metadata that the caller sent.
        timeout: Seconds until the deadline of the call; None for none.
    """

    def __init__(
        self,
        caller: str | None = "test-client",
        *,
        requests: Iterable[Any] = (),
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> None:
        super().__init__(caller, metadata=metadata, timeout=timeout)
        self._requests = iter(requests)
        self.written: list[Any] = []

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        raise self._abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: Any) -> NoReturn:
        raise self._abort(status.code, status.details, status.trailing_metadata or ())

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        self.initial_metadata = tuple(initial_metadata)

    async def read(self) -> Any:
        """The next request; `grpc.aio.EOF` after the last."""
        found = next(self._requests, _END)
        return grpc.aio.EOF if found is _END else found

    async def write(self, message: Any) -> None:
        self.written.append(message)

    def cancelled(self) -> bool:
        return self.is_cancelled

    def done(self) -> bool:
        return self.is_cancelled

    def cancel(self) -> bool:
        """Ends the call as a caller does that gives up."""
        if not self._cancel():
            return False
        for callback in self._callbacks:
            callback(self)
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)
