"""Routes the attempts of a call; all retries are decided here."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic

from grpc import StatusCode

from aegis_discovery._calls.attempt import AttemptResult
from aegis_discovery._calls.endpoint import ChannelT, Endpoint
from aegis_discovery._calls.retry_budget import RetryPolicy
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery.errors import ClosedError, NoProvidersError

MAX_UNREACHED = 100
"""Providers that an error names; a service may have thousands."""


class Router(Generic[ChannelT]):
    """Routes the calls that are made through one balanced channel.

    Args:
        service: The endpoints to choose from.
        no_providers: Makes the error of a call to a service without providers.
    """

    __slots__ = ("_no_providers", "closed", "service")

    def __init__(
        self,
        service: ServiceEndpoints[ChannelT],
        no_providers: Callable[..., NoProvidersError],
    ) -> None:
        self.service = service
        self._no_providers = no_providers
        self.closed = False

    def __repr__(self) -> str:
        return repr(self.service)

    def pick(self, now: float) -> Endpoint[ChannelT]:
        """Returns the endpoint for a new call.

        Args:
            now: Monotonic seconds.

        Raises:
            ClosedError: If the channel or its pool was closed.
            NoProvidersError: If the service has no provider.
        """
        endpoint = self.service.pick(now)
        if endpoint is None or self.closed:
            raise self.pick_error()
        return endpoint

    def pick_error(self) -> ClosedError | NoProvidersError:
        """Returns the error of a call that gets no endpoint."""
        return ClosedError("channel") if self.closed else self._missing()

    def _missing(self, **ended: Any) -> NoProvidersError:
        service = self.service
        return self._no_providers(
            service.name,
            service.version,
            service.known_nodes,
            service.known_versions,
            regions=service.other_regions,
            **ended,
        )

    def check_open(self) -> None:
        """Raises `ClosedError` if the channel or its pool was closed."""
        if self.closed or self.service.is_closed:
            raise self.service.closed_error() if self.service.is_closed else ClosedError("channel")

    def check_waiting(self) -> None:
        """Raises the error of a call that waits for a provider and cannot go on.

        Raises:
            NoProvidersError: If the channel or its pool was closed.
        """
        if self.closed:
            raise self.waiting_error(StatusCode.CANCELLED, "its channel was closed") from None
        if self.service.is_closed:
            raise self.waiting_error(StatusCode.CANCELLED, "its pool was closed") from None

    def waiting_error(self, code: StatusCode, until: str) -> NoProvidersError:
        """Returns the error of a call that waited for a provider until something else came."""
        endpoints = self.service.view.endpoints[:MAX_UNREACHED]
        unreached = [endpoint.node_id for endpoint in endpoints]
        return self._missing(until=until, unreached=unreached, code=code)

    def waiting(self, wake: Callable[[], object]) -> AbstractContextManager[None]:
        """Calls `wake`, from any thread, whenever a call that waits may go on or end."""
        return self.service.waiters.waiting(self.service, wake)

    def close(self) -> None:
        """Refuses further calls, and ends those that wait for a provider."""
        self.closed = True
        self.service.waiters.wake(self.service)

    def record(self, endpoint: Endpoint[ChannelT], result: AttemptResult, now: float) -> None:
        """Records an attempt that did not succeed.

        A status that this side can cause says nothing about the provider. A shed call says only
        that the provider runs.
        """
        service = self.service
        if result.is_unreached:
            endpoint.connection_failed(now)
        elif result.code is StatusCode.UNAVAILABLE:
            service.call_failed(endpoint, now)
        elif result.code is StatusCode.DEADLINE_EXCEEDED:
            if not result.answered:
                service.call_failed(endpoint, now)
        elif result.is_shed:
            service.sheds += 1
            endpoint.mark_responsive(now)
        elif result.code is not StatusCode.CANCELLED:
            endpoint.mark_responsive(now)
            endpoint.call_succeeded()

    def call_abandoned(self, endpoint: Endpoint[ChannelT], began: float, now: float) -> None:
        """Counts a call whose caller stopped waiting for its response."""
        self.service.call_abandoned(endpoint, began, now)

    def pick_retry(
        self,
        tried: tuple[Endpoint[ChannelT], ...],
        result: AttemptResult,
        policy: RetryPolicy | None,
        *,
        deadline: float | None = None,
    ) -> Endpoint[ChannelT] | None:
        """Records an attempt that did not succeed; returns the endpoint for a retry, if any.

        Args:
            tried: The endpoints of all attempts so far; the last one made this attempt.
            result: How the attempt ended.
            policy: Which calls are retried; None for none.
            deadline: When the whole call must be done, in monotonic seconds; never extended.
        """
        now = time.monotonic()
        self.record(tried[-1], result, now)
        if policy is None or result.answered or self.closed or len(tried) >= policy.attempts:
            return None
        if (deadline is not None and now >= deadline) or not (
            result.code in policy.codes or result.is_shed
        ):
            return None
        return self.service.pick_retry(tried, now)
