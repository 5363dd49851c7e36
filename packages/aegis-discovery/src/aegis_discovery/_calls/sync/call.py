"""Sync calls that outlive their first attempt."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import grpc

from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.retry_budget import RetryPolicy
from aegis_discovery._calls.router import (
    End,
    Router,
    deadline_of,
    is_not_connected,
    time_left,
    told_code,
)

# What else came with these ends must be known: the call may go on, or its provider was not reached.
_UNCERTAIN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})

_log = logging.getLogger("aegis.pool")

Start: TypeAlias = Callable[["Endpoint[grpc.Channel]", "float | None", "bool | None"], Any]


class RetriedCall(grpc.Call, grpc.Future):  # type: ignore[type-arg]  # generic in the stubs only
    """A future or a response stream that goes on elsewhere while nobody answers it.

    It behaves as the call of the attempt that counts. Whoever first sees an attempt end (the
    caller's thread, or gRPC's) settles whether that is the end of the call.

    Args:
        router: Decides where it goes.
        start: Starts an attempt: endpoint, timeout, wait_for_ready.
        policy: When it goes on.
        deadline: When all attempts together must be done, in monotonic seconds.
        wait_for_ready: As the caller gave it.
        endpoint: Where the first attempt went.
        call: The first attempt.
        streams: Whether it has a stream of responses.
    """

    def __init__(
        self,
        router: Router[grpc.Channel],
        start: Start,
        policy: RetryPolicy,
        deadline: float | None,
        wait_for_ready: bool | None,
        endpoint: Endpoint[grpc.Channel],
        call: Any,
        *,
        streams: bool,
    ) -> None:
        self._router = router
        self._start = start
        self._policy = policy
        self._uncertain = policy.codes | _UNCERTAIN
        self._deadline = deadline
        self._wait_for_ready = wait_for_ready
        self._streams = streams
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._seen = False
        self._cancelled = False
        self._settled: Any = None
        self._tried: tuple[Endpoint[grpc.Channel], ...] = ()
        self._follow(endpoint, call)
        self._watch()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._tried[-1].node_id}: {self._call!r}>"

    def _attempt(self, endpoint: Endpoint[grpc.Channel], timeout: float | None) -> None:
        wait = self._wait_for_ready and self._router.waits(self._policy, len(self._tried))
        self._follow(endpoint, self._start(endpoint, timeout, wait))

    def _follow(self, endpoint: Endpoint[grpc.Channel], call: Any) -> None:
        """Goes on with an attempt that was just started."""
        self._began = _count(call, endpoint, streams=self._streams)
        self._call = call
        self._tried = (*self._tried, endpoint)

    def _watch(self) -> None:
        """Settles the attempt as it ends, even if nobody waits for it.

        gRPC cancels a call that is dropped; so what it calls back must not keep this one alive.
        """
        this = weakref.ref(self)

        def ended() -> None:
            call = this()
            if call is not None:
                call._ended()  # noqa: SLF001 - a closure of this very class

        if not self._call.add_callback(ended):
            self._ended()

    def _ended(self) -> None:
        call = self._call
        if call.done():
            self._off_the_event_thread(call, lambda: self._is_final(call))

    def _off_the_event_thread(self, call: Any, settle: Callable[[], object]) -> None:
        """Settles a call that ended; where that waits for gRPC's events, not on their thread."""
        if self._is_uncertain(call):
            threading.Thread(target=settle, name="aegis-retry", daemon=True).start()
        else:
            settle()

    def _is_uncertain(self, call: Any) -> bool:
        """Tells whether more than the status must be known of how an attempt ended."""
        code = call.code()
        if code is grpc.StatusCode.CANCELLED:
            return not self._cancelled
        return code in self._uncertain

    def _is_final(self, call: Any) -> bool:
        """Tells of an attempt that ended whether the call ends with it; settled only once.

        It may wait for what gRPC's own thread brings, if it is not certain that it does.
        """
        code = call.code()
        end = End(code, self._seen or self._streams, ())
        if self._is_uncertain(call) and call is not self._settled and call is self._call:
            with self._reading:  # a message may be on its way into the caller's hands
                end = end_of(call, seen=self._seen)
        with self._lock:
            if call is self._settled:
                return True
            if call is not self._call:
                return False
            endpoint = self._tried[-1]
            if code is grpc.StatusCode.OK:
                note_success(endpoint, self._began, streams=self._streams)
                self._settled = call
                return True
            other = self._router.after(
                self._tried,
                end,
                None if self._cancelled else self._policy,
                deadline=self._deadline,
                waiting=self._wait_for_ready,
            )
            try:
                if other is not None:
                    self._attempt(other, time_left(self._deadline))
            except Exception:  # noqa: BLE001 - whatever hinders another attempt, this one stands
                _log.debug("no further attempt after %r", call, exc_info=True)
                other = None
            if other is None:
                self._settled = call
                return True
        if self._cancelled:
            self._call.cancel()
        self._watch()
        return False

    def _last(self, timeout: float | None = None) -> Any:
        """Waits for the end and returns the attempt that counts."""
        deadline = deadline_of(timeout)
        while True:
            call = self._call
            try:
                call.exception(time_left(deadline))
            except grpc.FutureCancelledError:
                return call
            if self._is_final(call):
                return call

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while True:
            call = self._call
            try:
                with self._reading:
                    message = next(call)
                    self._seen = True
                    return message
            except grpc.RpcError:
                if self._is_final(call):
                    raise

    def initial_metadata(self) -> Any:
        """Waits for the metadata that the server sent first."""
        while True:
            call = self._call
            metadata = call.initial_metadata()
            if not call.done():
                self._seen = True
                return metadata
            if self._is_final(call):
                return metadata

    def trailing_metadata(self) -> Any:
        """Waits for the end and returns the metadata that came with it."""
        return self._last().trailing_metadata()

    def code(self) -> grpc.StatusCode:
        """Waits for the end and returns the status."""
        return self._last().code()  # type: ignore[no-any-return]  # calls of gRPC are untyped here

    def details(self) -> str:
        """Waits for the end and returns the status's details."""
        return self._last().details()  # type: ignore[no-any-return]  # as above

    def debug_error_string(self) -> str:
        """Waits for the end and returns what gRPC's core says of it."""
        return self._last().debug_error_string()  # type: ignore[no-any-return]  # as above

    def result(self, timeout: float | None = None) -> Any:
        """Waits for the end and returns the response, or raises."""
        return self._last(timeout).result()

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Waits for the end and returns the error, or None."""
        return self._last(timeout).exception()  # type: ignore[no-any-return]  # as above

    def traceback(self, timeout: float | None = None) -> Any:
        """Waits for the end and returns the error's traceback, or None."""
        return self._last(timeout).traceback()

    def done(self) -> bool:
        """Tells whether the call has ended, without waiting for anything."""
        call = self._call
        if not call.done():
            return False
        if self._is_uncertain(call):
            return call is self._settled
        return self._is_final(call)

    def running(self) -> bool:
        """Tells whether the call has not ended."""
        return not self.done()

    def is_active(self) -> bool:
        """Tells whether the call has not ended."""
        return not self.done()

    def cancelled(self) -> bool:
        """Tells whether the caller cancelled the call before it ended."""
        return self._call.cancelled()  # type: ignore[no-any-return]  # as above

    def cancel(self) -> bool:
        """Cancels the call; returns whether it had not ended."""
        self._cancelled = True
        return self._call.cancel()  # type: ignore[no-any-return]  # as above

    def time_remaining(self) -> Any:
        """Returns the seconds to the deadline, or None."""
        return self._call.time_remaining()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls back at the end; returns False where that is past."""
        if self.done():
            return False
        self.add_done_callback(lambda _: callback())
        return True

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Calls back with this call at its end, at once where that is past."""
        if self.done():
            fn(self)
        else:
            self._call.add_done_callback(partial(self._tell, fn))

    def _tell(self, fn: Callable[[Any], None], call: Any) -> None:
        def tell() -> None:
            if self._is_final(call):
                fn(self)
            else:
                self.add_done_callback(fn)

        self._off_the_event_thread(call, tell)


def end_of(call: Any, *, seen: bool = False, streams: bool = False) -> End:
    """Tells how a call or an error of gRPC ended; it waits for that.

    Args:
        call: The call, or the error that it raised.
        seen: Whether the caller saw anything of an answer.
        streams: Whether it streams; a deadline is a common end of those.
    """
    details = call.details()
    code = told_code(call.code(), details)
    late = streams and code is grpc.StatusCode.DEADLINE_EXCEEDED
    answered = seen or late or bool(call.initial_metadata())
    unsent = is_not_connected(code, details)
    return End(code, answered, call.trailing_metadata() or (), unsent)


def note_success(endpoint: Endpoint[grpc.Channel], began: float, *, streams: bool) -> None:
    """Notes that a provider answered a call, and where it was one response, how fast."""
    if not streams:
        endpoint.answered(began, time.monotonic())
    elif endpoint.troubled:
        endpoint.succeeded()


def _count(call: Any, endpoint: Endpoint[grpc.Channel], *, streams: bool) -> float:
    """Counts a call as under way until it ends; returns when it began."""
    began = time.monotonic()
    token = object()  # not the call itself, which would be kept alive by what it calls back
    under_way = endpoint.streaming if streams else endpoint.waiting
    over = partial(under_way.discard, token)
    if call.add_callback(over):
        if streams:
            under_way.add(token)
        else:
            endpoint.asked(began, token)
        if call.done():  # it may have ended in between
            over()
    return began


def observe(
    call: Any, router: Router[grpc.Channel], endpoint: Endpoint[grpc.Channel], *, streams: bool
) -> Any:
    """Lets the router know how a call of one attempt ends, without keeping the call alive."""
    began = _count(call, endpoint, streams=streams)
    reference = weakref.ref(call)

    def ended() -> None:
        call = reference()
        if call is None:
            return
        code = told_code(call.code(), call.details())
        if code is grpc.StatusCode.OK:
            note_success(endpoint, began, streams=streams)
        else:
            # Whether metadata came first cannot be asked on gRPC's own thread.
            late = streams and code is grpc.StatusCode.DEADLINE_EXCEEDED
            end = End(code, late, call.trailing_metadata() or ())
            router.note(endpoint, end, time.monotonic())

    if not call.add_callback(ended):
        ended()
    return call
