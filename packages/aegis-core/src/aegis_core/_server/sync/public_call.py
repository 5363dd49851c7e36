"""The calls of a blocking server where gRPC is another one than expected."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc

from aegis_core._server import rejections
from aegis_core._server.rejections import Rejection
from aegis_core._server.sync.calls import ServerCall, Threads


class PublicCall(ServerCall):
    """A call that uses gRPC's public API only. Every kind is presented as one that sends itself."""

    def __init__(
        self, threads: Threads, run: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        super().__init__(threads, run, arguments)
        self._lock = threading.Lock()
        self._is_ended = False
        self.holds_slot = False

    def claim_end(self) -> bool:
        """Returns whether the status may be sent, once."""
        with self._lock:
            if self._is_ended:
                return False
            self._is_ended = True
            return True

    def end(self, rejection: Rejection) -> None:
        if hasattr(self, "send") and self.claim_end():
            self.context.set_trailing_metadata(rejection.trailers)
            self.context.set_code(grpc.StatusCode[rejection.code])
            self.context.set_details(rejection.text)
            self.send(None)

    def complete(self) -> None:
        if self.claim_end():
            self.send(None)

    def note_over(self) -> None:
        """Called when the call is over; without a status, its caller gave up."""
        if self.claim_end():
            self.failure = rejections.CANCELLED
            self.threads.checks.abused(self.caller.node_id)

    def finish(self) -> None:
        if self.holds_slot:
            self.holds_slot = False
            self.threads.slots.release()
        super().finish()
