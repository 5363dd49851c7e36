"""Health checks: the checkers, and the node's health that their results add up to."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from aegis_discovery import HealthStatus

CheckResult = HealthStatus | bool | None
"""What a check function may return: None and True mean healthy, False unhealthy."""


@dataclass(frozen=True, slots=True)
class HealthInfo:
    """The health of one node.

    Attributes:
        node_id: The node.
        status: Healthy, unhealthy, or unknown while no check has run.
        last_checked: When the checks ran last (UTC).
        message: A summary for people.
        error: Why it is unhealthy; empty otherwise.
    """

    node_id: str
    status: HealthStatus
    last_checked: datetime
    message: str = ""
    error: str = ""


class HealthChecker(Protocol):
    """Checks whether a part of the node works."""

    name: str

    async def check(self) -> HealthStatus:
        """Returns the status. An exception means unhealthy, and its text is the reason."""


class FunctionHealthChecker:
    """A checker that calls a function, sync or async.

    A sync function runs on a thread, so it may block. The function returns a `HealthStatus` or a
    bool. Returning None means healthy, and raising an exception means unhealthy.
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
            RuntimeError: If its last run has not ended yet: runs that hang must not pile up.
        """
        if inspect.iscoroutinefunction(self._function):
            return as_status(await self._function())
        if self._run is not None and self._run.is_alive():
            raise RuntimeError("its last run has not ended")
        result: Future[CheckResult | Awaitable[CheckResult]] = Future()

        def run() -> None:
            # It may be cancelled before the thread runs, but not afterwards.
            if result.set_running_or_notify_cancel():
                try:
                    result.set_result(self._function())
                except Exception as error:  # noqa: BLE001 - an exception is a result
                    result.set_exception(error)

        # A daemon thread of its own: a check that hangs for ever blocks nothing else.
        self._run = threading.Thread(target=run, name=f"aegis-check-{self.name}", daemon=True)
        self._run.start()
        answer = await asyncio.wrap_future(result)
        return as_status(await answer if inspect.isawaitable(answer) else answer)


def as_status(result: object) -> HealthStatus:
    """Converts a check's return value: a status is kept, False is unhealthy, all else healthy."""
    if isinstance(result, HealthStatus):
        return result
    return HealthStatus.UNHEALTHY if result is False else HealthStatus.HEALTHY


class CheckOutcome(NamedTuple):
    """The result of one run of a checker."""

    name: str
    status: HealthStatus
    error: str = ""


def summarise(node_id: str, outcomes: Iterable[CheckOutcome]) -> HealthInfo:
    """Summarises outcomes: the worst one counts, and a node without checkers is healthy."""
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
