"""One peer's feed as a session sees it, and what a session asks of the process around it. Pure."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Protocol

from aegis_discovery.feed import FeedReader
from aegis_discovery.transport import Backoff

from aegis_core._membership.failure_detector import SUSPECT_AFTER
from aegis_core._peers.info import PeerInfo

REDIAL_AFTER = 10.0
"""Seconds of silence after which a feed is opened anew; its node has failed long before that."""


class FeedEnd(enum.Enum):
    """How a feed ended; the values are reasons for the log."""

    IN_ORDER = "it left"
    BROKEN = "its connection broke"
    SILENT = "it was silent for too long"
    DIVERGED = "it knows other things"
    UNIMPLEMENTED = "it has no feed"


@dataclass(slots=True, eq=False)
class Feed:
    """The feed of one peer, open or to be opened again.

    Attributes:
        peer: The node that serves it.
        reader: Takes in its messages.
        is_exchange: It is opened once only, until both sides know the same.
        problem: Why it does not work; empty while it does, and before the first try.
        is_open: Whether a stream is open, or a poll under way.
        dial_at: When to open it next.
        give_up_at: When to close an exchange.
        opened_at: When it was opened last.
        heard_at: When its last message arrived; 0 before the first.
    """

    peer: PeerInfo
    reader: FeedReader
    backoff: Backoff
    is_exchange: bool = False
    problem: str = ""
    is_open: bool = False
    dial_at: float = math.inf
    give_up_at: float = math.inf
    opened_at: float = 0.0
    heard_at: float = 0.0
    polls_until: float = 0.0
    times_diverged: int = 0
    times_short: int = 0
    stamp: int = 0

    @property
    def silent_after(self) -> float:
        """Seconds without a message after which its stream has to be given up."""
        return SUSPECT_AFTER if self.is_exchange else REDIAL_AFTER


class SessionShell(Protocol):
    """What a session asks of the process around it."""

    def wake(self) -> None:
        """Calls `tick` soon."""

    def open(self, feed: Feed) -> None:
        """Opens a stream; what it brings goes to `Session.received`, its end to `ended`."""

    def poll(self, feed: Feed) -> None:
        """Asks a peer without a feed for its topology; ends in `Session.polled` or `ended`."""

    def close(self, feed: Feed) -> None:
        """Ends the stream or the poll, of which nothing more may be reported."""

    def release(self, peer_id: str) -> None:
        """Drops the connections to a peer that is not watched any more."""

    def joined(self) -> None:
        """Learns that a peer sent all that it knows."""

    def give_way(self, address: str) -> None:
        """Stops the node: another process, at this address, runs under its id."""
