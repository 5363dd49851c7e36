"""The calls of a blocking server."""

from __future__ import annotations

import functools
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from aegis_discovery.signals import FOLD_MASK, Edge

from aegis_core._access.caller import Caller
from aegis_core._server import rejections
from aegis_core._server.admission import AdmissionControl
from aegis_core._server.call_checks import CallChecks
from aegis_core._server.held.complete_messages import Inflow
from aegis_core._server.held.running_requests import LARGE
from aegis_core._server.rejections import FULL, TOO_LARGE, UNFINISHED, CallRejectedError, Rejection
from aegis_core._server.sync import grpc_internals
from aegis_core._server.sync.method import Method
from aegis_core._server.telemetry import end_trace

if TYPE_CHECKING:
    from aegis_discovery.telemetry import HandlerTrace

_log = logging.getLogger("aegis.server")

_FAILED = Rejection("INTERNAL", "this node failed; its log says why")
_Arguments = tuple[Any, ...]


class Threads(Protocol):
    """What a call needs of the threads that serve it, of which `CallThreads` says more."""

    checks: CallChecks[ServerCall]
    admission: AdmissionControl[ServerCall] | None
    slots: threading.Semaphore
    waiting: dict[ServerCall, float]

    def lent(self, call: Any) -> AbstractContextManager[None]: ...


class ServerCall(ABC):
    """One call, from its arrival until no thread works for it and no message is sent.

    What may be done once is marked by an attribute, without a lock: CPython switches threads
    between calls, not between reading an attribute and setting it.

    Attributes:
        caller: Who calls; set once the caller is accepted.
        caller_id: The same, or what is responsible for a call that is rejected.
        context: gRPC's context.
        send: Sends a message, or the status for None; only for handlers that do not block.
        begin_send: Sends a message and waits for nothing; None where gRPC can only wait.
        is_detached: Whether the call continues when its thread is done.
        failure: The number of its status, if its handler sets none.
        trace: Traces the call; None if it is not traced.
        inflow: Counts its messages, if it has many requests.
        is_large: Whether its one request is.
    """

    caller: Caller
    caller_id: str | None = None
    failure = 0
    trace: HandlerTrace | None = None
    context: Any
    inflow: Inflow[ServerCall] | None = None
    is_detached = is_large = False
    _is_accepted = False
    _is_claimed = False
    _edge: Edge | None = None
    _began: float
    send: Callable[[Any], None]
    begin_send: Callable[[Any, Callable[[], object]], None] | None = None

    def __init__(self, threads: Threads, run: Callable[..., Any], arguments: _Arguments) -> None:
        self.threads = threads
        self._run = run
        self._arguments: tuple[Any, ...] | None = arguments

    def done(self) -> bool:
        return self._arguments is None

    def accept(self, method: Method) -> None:
        """Reads the caller. Until its request has arrived, the call is an open stream.

        Raises:
            CallRejectedError: The call is not allowed.
        """
        checks = self.threads.checks
        try:
            caller = self.caller = method.accept(self.context, method.policy_path, None)
        except CallRejectedError as error:
            self.caller_id = error.source
            if method.edges is not None:
                checks.count_rejected(method.edges, error)
            if method.telemetry is not None:
                method.telemetry.rejected(error.rejection.code)
            raise
        caller_id = self.caller_id = caller.node_id
        if method.edges is not None:
            edge = self._edge = method.edges[caller_id]
            edge.started = started = edge.started + 1
            if not started & FOLD_MASK:
                edge.fold()
            self._began = time.monotonic()
        if method.telemetry is not None:
            self.trace = method.telemetry.begin(caller_id, self.context.invocation_metadata())
        self._is_accepted = True
        if not method.has_one_request:
            self.open_inflow()
        checks.streams[self] = caller, method.policy_path

    def open_inflow(self) -> None:
        """Counts the messages from now on, until `close_inflow`.

        Raises:
            CallRejectedError: Its caller must not open more of these calls now.
        """
        unfinished = self.threads.checks.unfinished
        self.inflow = unfinished.open(self, self.caller.node_id, self.context.peer())
        if self.inflow is None:
            self.threads.checks.refuse_unfinished(self.caller.node_id, self.context)
            raise CallRejectedError(UNFINISHED)

    def close_inflow(self) -> None:
        """Counts no messages any more."""
        if self.inflow is not None:
            self.threads.checks.unfinished.close(self.inflow)
            self.inflow = None

    def count(self, method: Method) -> None:
        """Counts an accepted call as running.

        Raises:
            CallRejectedError: It is one too many.
        """
        if not method.is_stream:  # it may finish, whatever happens to its caller
            self.threads.checks.streams.pop(self, None)
        if self.threads.admission is not None and not self.threads.admission.begin(self):
            raise CallRejectedError(FULL)

    def hold(self, method: Method, size: int) -> bool:
        """Counts a large request until the call is done; returns False if it is one too many."""
        self.is_large = True
        running, caller_id = self.threads.checks.reads.running, self.caller.node_id
        return running.add(caller_id, self, method.policy_path, size)

    def serve(self) -> None:
        """Serves the call on this thread, unless it is over."""
        arguments = self._arguments
        if arguments is None or not self._claim():
            return
        _current.call = self
        try:
            self._run(*arguments)
        except BaseException as error:  # noqa: BLE001 - SystemExit too; gRPC would never answer
            _log.exception("a handler ended its thread")
            self.end(Rejection("UNKNOWN", f"the handler raised {type(error).__name__}"))
        finally:
            del _current.call
            if not self.is_detached:
                self.finish()

    def drop_if_waiting(self) -> None:
        """Releases what a call holds that is over before a thread took it."""
        if self._claim():
            self.finish()

    def finish(self) -> None:
        """Counts the call as done; no thread works for it, and no message is sent."""
        checks, admission = self.threads.checks, self.threads.admission
        if self in checks.streams:
            checks.streams.pop(self, None)
        if self.inflow is not None:
            self.close_inflow()
            self._forget_errors()
        self._arguments = None
        if self.is_large:
            checks.reads.release(self.caller.node_id, self)
        is_open, self._is_accepted = self._is_accepted, False
        if is_open:  # else another thread was first
            self._count_end()
            self._leave()
        if admission is not None:
            admission.end(self)

    def _leave(self) -> None:
        self.threads.checks.callers.leave(self.caller.node_id)

    def _forget_errors(self) -> None:  # noqa: B027 - as below
        """Lets go of what the handler was told when its requests ended too early."""

    def note_answer(self, size: int) -> None:  # noqa: B027 - only some kinds need it
        """Notes the size of the one answer, before it is sent."""

    def note_raised(self) -> None:
        """Notes that the handler raised an error, before gRPC sends the status."""
        if not self.failure:
            self.failure = rejections.UNKNOWN if self.context.is_active() else rejections.CANCELLED

    def _count_end(self) -> None:
        if self._edge is None:
            return
        code, number = self.context.code(), self.failure
        if code is not None:
            number = code.value[0] if isinstance(code, grpc.StatusCode) else rejections.UNKNOWN
            number = number or self.failure
        seconds = time.monotonic() - self._began
        if number:
            self._edge.ended(number, seconds)
        else:
            self._edge.pending.append(seconds)
        if self.trace is not None:
            end_trace(self.trace, number, self.context.details())

    def _claim(self) -> bool:
        """Returns True once: to the thread that serves the call, or to what drops it."""
        was_claimed, self._is_claimed = self._is_claimed, True
        return not was_claimed

    @abstractmethod
    def end(self, rejection: Rejection) -> None:
        """Ends the call with a status, from any thread. Its handler sees that the call is over."""

    @abstractmethod
    def complete(self) -> None:
        """Ends the call of a handler that does not block, with the status that it has set."""


class DirectCall(ServerCall):
    """A call on gRPC as `grpc_internals` expects it."""

    _is_ended = False
    _is_over = False
    _is_read = False
    _has_left = False
    _answer = 0
    _put: Callable[[ServerCall], object]
    _method: Method

    def begin(self, put: Callable[[ServerCall], object]) -> None:
        """Judges the call, and gives it to a thread once its one request has arrived."""
        arguments = self._arguments
        assert arguments is not None  # noqa: S101 - it has just arrived
        method: Method = grpc_internals.behavior_of(arguments).method
        self._put, self._method = put, method
        self.context = grpc_internals.context_of(arguments)
        grpc_internals.when_over(arguments, functools.partial(self._over, arguments))
        try:
            self.accept(method)
        except Exception as error:  # noqa: BLE001 - whatever it is, other calls must go on
            self._reject(error)
            return
        if method.has_one_request:
            self.threads.waiting[self] = time.monotonic()
            start, peer = functools.partial(self._read, arguments), self.context.peer
            reads, path = self.threads.checks.reads, method.policy_path
            reads.begin(self.caller.node_id, self, path, start, peer)
        else:
            self._ready(arguments)

    def _ready(self, arguments: tuple[Any, ...]) -> None:
        """Gives the call to a thread, unless it is over."""
        if not grpc_internals.is_active(arguments):
            self.drop_if_waiting()
            return
        try:
            self.count(self._method)
        except Exception as error:  # noqa: BLE001 - as above
            self._reject(error)
        else:
            self._put(self)

    def _reject(self, error: Exception) -> None:
        # On gRPC's serving thread, which an error would end.
        if isinstance(error, CallRejectedError):
            self.end(error.rejection)
        else:
            _log.error("a call cannot be judged", exc_info=error)
            self.end(_FAILED)
        self.drop_if_waiting()

    def _read(self, arguments: tuple[Any, ...]) -> bool:
        """Begins to read the request; returns False if the call is over."""

        def ready(size: int) -> None:
            is_allowed = size < LARGE or self.hold(self._method, size)  # before another read begins
            self._end_read()
            unfinished = self.threads.checks.unfinished
            if unfinished.is_counting:
                unfinished.note_request(self.caller.node_id, self.context.peer, size)
            if is_allowed:
                self._ready(arguments)
            else:
                self._reject(CallRejectedError(TOO_LARGE))

        reading = None if self.done() else grpc_internals.read_first(arguments, ready)
        if reading is None:
            return False
        self._arguments = reading
        return True

    def _over(self, arguments: tuple[Any, ...]) -> None:
        """Called on gRPC's serving thread when the call is over."""
        gave_up = not self._is_ended and grpc_internals.was_cancelled(arguments)
        if gave_up:
            self.failure = rejections.CANCELLED
        if self.caller_id is not None:
            self._end_read()
            if gave_up:
                self.threads.checks.abused(self.caller_id)
        if not self._is_claimed:
            self.drop_if_waiting()
        self._is_over = True
        if self._answer:
            self._drop_answer()
        self._leave()

    def _end_read(self) -> None:
        """Counts the request as read, or as one that will not arrive."""
        was_read, self._is_read = self._is_read, True
        if not was_read and self.threads.waiting.pop(self, None) is not None:
            self.threads.checks.reads.end(self.caller.node_id, self)

    def _leave(self) -> None:
        # The call is open until its answer is sent, which may be long after its thread is done.
        is_second, self._has_left = self._has_left, True
        if is_second:
            super()._leave()

    def note_answer(self, size: int) -> None:
        self.threads.checks.answers.add(self.caller.node_id, size)
        self._answer = size
        if self._is_over:
            self._drop_answer()

    def _drop_answer(self) -> None:
        size, self._answer = self._answer, 0
        if size:  # else another thread was first
            self.threads.checks.answers.remove(self.caller.node_id, size)

    def end(self, rejection: Rejection) -> None:
        arguments = self._arguments
        if arguments is not None:
            code = grpc.StatusCode[rejection.code]
            # Before it is accepted, it has no handler, and what its caller does still counts.
            self._is_ended = self._is_accepted
            grpc_internals.end_call(
                arguments, code, rejection.text, rejection.trailers, has_handler=self._is_ended
            )

    def _forget_errors(self) -> None:
        if self._arguments is not None:
            grpc_internals.forget_errors(self._arguments)

    def complete(self) -> None:
        self.send(None)

    def begin_send(self, message: Any, sent: Callable[[], object]) -> None:
        if (arguments := self._arguments) is not None:
            grpc_internals.begin_send(arguments, message, sent)


_current = threading.local()


def current_call() -> ServerCall:
    """Returns the call that this thread serves."""
    call: ServerCall = _current.call
    return call


def current_trace() -> HandlerTrace | None:
    """Returns the trace of the call that this thread serves, if there is one."""
    call: ServerCall | None = getattr(_current, "call", None)
    return None if call is None else call.trace
