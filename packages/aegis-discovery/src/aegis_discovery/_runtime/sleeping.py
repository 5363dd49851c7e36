"""Sleep for periodic work of an event loop."""

from __future__ import annotations

import time

from aegis_discovery._runtime.loop_timers import sleep
from aegis_discovery._runtime.ticks import PROCESS_TICKS


async def sleep_until_tick(seconds: float) -> None:
    """Sleeps for about so many seconds: until a tick, when other work of the process is due too."""
    now = time.monotonic()
    await sleep(PROCESS_TICKS.after(now, seconds) - now)
