"""Brings the calls of the user's services to their end before a server closes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypeAlias

from aegis_core._server.admission import AdmissionControl
from aegis_core._server.interceptor import CallerInterceptor

_log = logging.getLogger("aegis.server")

MOST = 2.0
"""Seconds at most that callers have to hear that this node leaves; some never do."""

LAST_WORDS = 1.0
"""Seconds that handlers have to end once they are told to."""

LOOK = 0.01
"""Seconds between two looks whether calls are still there."""

Calls: TypeAlias = AdmissionControl[asyncio.Task[Any]]


async def drain(guard: CallerInterceptor, intake: Calls, grace: float, *, silence: float) -> None:
    """Serves until callers have heard that this node leaves, then until the last call is done.

    gRPC cancels what reaches a server while that closes, and callers cannot tell this from a
    cancellation of their own. So nothing may be on its way by then. That callers have heard is
    seen by their silence; whoever calls later is told to go elsewhere.

    Args:
        guard: Stands before the handlers.
        intake: Counts their calls.
        grace: Seconds that calls in flight have.
        silence: Seconds without a new call after which all have heard.
    """
    await _await_silence(intake, min(silence, grace), most=min(MOST, grace))
    intake.close()
    try:
        async with asyncio.timeout(grace):
            while not intake.empty:  # noqa: ASYNC110 - asked only here, told by any thread
                await asyncio.sleep(LOOK)
    except TimeoutError:
        running = len(intake.running)
        _log.warning("%d calls did not end within %g s; they are ended", running, grace)
        await guard.end_calls("this node has stopped; try another provider", LAST_WORDS)
    if intake.late:
        await _await_silence(intake, min(silence, grace), most=min(MOST, grace))


async def _await_silence(intake: Calls, silence: float, *, most: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + most
    while loop.time() < deadline:
        before = intake.arrived
        await asyncio.sleep(silence)
        if intake.arrived == before:
            return
