"""Drains a server: the calls of the user's services end before it closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aegis_core._server.admission import AdmissionControl

_log = logging.getLogger("aegis.server")

MAX_SILENCE_WAIT = 2.0
"""Seconds that a drain waits for silence, all in all: some callers never learn of it."""

CANCEL_GRACE = 1.0
"""Seconds that handlers have to end after they were cancelled."""

IDLE_POLL_INTERVAL = 0.01
"""Seconds between two checks whether calls still run."""


async def drain(
    admission: AdmissionControl[Any],
    end_calls: Callable[[float], Awaitable[None]],
    grace: float,
    *,
    silence: float,
) -> None:
    """Serves until callers know that this node leaves, then until the last call is done.

    gRPC cancels calls that reach a server while it closes, and callers cannot tell this from a
    cancellation of their own. So no call may be pending when it closes. `silence` seconds without
    a new call show that callers know; later calls are told to use another provider. Calls in
    flight have `grace` seconds to end. `end_calls` ends the others, within the seconds that it is
    given.
    """
    silence = min(silence, grace)
    left = await _await_silence(admission, min(MAX_SILENCE_WAIT, grace), silence)
    admission.close()
    try:
        async with asyncio.timeout(grace):
            while not admission.empty:  # noqa: ASYNC110 - any thread may end a call
                await asyncio.sleep(IDLE_POLL_INTERVAL)
    except TimeoutError:
        running = len(admission.running)
        _log.warning("%d calls did not end within %g s; they are ended", running, grace)
        await end_calls(CANCEL_GRACE)
    if admission.arrived_after_close:
        await _await_silence(admission, left, silence)


async def _await_silence(admission: AdmissionControl[Any], within: float, silence: float) -> float:
    """Waits until no call arrives for a while; returns the seconds that are left."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while loop.time() < deadline:
        before = admission.arrived
        await asyncio.sleep(silence)
        if admission.arrived == before:
            break
    return deadline - loop.time()
