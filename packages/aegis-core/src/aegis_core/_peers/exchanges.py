"""Whom a node asks, once, for what its feeds do not bring. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from aegis_discovery.feed import ReceiveResult

from aegis_core._membership.membership import Membership
from aegis_core._peers.directory import PeerDirectory
from aegis_core._peers.feed import Feed
from aegis_core._peers.info import PeerInfo

EXCHANGE_TIMEOUT = 5.0
"""Seconds without news after which an exchange with one node ends."""

REGION_TIMEOUT = 30.0
"""The same for an exchange that may bring whole regions over a long line; also the least seconds
between two for the same reason, since a liar could give that reason again and again."""

MAX_PAUSE = 16 * REGION_TIMEOUT
"""The most seconds between two exchanges while regions are silent; the first pause is an 8th."""


class Exchange(NamedTuple):
    """An exchange to begin.

    Attributes:
        peer: Whom to ask.
        timeout: Seconds without news after which it ends.
        region: The region to which it is limited; None for everything.
    """

    peer: PeerInfo
    timeout: float
    region: str | None


class ExchangePlan:
    """Decides when to look for failed nodes, and when to ask another region for more.

    A feed between regions carries its server's region only. So two regions that join through a
    third one at the same moment may never learn of each other by a feed, nor of each other's new
    nodes if all were replaced while they were cut off. The third one knows both.
    """

    def __init__(self, membership: Membership, peers: PeerDirectory, rng: random.Random) -> None:
        self._membership = membership
        self._peers = peers
        self._rng = rng
        self._asked_at: dict[tuple[str, str | None], float] = {}
        self._silent: frozenset[str] = frozenset()
        self._silence_asked_at = -math.inf
        self._pause = REGION_TIMEOUT

    def recover(self, feeds: Mapping[str, Feed], now: float) -> Iterator[Exchange]:
        """Yields an exchange with one failed node, and one about silent regions.

        Args:
            feeds: The feeds that are held open.
            now: Monotonic seconds.
        """
        failed = sorted(self._membership.missing.difference(feeds))
        peer = self._peers.get(self._rng.choice(failed)) if failed else None
        if peer is not None:
            yield Exchange(peer, EXCHANGE_TIMEOUT, None)
        peer = self._about_silence(feeds, now)
        if peer is not None:
            yield Exchange(peer, REGION_TIMEOUT, None)

    def _about_silence(self, feeds: Mapping[str, Feed], now: float) -> PeerInfo | None:
        """Returns a node of a region that is heard, if it is time to ask about those that are not.

        A region may have other nodes by now than those that are tried in vain.
        """
        before, self._silent = self._silent, frozenset(self._membership.bridge.silent(now))
        if not self._silent <= before:
            self._pause = REGION_TIMEOUT
        if not self._silent or now - self._silence_asked_at < self._pause:
            return None
        heard = [
            feed.peer
            for feed in feeds.values()
            if feed.region not in (None, *self._silent) and feed.is_open and feed.heard_at
        ]
        if not heard:
            return None
        self._silence_asked_at, self._pause = now, min(2 * self._pause, MAX_PAUSE)
        return self._rng.choice(heard)

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
