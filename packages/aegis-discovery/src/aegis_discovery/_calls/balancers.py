"""Balancers: each call goes to the endpoint that the balancer of its service picks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from random import random as _random
from typing import Protocol, TypeVar


class EndpointView(Protocol):
    """One provider at one address, as a balancer sees it."""

    @property
    def node_id(self) -> str:
        """The id of the provider."""

    @property
    def address(self) -> str:
        """Its address, as `host:port`."""

    @property
    def under_way(self) -> int:
        """Our own calls to it that have not ended."""


EndpointT = TypeVar("EndpointT", bound=EndpointView)


class Balancer(Protocol):
    """Chooses one of a service's endpoints for each call.

    Each service has several of its own: one for nearly all first attempts, the others for those
    that go to a further zone or region, for retries and for the search of a usable endpoint. A
    balancer need not know which endpoints are unreached or ejected: the pool asks again, or offers
    fewer endpoints.
    """

    def pick(self, endpoints: Sequence[EndpointT]) -> EndpointT:
        """Returns one of the endpoints, in constant time; any thread may call it.

        Args:
            endpoints: At least one, in the order of their node ids. They are one object, which
                does not change, until a provider changes.
        """


class RoundRobin:
    """Takes the endpoints in turn.

    Args:
        start: The first index; random by default, or else all short-lived clients would start
            with the same provider.
    """

    __slots__ = ("turns",)

    def __init__(self, start: int | None = None) -> None:
        # next() on this counter is atomic, so threads need no lock.
        self.turns = itertools.count(random.getrandbits(16) if start is None else start)

    def pick(self, endpoints: Sequence[EndpointT]) -> EndpointT:
        return endpoints[next(self.turns) % len(endpoints)]


class LeastRequests:
    """Draws two endpoints at random and takes the one with fewer calls under way.

    This is nearly as good as the least loaded endpoint of all, at a cost that does not grow with
    their number, and independent callers do not all choose the same endpoint (Mitzenmacher, The
    Power of Two Choices in Randomized Load Balancing, 2001).
    """

    __slots__ = ()

    def pick(self, endpoints: Sequence[EndpointT]) -> EndpointT:
        count = len(endpoints)
        first = int(_random() * count)
        one = endpoints[first]
        if count == 1:
            return one
        # Draw one of the others, all equally likely: the first one's index means the last one.
        second = int(_random() * (count - 1))
        other = endpoints[count - 1 if second == first else second]
        return other if other.under_way < one.under_way else one


def needs_copies(balancer: Balancer) -> bool:
    """Returns whether endpoints given to a balancer must not change while it runs.

    The balancers of this module do with a list that changes in place. One that became shorter
    between two of their steps makes them raise an IndexError.
    """
    return type(balancer) not in (RoundRobin, LeastRequests)
