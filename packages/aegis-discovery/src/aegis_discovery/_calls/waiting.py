"""How one call waits for a provider that is in use; pure but for the probes it asks for."""

from __future__ import annotations

import math
from typing import Generic

from grpc import StatusCode

from aegis_discovery._calls.endpoint import RESPONSE_TIMEOUT, ChannelT, Endpoint
from aegis_discovery._calls.router import Router


class Wait(Generic[ChannelT]):
    """A call's wait for an endpoint that is in use.

    gRPC itself would wait for one connection, whatever becomes of its provider. So no attempt
    waits in gRPC: it fails without a connection, and the call waits here for any endpoint.

    Args:
        router: Knows the endpoints.
        now: When the wait begins, in monotonic seconds.
        deadline: When the call must be done, in monotonic seconds.
        once: Whether the call cannot be repeated if it finds no connection. Then its endpoint must
            answer a probe first.
    """

    def __init__(
        self, router: Router[ChannelT], now: float, deadline: float | None, *, once: bool = False
    ) -> None:
        self._router = router
        self.deadline = deadline
        self._once = once
        self._chosen: Endpoint[ChannelT] | None = None
        self._chosen_at = self._until = now

    def try_pick(self, now: float) -> Endpoint[ChannelT] | None:
        """Returns the endpoint for the call, or None while it must wait.

        Raises:
            NoProvidersError: If the deadline is over, or the channel or its pool was closed.
        """
        router, service = self._router, self._router.service
        router.check_waiting()
        endpoint = self._chosen
        if endpoint is None or endpoint.excluded or now >= self._until:
            endpoint = self._chosen = service.pick_in_use(now)
            self._chosen_at, self._until = now, now + RESPONSE_TIMEOUT
        if endpoint is not None:
            if not self._once or endpoint.proven_at > self._chosen_at:
                return endpoint
            service.prove(endpoint, now)
        if self.deadline is not None and now >= self.deadline:
            raise router.waiting_error(StatusCode.DEADLINE_EXCEEDED, "its deadline") from None
        return None

    def time_left(self, now: float) -> float | None:
        """Returns the seconds until `try_pick` must be called again; None for no limit."""
        first = self._router.service.next_probe if self._chosen is None else self._until
        if self.deadline is not None:
            first = min(first, self.deadline)
        return None if first == math.inf else max(first - now, 0.0)
