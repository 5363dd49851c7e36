"""When the excluded endpoints of a service are to be probed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from heapq import heapify, heappop, heappush
from typing import Generic, TypeAlias

from aegis_discovery._calls.endpoint import ChannelT, Endpoint

Find: TypeAlias = Callable[[str], Endpoint[ChannelT] | None]


class Probes(Generic[ChannelT]):
    """The next probes of a service, soonest first. Its owner has a lock.

    An entry is overtaken when its endpoint is probed, returns to use or leaves; it is dropped when
    its time comes, or when there are many such entries. `find` returns the endpoint of a node.
    """

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self, endpoint: Endpoint[ChannelT], all_excluded: Collection[Endpoint[ChannelT]]
    ) -> None:
        """Adds the next probe of an endpoint, if it is to have one."""
        if endpoint.probe_at == math.inf:
            return
        heappush(self._entries, (endpoint.probe_at, endpoint.node_id))
        if len(self._entries) > 2 * len(all_excluded) + 8:
            due = [(one.probe_at, one.node_id) for one in all_excluded]
            self._entries[:] = [entry for entry in due if entry[0] < math.inf]
            heapify(self._entries)

    def next(self, find: Find[ChannelT]) -> float:
        """Returns when the next probe is due; infinity for never."""
        while self._entries:
            at, node_id = self._entries[0]
            endpoint = find(node_id)
            if endpoint is not None and endpoint.probe_at == at:
                return at
            heappop(self._entries)
        return math.inf

    def take(self, now: float, at_most: int, find: Find[ChannelT]) -> list[Endpoint[ChannelT]]:
        """Returns endpoints whose probes are due, and removes these probes."""
        due: list[Endpoint[ChannelT]] = []
        while len(due) < at_most and self.next(find) <= now:
            endpoint = find(heappop(self._entries)[1])
            if endpoint is not None:
                due.append(endpoint)
        return due
