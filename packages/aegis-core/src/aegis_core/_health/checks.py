"""Health: what a node says of itself, put together from its checkers."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from aegis_discovery import HealthStatus

CheckResult = HealthStatus | bool | None
"""What a check function may return: None and True are healthy, False is not."""


@dataclass(frozen=True, slots=True)
class HealthInfo:
    """The health of one node, or what one checker says of it.

    Attributes:
        node_id: The node.
        status: Healthy, unhealthy, or unknown while nothing was checked.
        last_checked: When (UTC).
        message: For people.
        error: Why it is not healthy; empty otherwise.
    """

    node_id: str
    status: HealthStatus
    last_checked: datetime
    message: str = ""
    error: str = ""


class HealthChecker(Protocol):
    """Something that can tell whether a part of the node works."""

    name: str

    async def check(self) -> HealthStatus:
        """Returns the status; an exception counts as unhealthy, with its text as the reason."""


class FunctionHealthChecker:
    """A checker made of a function, sync or async.

    A sync function runs on a thread, so it may block. It returns a `HealthStatus`, or a bool;
    returning nothing is healthy, raising is not.
    """

    def __init__(
        self, name: str, function: Callable[[], CheckResult | Awaitable[CheckResult]]
    ) -> None:
        self.name = name
        self._function = function
        self._run: threading.Thread | None = None

    async def check(self) -> HealthStatus:
        """Runs the function.

        Raises:
            RuntimeError: If its former run has not ended yet: a hung one must not pile up.
        """
        if inspect.iscoroutinefunction(self._function):
            return as_status(await self._function())
        if self._run is not None and self._run.is_alive():
            raise RuntimeError("its former run has not ended")
        loop = asyncio.get_running_loop()
        result: asyncio.Future[CheckResult | Awaitable[CheckResult]] = loop.create_future()
        # A thread of its own, and a daemon: a check that hangs for good takes nothing with it.
        self._run = threading.Thread(
            target=self._work, args=(loop, result), name=f"aegis-check-{self.name}", daemon=True
        )
        self._run.start()
        answer = await result
        return as_status(await answer if inspect.isawaitable(answer) else answer)

    def _work(self, loop: asyncio.AbstractEventLoop, result: asyncio.Future[Any]) -> None:
        try:
            answer = self._function()
        except Exception as error:  # noqa: BLE001 - it is the answer
            failure = error
            _hand_over(loop, result, lambda: result.set_exception(failure))
        else:
            _hand_over(loop, result, lambda: result.set_result(answer))


def as_status(result: object) -> HealthStatus:
    """Reads what a check returned: False is unhealthy, a status counts, all else is healthy."""
    if isinstance(result, HealthStatus):
        return result
    return HealthStatus.UNHEALTHY if result is False else HealthStatus.HEALTHY


def _hand_over(
    loop: asyncio.AbstractEventLoop, result: asyncio.Future[Any], settle: Callable[[], None]
) -> None:
    def finish() -> None:
        if not result.done():
            settle()

    # The loop may be gone by now; then nobody waits for the answer.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(finish)


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What came of one checker's run."""

    name: str
    status: HealthStatus
    error: str = ""


def summarise(node_id: str, outcomes: Iterable[CheckOutcome]) -> HealthInfo:
    """Puts outcomes together: the worst one counts, and a node without checkers is healthy."""
    outcomes = tuple(outcomes)
    ill = [outcome for outcome in outcomes if outcome.status is HealthStatus.UNHEALTHY]
    unsure = [outcome for outcome in outcomes if outcome.status is HealthStatus.UNKNOWN]
    if ill:
        status = HealthStatus.UNHEALTHY
        message = f"{len(ill)} of {len(outcomes)} checks failed"
    elif unsure:
        status = HealthStatus.UNKNOWN
        message = f"{len(unsure)} of {len(outcomes)} checks could not tell"
    else:
        status = HealthStatus.HEALTHY
        message = f"{len(outcomes)} checks passed" if outcomes else "serving"
    error = "; ".join(f"{outcome.name}: {outcome.error or outcome.status}" for outcome in ill)
    return HealthInfo(node_id, status, datetime.fromtimestamp(time.time(), UTC), message, error)
