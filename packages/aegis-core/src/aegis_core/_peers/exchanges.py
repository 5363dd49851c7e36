"""Whom a node asks, once, for what its feeds do not bring. Pure."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import NamedTuple

from aegis_discovery.feed import ReceiveResult

from aegis_core._membership.membership import Membership
from aegis_core._peers.directory import PeerDirectory
from aegis_core._peers.feed import Feed
from aegis_core._peers.info import PeerInfo

EXCHANGE_TIMEOUT = 5.0
"""Seconds for an exchange with one node."""

REGION_TIMEOUT = 30.0
"""Seconds for an exchange that may bring whole regions over a long line; also the least seconds
between two for the same reason, since a liar could give that reason again and again."""


class Exchange(NamedTuple):
    """An exchange to begin.

    Attributes:
        peer: Whom to ask.
        timeout: Seconds.
        region: The region to which it is limited; None for everything.
    """

    peer: PeerInfo
    timeout: float
    region: str | None


class ExchangePlan:
    """Decides when to look for failed nodes, and when to ask another region for more.

    A feed between regions carries its server's region only. So two regions that join through a
    third one at the same moment may never learn of each other by a feed; the third one knows both.
    """

    def __init__(self, membership: Membership, peers: PeerDirectory, rng: random.Random) -> None:
        self._membership = membership
        self._peers = peers
        self._rng = rng
        self._asked_at: dict[tuple[str, str | None], float] = {}

    def recover(self, watched: Collection[str]) -> Exchange | None:
        """Returns an exchange with one failed node, so that partitions heal."""
        failed = sorted(self._membership.missing.difference(watched))
        peer = self._peers.get(self._rng.choice(failed)) if failed else None
        return None if peer is None else Exchange(peer, EXCHANGE_TIMEOUT, None)

    def received(self, feed: Feed, result: ReceiveResult, now: float) -> Exchange | None:
        """Returns the exchange that a message of a node of another region calls for."""
        if feed.region is None or feed.is_exchange:
            return None
        if result.lacks_regions:
            found = Exchange(feed.peer, REGION_TIMEOUT, None)
        elif result.lacks_home:
            found = Exchange(feed.peer, EXCHANGE_TIMEOUT, self._membership.own_region)
        else:
            return None
        asked = {key: at for key, at in self._asked_at.items() if now - at < REGION_TIMEOUT}
        self._asked_at = asked
        reason = feed.region, found.region
        if reason in asked:
            return None
        asked[reason] = now
        return found
