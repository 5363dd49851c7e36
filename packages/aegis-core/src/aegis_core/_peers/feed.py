"""One peer's feed as a session sees it, and what a session asks of the process around it. Pure."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from typing import Protocol, TypedDict

from aegis_discovery import Topology
from aegis_discovery.feed import FeedReader
from aegis_discovery.transport import Backoff

from aegis_core._membership.failure_detector import SUSPECT_AFTER
from aegis_core._peers.info import PeerInfo

REDIAL_AFTER = 10.0
"""Seconds of silence after which a feed is opened again; its node has failed long before that."""

MIN_PAUSE = 1.0
"""Least seconds before a peer is dialled again that left, or whose feeds break again and again."""

SHORT_FEEDS = 10
"""Feeds of a peer in a row, none longer than `MIN_PAUSE`, after which that pause begins.

A link that breaks a few times in a second is dialled at once: with the pause, its node would fail.
"""

FEED_RETRY = 60.0
"""Seconds after which such a peer is asked for a feed again: it may have been replaced."""


class FeedEnd(enum.Enum):
    """How a feed ended; the values are reasons for the log."""

    IN_ORDER = "it left"
    BROKEN = "its connection broke"
    LOST = "its process or the line is gone"
    SILENT = "it was silent for too long"
    DIVERGED = "it holds other records"
    UNIMPLEMENTED = "it has no feed"


GONE = (FeedEnd.LOST, FeedEnd.SILENT)
"""How the feed of a node ends that fails."""


class Feed:
    """The feed of one peer, open or to be opened again.

    Attributes:
        region: The region to which it is limited, that of a bridge's peer; None for a whole one.
        is_exchange: It is opened once only, until both sides know the same.
        problem: Why it does not work; empty while it does, and before the first try.
        is_open: Whether a stream is open, or a poll under way.
        dial_at: When to open it next.
        give_up_at: When to close an exchange that brings nothing more.
        heard_at: When its last message arrived; 0 before the first.
        polls_until: Until when to poll a peer that has no feed; 0 if it has one.
        times_short: How many streams in a row were shorter than `MIN_PAUSE`.
        stamp: The stamp of the peer's record when the feed ended.
    """

    __slots__ = (
        "_patience", "backoff", "dial_at", "give_up_at", "heard_at", "is_exchange", "is_open",
        "opened_at", "peer", "polls_until", "problem", "reader", "region", "stamp",
        "times_diverged", "times_short",
    )  # fmt: skip

    def __init__(
        self, peer: PeerInfo, reader: FeedReader, backoff: Backoff, *, region: str | None = None
    ) -> None:
        self.peer = peer
        self.reader = reader
        self.backoff = backoff
        self.region = region
        self.is_exchange = self.is_open = False
        self.problem = ""
        self.dial_at = self.give_up_at = math.inf
        self.opened_at = self.heard_at = self.polls_until = self._patience = 0.0
        self.times_diverged = self.times_short = self.stamp = 0

    def begin_exchange(self, now: float, patience: float) -> None:
        """Makes it an exchange, which ends after so many seconds without news."""
        self.is_exchange, self._patience, self.give_up_at = True, patience, now + patience

    def is_exchanging(self, peer: PeerInfo, region: str | None) -> bool:
        """Whether it is an exchange with this peer, about the same, that brings messages."""
        return self.is_exchange and self.heard_at > 0 and (peer, region) == (self.peer, self.region)

    def news_received(self, news: int, now: float) -> None:
        """Lets an exchange go on that brought nodes which it had not brought before.

        A peer can state only so many, so a liar cannot hold it open for long.
        """
        if self.is_exchange and news:
            self.give_up_at = now + self._patience

    @property
    def silent_at(self) -> float:
        """When to close its stream, unless a message arrives."""
        if not self.is_open or self.polls_until:
            return math.inf
        # A bridge asks another node of that region early: no observer watches over the line.
        is_short = self.is_exchange or self.region is not None
        silence = SUSPECT_AFTER if is_short else REDIAL_AFTER
        return max(self.opened_at, self.heard_at) + silence

    def ended(self, end: FeedEnd, now: float, why: str) -> None:
        """Decides when to open it again: at once, or after a pause because of a problem."""
        self.is_open = False
        self.polls_until = now + FEED_RETRY if end is FeedEnd.UNIMPLEMENTED else 0.0
        self.times_diverged += end is FeedEnd.DIVERGED
        if end is FeedEnd.UNIMPLEMENTED or (end is FeedEnd.DIVERGED and self.times_diverged == 1):
            # A clock that was wrong for a while makes two nodes diverge once.
            self.dial_at = now
            return
        if end is FeedEnd.DIVERGED:
            why = f"it diverges from this node again and again ({why})"
        # A message resets the backoff, so a peer that sends one and breaks off needs a limit.
        is_short = self.heard_at > self.opened_at and now - self.opened_at < MIN_PAUSE
        self.times_short = self.times_short + 1 if is_short else 0
        pause = 0.0
        if end in (FeedEnd.IN_ORDER, FeedEnd.DIVERGED) or self.times_short > SHORT_FEEDS:
            pause = MIN_PAUSE
        self.dial_at = now + max(self.backoff.next(), pause)
        self.problem = why


class WatchedFeeds(TypedDict):
    """What `FeedStats` tells of the feeds that a node reads."""

    watched: int
    lag: float
    across: int
    unreachable: tuple[str, ...]


def count_watched(
    feeds: Iterable[Feed], topology: Topology, unreachable: Iterable[str], now: float
) -> WatchedFeeds:
    """Counts the feeds that work, and those of them from other regions."""
    working = [feed for feed in feeds if feed.heard_at and not feed.problem]
    own = topology.get_node(topology.owner or "")
    nodes = [topology.get_node(feed.peer.id) for feed in working]
    return WatchedFeeds(
        watched=len(working),
        lag=max((now - feed.heard_at for feed in working), default=0.0),
        across=sum(bool(own and node and node.region != own.region) for node in nodes),
        unreachable=tuple(sorted(unreachable)),
    )


class SessionShell(Protocol):
    """What a session asks of the process around it."""

    def wake(self) -> None:
        """Calls `tick` soon."""

    def open(self, feed: Feed) -> None:
        """Opens a stream; reports to `Session.message_received` and `feed_ended`."""

    def poll(self, feed: Feed) -> None:
        """Polls a peer that has no feed; reports to `Session.poll_answered` or `feed_ended`."""

    def close(self, feed: Feed) -> None:
        """Ends the stream or the poll, and reports nothing more of it."""

    def release(self, peer_id: str) -> None:
        """Closes the connection for calls to a peer that is not watched any more."""

    def give_way(self, address: str) -> None:
        """Stops the node: another process, at this address, runs under its id."""
