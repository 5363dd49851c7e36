"""Whose turn it is: balancers choose one of a service's endpoints for each call."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from random import random as _random
from typing import Protocol, TypeVar


class EndpointView(Protocol):
    """What a balancer sees of an endpoint: one provider at one address."""

    @property
    def node_id(self) -> str:
        """The provider."""

    @property
    def address(self) -> str:
        """Where it is called, as `host:port`."""

    @property
    def under_way(self) -> int:
        """Our own calls to it that have not ended."""


EndpointT = TypeVar("EndpointT", bound=EndpointView)


class Balancer(Protocol):
    """Chooses one of a service's endpoints for each call.

    Each service has its own: one for first attempts, and a few for where the search goes on.
    It need not know who is out of reach or ejected: the pool asks it again then, or asks it to
    choose among fewer.
    """

    def pick(self, endpoints: Sequence[EndpointT]) -> EndpointT:
        """Returns one of at least one endpoints, in constant time, from any thread."""


class RoundRobin:
    """Takes the endpoints in turn.

    Args:
        start: The first turn; random by default, else every short-lived client would begin
            with the same provider.
    """

    __slots__ = ("_turns",)

    def __init__(self, start: int | None = None) -> None:
        # next() on this counter is atomic, so threads need no lock.
        self._turns = itertools.count(random.getrandbits(16) if start is None else start)

    def pick(self, endpoints: Sequence[EndpointT]) -> EndpointT:
        """Returns the endpoint whose turn it is."""
        return endpoints[next(self._turns) % len(endpoints)]


class LeastRequests:
    """Takes the one with fewer calls under way, of two at random.

    Two choices come close to the least loaded of all, at a cost that does not grow with their
    number, and callers that know nothing of each other do not all run to the same one
    (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001).
    """

    __slots__ = ()

    def pick(self, endpoints: Sequence[EndpointT]) -> EndpointT:
        """Returns the less busy one of two different endpoints."""
        count = len(endpoints)
        first = int(_random() * count)
        one = endpoints[first]
        if count == 1:
            return one
        # One of the others, each as likely: the first one's own place stands for the last.
        second = int(_random() * (count - 1))
        other = endpoints[count - 1 if second == first else second]
        return other if other.under_way < one.under_way else one
