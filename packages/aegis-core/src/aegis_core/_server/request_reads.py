"""Limits how many requests of one caller are read at once. Does no I/O.

gRPC keeps what has arrived of a request that it was asked to read, up to the largest message, and
shows nothing of it before its end: 900 calls whose requests lacked the last byte took 1.9 GB. Of a
request that nobody reads it takes 16 KiB (`grpc.http2.lookahead_bytes`), and its sender waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

CallT = TypeVar("CallT")

MAX_READS = 4
"""Requests of one caller that are read at once, times its live workers: 16 MiB of the largest ones.

Small requests arrive with their calls, so those of an honest caller do not wait for each other.
"""


TURN = 5.0
"""Seconds that a read may take while other calls of its caller wait: 4 MiB need 7 Mbit/s."""


class RequestReads(Generic[CallT]):
    """Lets the requests of a caller be read in turn. It may be used from any thread.

    Args:
        workers_of: Returns how many processes share an identity, and so have its limit together.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        workers_of: Callable[[str], int] = lambda _: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers_of = workers_of
        self._clock = clock
        # What starts each read, or when it was started.
        self._reads: dict[str, dict[CallT, Callable[[], bool] | float]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<RequestReads {len(self)}>"

    def __len__(self) -> int:
        return sum(map(len, self._reads.values()))

    def begin(self, caller: str, call: CallT, start: Callable[[], bool]) -> None:
        """Starts the read of a request, now or when others of the caller have ended.

        Args:
            caller: Who calls.
            call: The call. Every begun one must be ended.
            start: Starts the read; returns False if the call is over.
        """
        with self._lock:
            reads = self._reads.setdefault(caller, {})
            count = len(reads)
            has_turn = count < MAX_READS or count < MAX_READS * self._workers_of(caller)
            reads[call] = self._clock() if has_turn else start
        if has_turn and not start():
            self.end(caller, call)

    def end(self, caller: str, call: CallT) -> None:
        """Counts a read as ended, whether it was started or not, and starts the newest one.

        The newest one, because old ones may be of requests that do not arrive.
        """
        following = self._next(caller, call)
        while following is not None:
            call, start = following
            if start():
                return
            following = self._next(caller, call)

    def overstayed(self) -> list[CallT]:
        """Returns calls whose requests take long to arrive, while others of their caller wait."""
        now = self._clock()
        with self._lock:
            return [
                call
                for reads in self._reads.values()
                if len(reads) > MAX_READS and any(map(callable, reads.values()))
                for call, read in reads.items()
                if not callable(read) and now - read >= TURN
            ]

    def _next(self, caller: str, ended: CallT) -> tuple[CallT, Callable[[], bool]] | None:
        with self._lock:
            reads = self._reads.get(caller, {})
            if ended not in reads:
                return None
            was_started = not callable(reads.pop(ended))
            if not reads:
                del self._reads[caller]
            if was_started:
                for call, start in reversed(reads.items()):
                    if callable(start):
                        reads[call] = self._clock()
                        return call, start
            return None
