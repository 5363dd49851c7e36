"""The context of a blocking handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import grpc

from aegis_core.testing._context import ContextBase, Metadata


class FakeContext(ContextBase, grpc.ServicerContext):
    """A context for tests that call a blocking handler themselves.

    `caller_from_context` returns its caller. `abort` raises `AbortedError`. `code()` and
    `details()` tell what the handler has set. `cancel()` is what a caller does that gives up.

    Args:
        caller: The node id of the caller, whose certificate is made for the test; None for a
            caller without a certificate, which no node lets in.
        metadata: The metadata that the caller sent.
        timeout: Seconds until the deadline of the call; None for none.
    """

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        raise self._abort(code, details, ())

    def abort_with_status(self, status: Any) -> NoReturn:
        raise self._abort(status.code, status.details, status.trailing_metadata or ())

    def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        self.initial_metadata = tuple(initial_metadata)

    def is_active(self) -> bool:
        return not self.is_cancelled

    def cancel(self) -> bool:
        if not self._cancel():
            return False
        for callback in self._callbacks:
            callback()
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self.is_cancelled:
            return False
        self._callbacks.append(callback)
        return True
