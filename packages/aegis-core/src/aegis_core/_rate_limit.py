"""Limits how much one caller opens at the same time, and how fast. The time is an argument."""

from __future__ import annotations

from typing import NamedTuple

PRUNE_ABOVE = 1024
"""Number of callers above which idle callers with a full burst are forgotten."""


class TokenBucket:
    """A token bucket: a burst at once, then a steady rate.

    Args:
        burst: Tokens at the start, and at most.
        per_second: Tokens added each second.
        now: Seconds of any clock, the same one for all calls.
    """

    __slots__ = ("burst", "left", "now", "per_second")

    def __init__(self, burst: float, per_second: float, now: float) -> None:
        self.burst = self.left = burst
        self.per_second = per_second
        self.now = now

    def wait(self, now: float) -> float:
        """Returns the seconds until there is a token; 0 if there is one now."""
        self.left = min(self.burst, self.left + max(0.0, now - self.now) * self.per_second)
        self.now = now
        return max(0.0, 1 - self.left) / self.per_second

    def take(self, now: float) -> bool:
        """Takes a token; returns False if there is none."""
        # A timer may fire a moment too early.
        if self.wait(now) > 1e-6:
            return False
        self.left -= 1
        return True


class Limits(NamedTuple):
    """The limits of one caller.

    Attributes:
        what: The counted things, in the plural, for messages.
        open: How many it may hold open.
        per_second: How many it may open each second in the long run.
        burst: How many it may open at once.
    """

    what: str
    open: int
    per_second: float
    burst: float


FEEDS = Limits("feeds", open=64, per_second=20.0, burst=64.0)
"""An honest node has one or two feeds. Clients have one feed a process, may share an identity, and
may all start together. Each new feed costs a check of signatures.
"""

READS = Limits("reads of the topology", open=16, per_second=5.0, burst=64.0)
"""A peer without a feed reads the whole topology every few seconds, and each read serialises it."""

CERTIFICATES = Limits("requests for certificates", open=4, per_second=0.5, burst=16.0)
"""An honest process asks once, and again if the answer was lost. Each request costs the CA a
signature and some writes."""


class _Account:
    __slots__ = ("bucket", "open")

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self.open = 0


class RateLimiter:
    """Counts what each caller has open, and decides whether it may open one more."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._accounts: dict[str, _Account] = {}
        self._prune_above = PRUNE_ABOVE

    def __len__(self) -> int:
        return len(self._accounts)

    def enter(self, caller: str, now: float, *, workers: int = 1) -> str:
        """Counts one more, unless the caller, whose certificate proved this id, is above a limit.

        Returns why it is refused, as a sentence; empty if it was counted and must `leave` later.

        Args:
            caller: The identity.
            now: Seconds of the limiter's clock.
            workers: The processes that share this identity, and so have their limits together.
        """
        limits, account = self._limits, self._accounts.get(caller)
        if account is None:
            self._prune(now)
            bucket = TokenBucket(limits.burst * workers, limits.per_second * workers, now)
            account = self._accounts[caller] = _Account(bucket)
        if account.open >= limits.open * workers:
            held = f"{account.open} {limits.what} open here"
            return f"{caller} has {held}, the limit is {limits.open * workers}"
        if account.bucket.burst != limits.burst * workers:
            # The tokens stay: else workers that come and go would bring new ones each time.
            account.bucket.wait(now)
            account.bucket.burst = limits.burst * workers
            account.bucket.per_second = limits.per_second * workers
        if not account.bucket.take(now):
            rate = f"{limits.per_second * workers:g} {limits.what} a second"
            return f"{caller} opens more than {rate}; wait a little"
        account.open += 1
        return ""

    def leave(self, caller: str) -> None:
        self._accounts[caller].open -= 1

    def _prune(self, now: float) -> None:
        if len(self._accounts) < self._prune_above:
            return
        for caller, account in list(self._accounts.items()):
            account.bucket.wait(now)
            if not account.open and account.bucket.left >= account.bucket.burst:
                del self._accounts[caller]
        # Doubled, so that a mesh of many callers is not scanned at each new caller.
        self._prune_above = max(PRUNE_ABOVE, 2 * len(self._accounts))
