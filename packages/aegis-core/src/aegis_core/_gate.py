"""How many feeds one caller may have, and how fast it may open them. Pure: time comes in."""

from __future__ import annotations

from dataclasses import dataclass

MAX_FEEDS = 64
"""Feeds that one caller may hold open here.

An honest node has one or two; clients have one for each process, and may share an identity.
"""

OPENS_PER_SECOND = 20.0
"""Feeds that one caller may open a second, for ever; each costs a check of signatures."""

BURST = 64.0
"""Feeds that it may open at once: all processes of one identity start together."""

PRUNE_ABOVE = 1024
"""Callers remembered, above which those are forgotten of whom there is nothing to know."""


@dataclass(slots=True)
class _Account:
    """One caller's feeds, and what is left of its burst."""

    left: float
    seen_at: float
    feeds: int = 0

    def refill(self, now: float) -> None:
        self.left = min(BURST, self.left + (now - self.seen_at) * OPENS_PER_SECOND)
        self.seen_at = now


class FeedGate:
    """Counts the feeds of each caller and says whether one more may be opened."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._prune_above = PRUNE_ABOVE

    def __len__(self) -> int:
        return len(self._accounts)

    def enter(self, caller: str, now: float) -> str:
        """Counts one more feed, unless there are too many.

        Args:
            caller: The node id that the certificate proves.
            now: Monotonic seconds.

        Returns:
            Why it is refused, in a sentence; empty where it was let in, and must `leave` later.
        """
        account = self._accounts.get(caller)
        if account is None:
            self._prune(now)
            account = self._accounts[caller] = _Account(BURST, now)
        account.refill(now)
        if account.feeds >= MAX_FEEDS:
            return f"{caller} has {account.feeds} feeds open here, the limit is {MAX_FEEDS}"
        if account.left < 1:
            return f"{caller} opens more than {OPENS_PER_SECOND:.0f} feeds a second; wait a little"
        account.left -= 1
        account.feeds += 1
        return ""

    def leave(self, caller: str) -> None:
        """Counts a feed less."""
        self._accounts[caller].feeds -= 1

    def _prune(self, now: float) -> None:
        if len(self._accounts) < self._prune_above:
            return
        for caller, account in list(self._accounts.items()):
            account.refill(now)
            if not account.feeds and account.left >= BURST:
                del self._accounts[caller]
        # So that a mesh of many callers is not gone through at each of them.
        self._prune_above = max(PRUNE_ABOVE, 2 * len(self._accounts))
