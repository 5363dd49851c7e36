"""How long the first part of a feed, the whole topology, may take to arrive."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aegis_discovery._client.follow import FEED_TIMEOUT, FeedTimeoutError
from aegis_discovery.feed._reader import ReceiveResult

FIRST_PATIENCE = FEED_TIMEOUT
"""Seconds for the topology of an empty mesh, until all known peers were asked."""

MAX_PATIENCE = 60.0
"""The same at most: it doubles each time that all peers were asked."""

NEWS_RATE = 20
"""Nodes a second by which a larger topology may take longer.

A server that sends heartbeats or the same record again and again must not hold a client that does
not know the mesh yet. One member can invent some 300 ids, which is 15 seconds.
"""


@contextlib.asynccontextmanager
async def snapshot_limit(
    source: str, patience: float
) -> AsyncIterator[Callable[[ReceiveResult], None]]:
    """Limits the time of a feed until it has brought the whole topology.

    Yields a function that must be called with what each message brought.

    Raises:
        FeedTimeoutError: The topology did not arrive in time.
    """
    due = asyncio.get_running_loop().time() + patience
    try:
        async with asyncio.timeout_at(due) as limit:

            def received(result: ReceiveResult) -> None:
                nonlocal due
                if limit.when() is None:
                    return
                due += result.news / NEWS_RATE
                limit.reschedule(None if result.complete else due)

            yield received
    except TimeoutError:
        line = f"{source} did not send the whole topology in time"
        raise FeedTimeoutError(line) from None
