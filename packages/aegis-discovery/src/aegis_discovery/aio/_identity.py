"""Runs an identity keeper beside an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aegis_discovery._identity import LOOK, IdentityEvent, IdentityKeeper


async def keep(keeper: IdentityKeeper, on_event: Callable[[IdentityEvent], None]) -> None:
    """Steps the keeper for ever, on a thread, and passes its events on in the loop."""
    while True:
        for event in await asyncio.to_thread(keeper.step):
            on_event(event)
        await asyncio.sleep(LOOK)
