"""Warns before a node runs out of file descriptors: it could then accept no connection."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from aegis_discovery.background import sleep_until_tick
from aegis_discovery.signals import LogLimiter

_log = logging.getLogger("aegis.node")

CHECK_EVERY = 5.0
"""Seconds between two checks: the time in which idle connections without TLS are closed."""

SHORT = 0.8
"""The share of the descriptors in use that is worth a warning."""


def shortage(used: int, limit: int) -> str | None:
    """Returns what to say about the descriptors of a process, or None if there are enough."""
    if used < limit * SHORT:
        return None
    return (
        f"{used} of {limit} file descriptors are in use, and without a free one no caller can "
        f"connect: raise the limit (`ulimit -n`, LimitNOFILE of systemd), or find out who holds "
        f"so many connections"
    )


def used_descriptors() -> tuple[int, int] | None:
    """Returns how many descriptors this process has open and may have, where that shows."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        return len(os.listdir("/dev/fd")), limit
    except OSError:  # no descriptor is left for this look, or there is no such directory
        return (limit, limit) if os.path.isdir("/dev/fd") else None


async def name_shortage(
    node_id: str, read: Callable[[], tuple[int, int] | None] = used_descriptors
) -> None:
    """Warns while descriptors are short, once a minute at most; runs until cancelled."""
    limiter = LogLimiter(_log)
    while (found := read()) is not None:
        if problem := shortage(*found):
            line = "%s is short of file descriptors: %s"
            limiter.warn(node_id, "descriptors", line, node_id, problem)
        await sleep_until_tick(CHECK_EVERY)
    await asyncio.Event().wait()
