"""Statistics of edges: frozen values, and their JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aegis_discovery._runtime.call_outcomes import LATENCY_BOUNDS


@dataclass(frozen=True, slots=True)
class LatencyStats:
    """A histogram of the seconds that calls took.

    Attributes:
        count: Calls that ended.
        sum: The seconds of all of them.
        buckets: How many calls took at most as long as each of `LATENCY_BOUNDS`, and longer than
            the bound before it. One more at the end has those above the last bound.
    """

    count: int
    sum: float
    buckets: tuple[int, ...]

    def quantile(self, share: float) -> float | None:
        """Returns the seconds within which a share of the calls ended, by linear interpolation.

        Args:
            share: Such as 0.99.

        Returns:
            None without calls; the last bound where the quantile is above it.
        """
        rank, before, low = share * self.count, 0, 0.0
        if not self.count:
            return None
        for bound, count in zip(LATENCY_BOUNDS, self.buckets, strict=False):
            if count and before + count >= rank:
                return low + (bound - low) * (rank - before) / count
            before += count
            low = bound
        return LATENCY_BOUNDS[-1]


@dataclass(frozen=True, slots=True)
class EdgeStats:
    """The calls of one method from one caller to one provider, since the process counts them.

    Each end counts its own: the client's side counts attempts, so a retried call counts at each
    provider that it was sent to.

    Attributes:
        side: The end that counted: `client` or `server`.
        caller: The identity that calls.
        service: The service, such as `orders/v1`. The server's side knows it only if the node
            provides exactly one; otherwise it is empty.
        method: The full method, such as `orders.v1.Orders/Get`.
        provider: The id of the node that is called; empty for calls that found no provider.
        started: Calls that began.
        codes: How many ended with each status; only those that occurred.
        seconds: How long they took.
    """

    side: str
    caller: str
    service: str
    method: str
    provider: str
    started: int
    codes: Mapping[str, int]
    seconds: LatencyStats


def edge_to_json(edge: EdgeStats) -> dict[str, Any]:
    """Returns an edge as JSON; its list of buckets ends with the last one that counted a call."""
    buckets = list(edge.seconds.buckets)
    while buckets and not buckets[-1]:
        buckets.pop()
    return {
        "side": edge.side,
        "caller": edge.caller,
        "service": edge.service,
        "method": edge.method,
        "provider": edge.provider,
        "started": edge.started,
        "codes": dict(edge.codes),
        "seconds": {
            "count": edge.seconds.count,
            "sum": round(edge.seconds.sum, 6),
            "buckets": buckets,
        },
    }


def busiest_edges(edges: Iterable[EdgeStats], max_bytes: int) -> tuple[list[dict[str, Any]], int]:
    """Returns the edges with the most calls as JSON, and how many are left out.

    Args:
        edges: The edges.
        max_bytes: The largest size of the JSON.
    """
    ordered = sorted(edges, key=lambda edge: edge.started, reverse=True)
    found: list[dict[str, Any]] = []
    size = 0
    for edge in ordered:
        as_json = edge_to_json(edge)
        size += len(json.dumps(as_json)) + 2
        if size > max_bytes:
            break
        found.append(as_json)
    return found, len(ordered) - len(found)
