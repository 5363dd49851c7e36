"""Sleep for periodic work of an event loop."""

from __future__ import annotations

import asyncio
import time

from aegis_discovery._runtime.ticks import PROCESS_TICKS


async def sleep_until_tick(seconds: float) -> None:
    """Sleeps for about so many seconds: until a tick, when other work of the process is due too."""
    now = time.monotonic()
    await asyncio.sleep(PROCESS_TICKS.after(now, seconds) - now)
