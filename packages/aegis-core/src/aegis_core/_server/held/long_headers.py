"""Lets new connections wait while calls with long headers, which were read before, hold memory."""

from __future__ import annotations

import math
import time

from aegis_core._server.memory import allocated_bytes

CALM = 0.15
"""Seconds without a call with long headers after which gRPC accepts connections again.

gRPC applies its limit once the other end has acknowledged it, so a connection can send such calls
before that. Each takes 3 MB, and 20 ms of the node, while gRPC reads the next ones in 6 ms each. So
those that are read must be worked off before the next connection may send some.
"""

MAX_DELAY = 3.0
"""Seconds for which connections wait for that at most; then gRPC needs some for the handshake."""

UNSEEN_HEADERS = 4 * 1024 * 1024
"""Bytes by which a node has grown while calls with long headers wait to be seen.

Where others use the processors, a node sees the next one 0.7 s after the last one.
"""

REST_EVERY = 1.0
"""Seconds between two looks at what a node has allocated, while nobody sends long headers."""

LOOK_EVERY = 0.02
"""Seconds between two looks while a connection waits."""


class LongHeaders:
    """Knows when the last such call was seen. It may be used from any thread."""

    def __init__(self) -> None:
        self._seen_at = -MAX_DELAY
        self._at_rest = math.inf
        self._rested_at = -REST_EVERY

    def note(self) -> None:
        """Records that a call with long headers was seen."""
        self._seen_at = time.monotonic()

    def wait(self) -> None:
        """Waits until such calls are worked off, but not for ever."""
        until = time.monotonic() + MAX_DELAY
        while self._may_wait(now := time.monotonic()) and now < until:
            time.sleep(LOOK_EVERY)

    def _may_wait(self, now: float) -> bool:
        """Tells whether calls with long headers may still wait, and what they hold."""
        calm = now - self._seen_at
        if calm < CALM:
            return True
        if calm < MAX_DELAY:  # without CPU time, the node sees the next one later than that
            return (allocated_bytes() or 0) > self._at_rest + UNSEEN_HEADERS
        if now - self._rested_at > REST_EVERY:
            self._rested_at, self._at_rest = now, allocated_bytes() or math.inf
        return False
