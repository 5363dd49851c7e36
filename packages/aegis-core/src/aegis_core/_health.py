"""Health: what a node says of itself, put together from its checkers."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

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

    async def check(self) -> HealthStatus:
        """Runs the function."""
        import asyncio

        if inspect.iscoroutinefunction(self._function):
            result = await self._function()
        else:
            result = await asyncio.to_thread(self._function)
            if inspect.isawaitable(result):
                result = await result
        if isinstance(result, HealthStatus):
            return result
        return HealthStatus.UNHEALTHY if result is False else HealthStatus.HEALTHY


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
