"""What both pools are made of."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic

from grpc import StatusCode

from aegis_discovery._calls.balancers import Balancer
from aegis_discovery._calls.endpoint import MAX_PAUSE, ChannelT, Endpoint
from aegis_discovery._calls.registry import Endpoints
from aegis_discovery._calls.service_config import MethodConfig, ServiceConfig
from aegis_discovery._calls.stats import PoolStats
from aegis_discovery._calls.views import MayProvide

PROBE = "/aegis.MeshService/Ping"
"""Every node has this method, and any answer to it tells that the node runs; so no call of a user
is spent on finding out."""

PROBE_TIMEOUT = MAX_PAUSE
"""Seconds that a probe stays open."""

_NO_ANSWER = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED})

_log = logging.getLogger("aegis.pool")


def is_alive(code: StatusCode) -> bool:
    """Tells whether a probe that ended so was answered."""
    return code not in _NO_ANSWER


class BasePool(Generic[ChannelT]):
    """A pool without its channels; the arguments are those of the pools."""

    def __init__(
        self,
        source: Any,
        retry: bool,
        service_config: str | Mapping[str, Any] | None,
        balancers: Mapping[str, Callable[[], Balancer]] | None,
        region: str,
        zone: str,
        may_provide: MayProvide | None,
    ) -> None:
        self._retry = retry
        self._config = ServiceConfig(service_config)
        self._endpoints: Endpoints[ChannelT] = Endpoints(
            getattr(source, "topology", source),
            balancers=balancers,
            region=region,
            zone=zone,
            may_provide=may_provide,
        )
        self._endpoints.probe = self._probe

    def __repr__(self) -> str:
        connected = ", ".join(endpoint.node_id for endpoint in self._endpoints.open_endpoints())
        return f"<ServiceClientPool channels=[{connected}]{' closed' * self._endpoints.closed}>"

    def stats(self) -> PoolStats:
        """Returns what the pool has counted, and how each provider stands, as a frozen value."""
        return self._endpoints.stats()

    def reevaluate(self) -> None:
        """Asks `may_provide` of every provider again, after its rules have changed."""
        self._endpoints.reevaluate()

    def _configuration(self, retry: bool | None) -> Callable[[str], MethodConfig]:
        """Returns what tells the configuration of a channel's methods."""
        of = self._config.of
        if self._retry if retry is None else retry:
            return of
        return lambda method: of(method).without_retry()

    def _probe(self, endpoint: Endpoint[ChannelT]) -> None:
        """Finds out in the background whether an endpoint is back."""
        try:
            self._start_probe(endpoint)
        except Exception:  # noqa: BLE001 - the call that came by has nothing to do with it
            _log.debug("%r cannot be probed", endpoint, exc_info=True)
            endpoint.probed(False, time.monotonic())

    def _start_probe(self, endpoint: Endpoint[ChannelT]) -> None:
        raise NotImplementedError
