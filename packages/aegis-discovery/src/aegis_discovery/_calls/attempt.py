"""What became of one attempt of a call, as far as it matters for retries and outlier detection."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from grpc import StatusCode

from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._runtime.addresses import split_address
from aegis_discovery.transport._shared import SHED_METADATA

_LOCAL_FAULTS = frozenset({"Exception serializing request!", "Exception deserializing response!"})
"""gRPC's details where a serializer of the caller raised; the provider is not to blame."""

_NOT_CONNECTED = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")
"""The starts of gRPC's details for a call that did not wait for a missing connection."""


class AttemptResult(NamedTuple):
    """How an attempt ended.

    Attributes:
        code: The status.
        answered: Whether the caller could have seen any part of an answer.
        trailers: The metadata that came with the status; a status that gRPC itself made has none.
        no_connection: gRPC's details, if they say that there was no connection to send anything on.
    """

    code: StatusCode
    answered: bool
    trailers: Iterable[tuple[str, Any]]
    no_connection: str = ""

    def was_not_sent_to(self, address: str) -> bool:
        """Returns whether nothing was sent to the provider at an address.

        A provider may pass on the status of a call of its own, which found no connection: then the
        details name another address. Of a host name, only the port can be compared.
        """
        details = self.no_connection
        if "last error" not in details:
            return details == _NOT_CONNECTED[0] or f" {address}:" in details
        host, port = split_address(address)
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return f":{port}:" in details
        name = f"ipv4:{ip}" if ip.version == 4 else f"ipv6:%5B{ip}%5D"
        return f"{name}:{port}:" in details

    @property
    def is_shed(self) -> bool:
        """Whether the provider is overloaded, or joins, and states that it did not run the call."""
        codes = (StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE)
        return self.code in codes and any(
            (key, value) == SHED_METADATA for key, value in self.trailers
        )

    @property
    def is_unreached(self) -> bool:
        """Whether the attempt did not reach the provider, or the provider is gone."""
        return self.code is StatusCode.UNAVAILABLE and not self.answered and not self.trailers


def attempt_result(
    code: StatusCode,
    details: str | None,
    trailers: Iterable[tuple[str, Any]] | None,
    *,
    answered: bool,
    streams: bool,
) -> AttemptResult:
    """Makes the result of an attempt from what gRPC reports of it.

    Args:
        code: The status.
        details: Its details.
        trailers: The trailing metadata.
        answered: Whether initial metadata or a message arrived.
        streams: Whether the call streams. Such a call often ends at its deadline, which counts as
            answered then.
    """
    code = provider_code(code, details)
    late = streams and code is StatusCode.DEADLINE_EXCEEDED
    unsent = details if details and is_not_connected(code, details) else ""
    return AttemptResult(code, answered or late, tuple(trailers or ()), unsent)


def provider_code(code: StatusCode, details: str | None) -> StatusCode:
    """Returns the status of an attempt as far as its provider is concerned.

    A gRPC server that stops resets the calls that arrive at that moment. Such a call ends CANCELLED
    although nobody cancelled it, so it counts as UNAVAILABLE here. Its details tell it from a call
    that was cancelled on this side. (A handler that cancels its own call looks the same.) A fault
    of this side counts as CANCELLED.
    """
    if code is StatusCode.CANCELLED and details == StatusCode.CANCELLED.name:
        return StatusCode.UNAVAILABLE
    if code is StatusCode.INTERNAL and details in _LOCAL_FAULTS:
        return StatusCode.CANCELLED
    return code


def is_not_connected(code: StatusCode, details: str | None) -> bool:
    """Returns whether an attempt, of this process or of its provider, found no connection."""
    return code is StatusCode.UNAVAILABLE and (details or "").startswith(_NOT_CONNECTED)


def record_success(endpoint: Endpoint[Any], began: float, *, streams: bool) -> None:
    """Records that a provider answered a call; for a single response, also how fast."""
    if not streams:
        endpoint.call_answered(began, time.monotonic())
    elif endpoint.has_failed:
        endpoint.call_succeeded()


def deadline_of(timeout: float | None) -> float | None:
    """Returns the monotonic time at which a timeout that begins now ends."""
    return None if timeout is None else time.monotonic() + timeout


def time_left(deadline: float | None) -> float | None:
    """Returns the timeout that a deadline leaves."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
