"""Options of a pool, as the pools themselves, `connect` and nodes take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aegis_discovery._calls.balancers import Balancer
from aegis_discovery._calls.service_config import ServiceConfig
from aegis_discovery.transport._shared import Options


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """How a pool calls, where the defaults do not fit.

    Each field is also an argument of `ServiceClientPool`.

    Attributes:
        balancers: By a service's name, what makes its balancer, such as `LeastRequests`; round
            robin by default.
        retry: Whether a call with a single request that ended UNAVAILABLE before any part of an
            answer may be retried at up to two other providers, within a budget.
        service_config: Retries, timeouts and `wait_for_ready` by method, in the format of gRPC's
            service config: JSON text, or the object that it parses to.
        interceptors: Client interceptors of gRPC, which see every attempt of a call. For a pool of
            `aio` they are those of `grpc.aio`.
        options: Further channel options of gRPC.

    Raises:
        ServiceConfigError: If the service config is malformed or not supported.
    """

    balancers: Mapping[str, Callable[[], Balancer]] | None = field(default_factory=dict)
    retry: bool = True
    service_config: str | Mapping[str, Any] | None = None
    interceptors: Sequence[Any] = ()
    options: Options = ()

    def __post_init__(self) -> None:
        ServiceConfig(self.service_config)  # raises before anything is connected
