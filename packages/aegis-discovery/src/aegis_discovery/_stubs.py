"""What a stub callable of a balanced channel is, sync and async."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic

from aegis_discovery._endpoints import ChannelT, Endpoint
from aegis_discovery._routing import Router


class StubCallable(Generic[ChannelT]):
    """A method of a service: each call of it goes to the same method of the endpoint picked.

    Args:
        router: Picks.
        connect: Returns an endpoint's channel.
        args: As given to the channel's `unary_unary` or the like.
        kwargs: As `args`.
    """

    kind: str
    """Which of a channel's four methods makes it."""

    def __init__(
        self,
        router: Router[ChannelT],
        connect: Callable[[Endpoint[ChannelT]], ChannelT],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.router = router
        self._connect = connect
        self._args = args
        self._kwargs = kwargs
        self._key = object()
        self._made_at: weakref.WeakSet[Endpoint[ChannelT]] = weakref.WeakSet()

    def at(self, endpoint: Endpoint[ChannelT]) -> Any:
        """Returns gRPC's own callable for an endpoint.

        The endpoint keeps it, since its channel must go with the endpoint and with nothing else.
        """
        found = endpoint.callables.get(self._key)
        if found is None:
            make = getattr(self._connect(endpoint), self.kind)
            found = endpoint.callables[self._key] = make(*self._args, **self._kwargs)
            self._made_at.add(endpoint)
        return found

    def __del__(self) -> None:
        for endpoint in self._made_at:
            endpoint.callables.pop(self._key, None)
