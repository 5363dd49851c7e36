"""Runs a node's health checkers on an interval."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from aegis_discovery import HealthStatus
from aegis_discovery.background import sleep_until_tick

from aegis_core._health.checks import CheckOutcome, HealthChecker, HealthInfo, as_status, summarise

_log = logging.getLogger("aegis.health")

CHECK_INTERVAL = 10.0
"""Seconds between two runs of the checkers."""

CHECK_TIMEOUT = 5.0
"""Seconds after which a checker that has not returned counts as failed."""


class HealthMonitor:
    """Monitors the health of its own node.

    Args:
        node_id: The node.
        checkers: The checkers, which run together; the worst result is the node's health.
        on_change: Called whenever the status changed.
        interval: Seconds between two runs.
    """

    def __init__(
        self,
        node_id: str,
        checkers: Sequence[HealthChecker],
        *,
        on_change: Callable[[HealthInfo], None],
        interval: float = CHECK_INTERVAL,
    ) -> None:
        self._node_id = node_id
        self._checkers = tuple(checkers)
        self._on_change = on_change
        self._interval = interval
        self._outcomes = [
            CheckOutcome(checker.name, HealthStatus.UNKNOWN) for checker in self._checkers
        ]
        self._problems: dict[str, CheckOutcome] = {}
        self._info = summarise(node_id, self._outcomes)

    @property
    def info(self) -> HealthInfo:
        """The result of the last run, and of what the node itself reports."""
        return self._info

    async def run(self) -> None:
        """Runs all checkers on the interval, until cancelled."""
        while True:
            await sleep_until_tick(self._interval)
            await self.check()

    async def check(self) -> HealthInfo:
        """Runs all checkers once."""
        self._outcomes = await asyncio.gather(*map(self._outcome, self._checkers))
        return self._summarise()

    def report(self, name: str, error: str | None) -> HealthInfo:
        """Counts a part of the node as failed until it is reported again without an error."""
        self._problems.pop(name, None)
        if error is not None:
            self._problems[name] = CheckOutcome(name, HealthStatus.UNHEALTHY, error)
        return self._summarise()

    def _summarise(self) -> HealthInfo:
        outcomes = (*self._outcomes, *self._problems.values())
        before, self._info = self._info, summarise(self._node_id, outcomes)
        if before.status is not self._info.status:
            self._on_change(self._info)
        return self._info

    async def _outcome(self, checker: HealthChecker) -> CheckOutcome:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                return CheckOutcome(checker.name, as_status(await checker.check()))
        except TimeoutError:
            error = f"no answer within {CHECK_TIMEOUT:g} s"
        except Exception as failure:  # noqa: BLE001 - an exception of the user's check is its result
            error = str(failure) or type(failure).__name__
        _log.warning("health check %s failed: %s", checker.name, error)
        return CheckOutcome(checker.name, HealthStatus.UNHEALTHY, error)
