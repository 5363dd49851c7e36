"""Where the attempts of a call go, and what becomes of them: all retries are decided here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple

from grpc import StatusCode

from aegis_discovery._calls.endpoint import ChannelT, Endpoint
from aegis_discovery._calls.retry_budget import RetryPolicy
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery.errors import ClosedError, NoProvidersError
from aegis_discovery.transport._shared import SHED_METADATA

_OWN_FAULTS = frozenset({"Exception serializing request!", "Exception deserializing response!"})
"""What gRPC says where a serializer of the caller's raised; the provider has no part in it."""

_NOT_CONNECTED = "failed to connect to all addresses"
"""What gRPC says first where a call did not wait for a connection that there was none of."""


def told_code(code: StatusCode, details: str | None) -> StatusCode:
    """Returns the status that an attempt ended with, as far as its provider is concerned.

    A server of gRPC that stops resets calls that come in at that moment. Such a call ends
    CANCELLED, although nobody cancelled it: the provider is there no more. These are the details
    of such a reset; those of a call that was cancelled here are others. (A handler that cancels
    its own call looks the same.) What this side itself brought about is a CANCELLED.
    """
    if code is StatusCode.CANCELLED and details == StatusCode.CANCELLED.name:
        return StatusCode.UNAVAILABLE
    if code is StatusCode.INTERNAL and details in _OWN_FAULTS:
        return StatusCode.CANCELLED
    return code


def is_not_connected(code: StatusCode, details: str | None) -> bool:
    """Tells whether an attempt certainly ran nowhere: there was no connection to send it on."""
    return code is StatusCode.UNAVAILABLE and (details or "").startswith(_NOT_CONNECTED)


class End(NamedTuple):
    """How an attempt that was no success ended.

    Attributes:
        code: The status.
        answered: Whether the caller could have seen anything of an answer.
        trailers: The metadata that came with the status; a status of gRPC's own brings none.
        is_not_connected: Whether there was no connection to send anything on.
    """

    code: StatusCode
    answered: bool
    trailers: Iterable[tuple[str, Any]]
    is_not_connected: bool = False

    @property
    def is_shed(self) -> bool:
        """Whether the provider had too many calls, and says that this one did not run."""
        return self.code is StatusCode.RESOURCE_EXHAUSTED and any(
            (key, value) == SHED_METADATA for key, value in self.trailers
        )

    @property
    def is_unreached(self) -> bool:
        """Whether the provider was not reached, or is there no more."""
        return self.code is StatusCode.UNAVAILABLE and not self.answered and not self.trailers


class Router(Generic[ChannelT]):
    """Routes the calls that are made through one balanced channel.

    Args:
        service: The endpoints to choose from.
        no_providers: Makes the error for a call that has nowhere to go.
    """

    __slots__ = ("_no_providers", "_service", "closed")

    def __init__(
        self,
        service: ServiceEndpoints[ChannelT],
        no_providers: Callable[[str, str, int], NoProvidersError],
    ) -> None:
        self._service = service
        self._no_providers = no_providers
        self.closed = False

    def __repr__(self) -> str:
        return repr(self._service)

    def pick(self, now: float) -> Endpoint[ChannelT]:
        """Returns the endpoint for a new call.

        Args:
            now: Monotonic seconds.

        Raises:
            ClosedError: If the channel or its pool was closed.
            NoProvidersError: If nobody provides the service.
        """
        endpoint = self._service.pick(now)
        if endpoint is None or self.closed:
            raise self._refusal()
        return endpoint

    def _refusal(self) -> ClosedError | NoProvidersError:
        if self.closed:
            return ClosedError("channel")
        service = self._service
        return self._no_providers(service.name, service.version, service.known_nodes)

    def waits(self, policy: RetryPolicy | None, tried: int = 0) -> bool:
        """Tells whether an attempt should wait until its provider is connected, as asked for.

        One that has somewhere else to go does not wait for a provider that may be gone for good.
        """
        if policy is None or StatusCode.UNAVAILABLE not in policy.codes:
            return True
        return tried + 1 >= min(policy.attempts, len(self._service.view.everyone))

    def note(self, endpoint: Endpoint[ChannelT], end: End, now: float) -> None:
        """Notes how an attempt ended that was no success.

        What our own side can bring about tells nothing of the provider; nor does a call that it
        shed, but that it runs.
        """
        service = self._service
        if end.is_unreached:
            endpoint.unreached(now)
        elif end.code is StatusCode.UNAVAILABLE:
            service.failed(endpoint, now)
        elif end.code is StatusCode.DEADLINE_EXCEEDED:
            if not end.answered:
                service.failed(endpoint, now)
        elif end.is_shed:
            service.sheds += 1
            endpoint.heard(now)
        elif end.code is not StatusCode.CANCELLED:
            endpoint.heard(now)
            endpoint.succeeded()

    def given_up(self, endpoint: Endpoint[ChannelT], began: float, now: float) -> None:
        """Notes a call whose caller stopped waiting for its response."""
        self._service.given_up(endpoint, began, now)

    def after(
        self,
        tried: tuple[Endpoint[ChannelT], ...],
        end: End,
        policy: RetryPolicy | None,
        *,
        deadline: float | None = None,
        waiting: bool | None = None,
    ) -> Endpoint[ChannelT] | None:
        """Notes how an attempt ended that was no success; returns where the call goes on, if so.

        Args:
            tried: Where the call was, last where this attempt was made.
            end: How it ended.
            policy: Which calls are made again; None for none.
            deadline: When the whole call must be done, in monotonic seconds; never extended.
            waiting: Whether the caller would wait until a provider is connected. A first attempt
                that did not, in the hope of another provider, is not charged to the budget: it
                stands for waiting, and made no load.
        """
        now = time.monotonic()
        self.note(tried[-1], end, now)
        if policy is None or end.answered or self.closed or len(tried) >= policy.attempts:
            return None
        if (deadline is not None and now >= deadline) or not (
            end.code in policy.codes or end.is_shed
        ):
            return None
        charged = not (waiting and end.is_not_connected)
        return self._service.pick_other(tried, now, charged=charged)


def deadline_of(timeout: float | None) -> float | None:
    """Returns the monotonic time at which a timeout that begins now ends."""
    return None if timeout is None else time.monotonic() + timeout


def time_left(deadline: float | None) -> float | None:
    """Returns the timeout that a deadline leaves."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
