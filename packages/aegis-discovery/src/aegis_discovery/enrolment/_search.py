"""Decides which issuer is asked next, and when. Pure: time and randomness are arguments."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aegis_certs import IssuerAddress

from aegis_discovery.transport._backoff import Backoff

FIRST_TIMEOUT = 5.0
"""Seconds that an issuer has to answer while others are still to be asked; it doubles each round.

A CA signs in some 10 ms, and one that many nodes ask at once answers each of them in its turn.
"""

LONGEST_TIMEOUT = 30.0
"""Seconds after which a request is sent again at the latest."""

SHORTEST_TIMEOUT = 0.1
"""Seconds below which no issuer is asked again: its silence would hide why it failed before."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Ask this issuer now, for so many seconds."""

    issuer: IssuerAddress
    timeout: float


class IssuerSearch:
    """Asks issuers in turn until one answers, in an order that spreads the load over them.

    An issuer that refuses is not asked again: it has decided. Others may know more, such as the
    one that has recorded a token. Every other failure may pass.

    Args:
        issuers: Those that may be asked.
        now: Monotonic seconds.
        timeout: Seconds until the search ends.
        rounds: How often each issuer is asked at most; None for no limit.
        rng: Shuffles them, and adds jitter to the pauses.

    Attributes:
        causes: Why each issuer gave no certificate, by its id.
    """

    def __init__(
        self,
        issuers: Sequence[IssuerAddress],
        now: float,
        *,
        timeout: float,
        rounds: int | None = None,
        rng: random.Random | None = None,
    ) -> None:
        rng = rng or random.Random()
        self._issuers = list(dict.fromkeys(issuers))
        rng.shuffle(self._issuers)
        self._queue = list(self._issuers)
        self._deadline = now + timeout
        self._rounds = rounds
        self._round = 0
        self._backoff = Backoff(0.25, 5.0, uniform=rng.uniform)
        self._not_before = now
        self._causes: dict[str, str] = {}
        self._refused: set[str] = set()

    @property
    def causes(self) -> Mapping[str, str]:
        return self._causes

    @property
    def is_refused(self) -> bool:
        """Whether every issuer has refused, so that asking again is no use."""
        return bool(self._refused) and not self._issuers

    def next(self, now: float) -> Attempt | float | None:
        """Returns whom to ask now, or how many seconds to wait before; None at the end."""
        left = self._deadline - now
        if not self._issuers or left <= (SHORTEST_TIMEOUT if self._causes else 0.0):
            return None
        if not self._queue:
            self._round += 1
            if self._round == self._rounds:
                return None
            self._queue = list(self._issuers)
            self._not_before = now + self._backoff.next()
        if now < self._not_before:
            return min(self._not_before, self._deadline) - now
        alone = len(self._issuers) == 1
        timeout = LONGEST_TIMEOUT if alone else FIRST_TIMEOUT * 2.0 ** min(self._round, 5)
        return Attempt(self._queue.pop(0), min(timeout, LONGEST_TIMEOUT, left))

    def failed(self, issuer: IssuerAddress, reason: str) -> None:
        """Notes that an issuer gave no certificate, for a reason that may pass."""
        self._causes[f"{issuer.node_id}@{issuer.address}"] = reason

    def refused(self, issuer: IssuerAddress, reason: str) -> None:
        """Notes that an issuer has refused."""
        self.failed(issuer, reason)
        self._refused.add(issuer.node_id)
        self._issuers = [i for i in self._issuers if i.node_id != issuer.node_id]
        self._queue = [i for i in self._queue if i.node_id != issuer.node_id]
