"""Names the times in the log when the event loop stood still."""

from __future__ import annotations

import asyncio
import logging
import time

from aegis_discovery.feed import PROCESS_TICKS
from aegis_discovery.logs import LogLimiter

_log = logging.getLogger("aegis.node")

CHECK_EVERY = 1.0
"""Seconds between two checks; a stall may be this much longer than the log says."""

MIN_STALL = 1.0
"""Seconds by which a check must be late.

A stall of two seconds, the shortest for which others can suspect this node, is always named.
"""


async def name_stalls(node_id: str) -> None:
    """Logs stalls of this event loop after their end, once a minute; runs until cancelled.

    Other nodes suspect a node that sends no heartbeats, and nothing else in its own log shows why.
    """
    limiter = LogLimiter(_log)
    while True:
        due = PROCESS_TICKS.after(time.monotonic(), CHECK_EVERY)
        await asyncio.sleep(due - time.monotonic())
        stall = time.monotonic() - due
        if stall >= MIN_STALL:
            limiter.warn(
                node_id,
                "stall",
                "the event loop of %s stood still for at least %.1f s, so others may have "
                "suspected it; handlers must not block it: give blocking work to "
                "asyncio.to_thread, or make the handler a plain function",
                node_id,
                stall,
            )
