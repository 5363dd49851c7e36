"""Names the times in the log when the event loop stood still."""

from __future__ import annotations

import asyncio
import logging
import time

from aegis_discovery.logs import LogLimiter

_log = logging.getLogger("aegis.node")

CHECK_EVERY = 0.25
"""Seconds between two checks; a stall may be this much longer than the log says."""

MIN_STALL = 1.0
"""Seconds that a stall must last to be named: the time between two heartbeats of a feed."""


async def name_stalls(node_id: str) -> None:
    """Logs stalls of this event loop after their end, once a minute; runs until cancelled.

    Other nodes suspect a node that sends no heartbeats, and nothing else in its own log shows why.
    """
    limiter = LogLimiter(_log)
    while True:
        due = time.monotonic() + CHECK_EVERY
        await asyncio.sleep(CHECK_EVERY)
        stall = time.monotonic() - due
        if stall >= MIN_STALL:
            limiter.warn(
                node_id,
                "stall",
                "the event loop of %s stood still for %.1f s, so others may have suspected it; "
                "handlers must not block it: give blocking work to asyncio.to_thread, or make the "
                "handler a plain function",
                node_id,
                stall,
            )
