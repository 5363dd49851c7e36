"""Runs the parts of a node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

_log = logging.getLogger("aegis.node")


async def supervise(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs a part until cancelled: a part that fails is logged and started again."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - the node must survive any failure of a part
            _log.exception("%s failed; it is started again", name)
        await asyncio.sleep(1.0)
