"""Brings the feed of a client to a node of the client's own region, and back there later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aegis_discovery._model import NodeStatus
from aegis_discovery._runtime.addresses import SeedPeer
from aegis_discovery._runtime.loop_timers import sleep
from aegis_discovery._topology.topology import Topology
from aegis_discovery.transport._backoff import Backoff

LOOK_EVERY = 5.0
"""Seconds after which a client that is served from elsewhere looks for a node of its region."""

MAX_BACKOFF = 60.0
"""The same at most, where the nodes of the region do not answer, or their feeds do not last."""


_WORTH_A_TRY = (NodeStatus.ALIVE, NodeStatus.UNREACHABLE)
"""A region that is unreachable for the node that serves this client may be reachable from here."""


class HomeSearch:
    """Looks for a node of the client's region, while another one serves its feed.

    Args:
        region: The region of the client.
        topology: The topology of the client.
    """

    def __init__(self, region: str, topology: Topology) -> None:
        self._region = region
        self._topology = topology
        self._backoff = Backoff(LOOK_EVERY, MAX_BACKOFF)
        self._has_moved = False

    def is_home(self, node_id: str) -> bool:
        """Returns whether a node is one of the region."""
        node = self._topology.get_node(node_id)
        return node is not None and node.region == self._region

    def feed_lasted(self, node_id: str) -> None:
        """Records a feed that lasted: if it was at home, the next way home is short again."""
        if self.is_home(node_id):
            self._backoff.reset()

    async def find(
        self, source: str, answers: Callable[[SeedPeer], Awaitable[bool]]
    ) -> SeedPeer | None:
        """Returns a node of the region once one answers; None if the feed is served from there.

        Args:
            source: The node that serves the feed; the topology is known.
            answers: Finds out whether a node can be reached.
        """
        if self._has_moved:  # the first way is the start of the client, with nothing to wait for
            await sleep(self._backoff.next())
        while not self.is_home(source):
            near = [
                node
                for node in self._topology.nodes.values()
                if node.region == self._region
                and node.status in _WORTH_A_TRY
                and node.vouched_by is None
            ]
            delay = LOOK_EVERY * random.uniform(0.5, 1.0)
            if near:
                node = random.choice(near)
                peer = SeedPeer(node.address, node.id)
                if await answers(peer):
                    self._has_moved = True
                    return peer
                delay = self._backoff.next()
            await sleep(delay)
        return None


async def follow_until_found(
    feed: Coroutine[Any, Any, None], search: Coroutine[Any, Any, SeedPeer | None]
) -> SeedPeer | None:
    """Follows a feed until it ends, or until the search found where to go on; returns that."""
    following, searching = asyncio.create_task(feed), asyncio.create_task(search)
    tasks: list[asyncio.Task[Any]] = [following, searching]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not following.done() and searching.result() is not None:
            return searching.result()
        await following
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
