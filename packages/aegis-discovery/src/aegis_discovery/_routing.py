"""Where the attempts of a call go, and what becomes of them: all retries are decided here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic

from grpc import StatusCode

from aegis_discovery._endpoints import ChannelT, Endpoint, ServiceEndpoints
from aegis_discovery.errors import ClosedError, NoProvidersError

# Ends that our own side can bring about: they tell nothing of the provider.
_LOCAL_ENDS = frozenset({StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED})


class Router(Generic[ChannelT]):
    """Routes the calls that are made through one balanced channel.

    Args:
        service: The endpoints to choose from.
        no_providers: Makes the error for a call that has nowhere to go.
        retry: Whether a call that nobody answered may be tried once more, elsewhere.
    """

    __slots__ = ("_no_providers", "_service", "closed", "retry")

    def __init__(
        self,
        service: ServiceEndpoints[ChannelT],
        no_providers: Callable[[str, str, int], NoProvidersError],
        *,
        retry: bool,
    ) -> None:
        self._service = service
        self._no_providers = no_providers
        self.retry = retry
        self.closed = False

    def __repr__(self) -> str:
        return repr(self._service)

    def pick(self) -> Endpoint[ChannelT]:
        """Returns the endpoint for a new call.

        Raises:
            ClosedError: If the channel or its pool was closed.
            NoProvidersError: If nobody provides the service.
        """
        endpoint = self._service.pick()
        if endpoint is None or self.closed:
            raise self._refusal()
        return endpoint

    def _refusal(self) -> ClosedError | NoProvidersError:
        if self.closed:
            return ClosedError("channel")
        service = self._service
        return self._no_providers(service.name, service.version, service.known_nodes)

    def first_wait(self, wait_for_ready: bool | None) -> bool | None:
        """Returns `wait_for_ready` for a first attempt.

        One that has somewhere else to go does not wait for a provider that may be gone for good.
        """
        if wait_for_ready and self.retry and self._service.is_alternative_known:
            return False
        return wait_for_ready

    def after(
        self,
        endpoint: Endpoint[ChannelT],
        code: StatusCode,
        *,
        answered: bool,
        deadline: float | None = None,
        again: bool = False,
    ) -> Endpoint[ChannelT] | None:
        """Notes how an attempt ended, and returns where the call goes on, if it does.

        Args:
            endpoint: Where the attempt was made.
            code: How it ended.
            answered: Whether the caller could have seen anything of an answer.
            deadline: When the whole call must be done, in monotonic seconds; never extended.
            again: Whether this call may be tried once more at all.
        """
        if code is not StatusCode.UNAVAILABLE:
            if endpoint.backoff and code not in _LOCAL_ENDS:
                endpoint.succeeded()
            return None
        if answered:
            return None
        now = time.monotonic()
        endpoint.failed(now)
        if not again or not self.retry or self.closed or (deadline is not None and now >= deadline):
            return None
        try:
            return self._service.pick(avoid=endpoint)
        except ClosedError:
            return None


def deadline_of(timeout: float | None) -> float | None:
    """Returns the monotonic time at which a timeout that begins now ends."""
    return None if timeout is None else time.monotonic() + timeout


def time_left(deadline: float | None) -> float | None:
    """Returns the timeout that a deadline leaves."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
