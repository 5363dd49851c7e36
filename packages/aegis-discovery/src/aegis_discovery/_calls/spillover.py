"""How much of a service's load each tier of its providers takes: Envoy's rule; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic

from aegis_discovery._calls.endpoint import ChannelT, Endpoint

OVERPROVISIONING = 1.4
"""A tier takes all load until less than 1 / 1.4 = 71 % of it is healthy, as in Envoy."""


class Part(Generic[ChannelT]):
    """One tier's part of the load.

    Attributes:
        until: The sum of the shares of this tier and those before it; 1 for the last one.
        tier: The number of the tier.
        endpoints: Its endpoints; never empty.
    """

    __slots__ = ("endpoints", "tier", "until")

    def __init__(self, until: float, tier: int, endpoints: Sequence[Endpoint[ChannelT]]) -> None:
        self.until = until
        self.tier = tier
        self.endpoints = endpoints


def shares_of(tiers: Iterable[tuple[int, int]]) -> tuple[float, ...]:
    """Returns each tier's share of the load; together 1, or 0 where nothing is healthy.

    A tier takes `min(1, 1.4 * healthy / all)` of the load, and what is left spills to the next.
    Where all of them together take less than everything, the shares are divided by their sum: the
    healthy endpoints then carry the load of the others, in proportion to their tiers' shares.

    Args:
        tiers: The healthy endpoints and all endpoints of each tier, nearest first.

    See Also:
        Envoy: Priority levels, https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/
        upstream/load_balancing/priority
    """
    able = [
        min(1.0, OVERPROVISIONING * healthy / total) if healthy else 0.0 for healthy, total in tiers
    ]
    together = min(1.0, sum(able))
    left, shares = 1.0, []
    for part in able:
        share = min(left, part / together) if part else 0.0
        left -= share
        shares.append(share)
    return tuple(shares)


def parts_of(
    tiers: Sequence[Sequence[Endpoint[ChannelT]]], figures: Iterable[tuple[int, int]]
) -> tuple[Part[ChannelT], ...]:
    """Returns the parts of the tiers that have a share.

    Args:
        tiers: The endpoints of each tier, nearest first.
        figures: Of each tier, the healthy endpoints and all of them.
    """
    parts, until = [], 0.0
    for tier, share in enumerate(shares_of(figures)):
        if share:
            until += share
            parts.append(Part(until, tier, tiers[tier]))
    return tuple(parts)
