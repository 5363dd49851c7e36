"""How the pool of a mesh or node calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aegis_discovery._calls.balancers import Balancer
from aegis_discovery._calls.service_config import ServiceConfig
from aegis_discovery.transport._shared import Options


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """How the pool of a mesh or node calls, where that is not as by default.

    Each is an argument of `ServiceClientPool`, too.

    Attributes:
        balancers: By a service's name, what makes its balancer, such as `LeastRequests`; round
            robin elsewhere.
        retry: Whether a call that nobody answered may be tried again at other providers.
        service_config: Retries, timeouts and `wait_for_ready` by method, in the shape of gRPC's
            service config: JSON text, or what it parses to.
        interceptors: Client interceptors of gRPC; of `grpc.aio` for pools of `aio`.
        options: Further channel options of gRPC.

    Raises:
        ServiceConfigError: If the service config cannot be followed.
    """

    balancers: Mapping[str, Callable[[], Balancer]] = field(default_factory=dict)
    retry: bool = True
    service_config: str | Mapping[str, Any] | None = None
    interceptors: Sequence[Any] = ()
    options: Options = ()

    def __post_init__(self) -> None:
        ServiceConfig(self.service_config)  # before anything is connected
