"""Blocking work of an event loop that must not delay the end of the process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_daemon_thread(
    function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    """Calls a function in a new thread, and returns the future result.

    Python and `asyncio.run` wait at their end for the threads of `asyncio.to_thread`, but not for
    this one. Nor does it wait for a free thread: a few calls that hang do not hold up others.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(set_outcome: Callable[[], None]) -> None:
        if not future.done():
            set_outcome()

    def work() -> None:
        outcome: Callable[[], None]
        try:
            result = function(*args, **kwargs)
        except BaseException as caught:  # noqa: BLE001 - whoever awaits the future gets it
            error = caught

            def outcome() -> None:
                future.set_exception(error)
        else:

            def outcome() -> None:
                future.set_result(result)

        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, outcome)

    threading.Thread(target=work, name=f"aegis-{function.__name__}", daemon=True).start()
    return future
