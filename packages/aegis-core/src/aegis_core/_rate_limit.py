"""How much one caller may ask for at once, and how fast. Pure: time comes in."""

from __future__ import annotations

from dataclasses import dataclass, field

PRUNE_ABOVE = 1024
"""Callers remembered, above which those are forgotten of whom there is nothing to know."""


@dataclass(slots=True)
class TokenBucket:
    """Lets through so many at once, and so many a second from then on.

    Args:
        burst: How many at once.
        per_second: How many a second, for ever.
        now: Seconds, of the same clock always.
    """

    burst: float
    per_second: float
    now: float
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.burst

    def wait(self, now: float) -> float:
        """Returns the seconds until one more is let through; 0 where it is now."""
        self.left = min(self.burst, self.left + max(0.0, now - self.now) * self.per_second)
        self.now = now
        return max(0.0, 1 - self.left) / self.per_second

    def take(self, now: float) -> bool:
        """Takes one, unless none is left."""
        # A timer may end a moment too early.
        if self.wait(now) > 1e-6:
            return False
        self.left -= 1
        return True


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may do here.

    Attributes:
        what: What is counted, in the plural.
        open: How many it may hold open.
        per_second: How many it may open a second, for ever.
        burst: How many it may open at once.
    """

    what: str
    open: int
    per_second: float
    burst: float


FEEDS = Limits("feeds", open=64, per_second=20.0, burst=64.0)
"""An honest node has one or two feeds; clients have one for each process, and may share an
identity, and then all start together. Each one opened costs a check of signatures.
"""

READS = Limits("reads of the topology", open=16, per_second=5.0, burst=64.0)
"""A peer without a feed reads the whole topology every few seconds; each time, all is written out
for it.
"""


@dataclass(slots=True)
class _Account:
    """What one caller has open, and what is left of its burst."""

    allowance: TokenBucket
    open: int = 0


class RateLimiter:
    """Counts what each caller has open and says whether it may open one more."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._accounts: dict[str, _Account] = {}
        self._prune_above = PRUNE_ABOVE

    def __len__(self) -> int:
        return len(self._accounts)

    def enter(self, caller: str, now: float) -> str:
        """Counts one more, unless there are too many.

        Args:
            caller: The node id that the certificate proves.
            now: Monotonic seconds.

        Returns:
            Why it is refused, in a sentence; empty where it was let in, and must `leave` later.
        """
        limits, account = self._limits, self._accounts.get(caller)
        if account is None:
            self._prune(now)
            allowance = TokenBucket(limits.burst, limits.per_second, now)
            account = self._accounts[caller] = _Account(allowance)
        if account.open >= limits.open:
            return (
                f"{caller} has {account.open} {limits.what} open here, the limit is {limits.open}"
            )
        if not account.allowance.take(now):
            rate = f"{limits.per_second:.0f} {limits.what} a second"
            return f"{caller} opens more than {rate}; wait a little"
        account.open += 1
        return ""

    def leave(self, caller: str) -> None:
        """Counts one less."""
        self._accounts[caller].open -= 1

    def _prune(self, now: float) -> None:
        if len(self._accounts) < self._prune_above:
            return
        for caller, account in list(self._accounts.items()):
            account.allowance.wait(now)
            if not account.open and account.allowance.left >= self._limits.burst:
                del self._accounts[caller]
        # So that a mesh of many callers is not gone through at each of them.
        self._prune_above = max(PRUNE_ABOVE, 2 * len(self._accounts))
