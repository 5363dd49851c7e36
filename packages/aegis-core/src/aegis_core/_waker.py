"""Waits in an event loop for a wake-up or for a time, whichever is first."""

from __future__ import annotations

import asyncio

from aegis_discovery.background import call_later


class Waker:
    """An event for one task, which waits for it again and again.

    It costs less than `asyncio.timeout`, which cancels the task and catches that at each timeout.

    Attributes:
        is_set: Whether somebody woke it since it was cleared.
    """

    __slots__ = ("_waiting", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiting: asyncio.Future[None] | None = None

    def clear(self) -> None:
        self.is_set = False

    def set(self) -> None:
        """Wakes the task that waits; call it in its event loop."""
        self.is_set = True
        self._release()

    async def wait(self, timeout: float) -> bool:
        """Waits at most `timeout` seconds; returns whether it was woken."""
        if not self.is_set:
            self._waiting = asyncio.get_running_loop().create_future()
            timer = call_later(timeout, self._release)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        return self.is_set

    def _release(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
