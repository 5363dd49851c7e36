"""What the sync and the async pool share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic

from aegis_certs import TLSConfig
from grpc import StatusCode

from aegis_discovery._calls.endpoint import MAX_BACKOFF, ChannelT, Endpoint
from aegis_discovery._calls.registry import EndpointRegistry
from aegis_discovery._calls.service_config import MethodConfig, ServiceConfig
from aegis_discovery._calls.views import ViewBuilder

if TYPE_CHECKING:
    from aegis_discovery._calls.balancers import Balancer
    from aegis_discovery._calls.stats import PoolStats

PROBE = "/aegis.MeshService/Ping"
"""Every node has this method, and any answer to it shows that the node runs. So a pool spends no
call of a user on a probe."""

PROBE_TIMEOUT = MAX_BACKOFF
"""Seconds that a probe stays open."""

_NO_ANSWER = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED})

if TYPE_CHECKING:
    from aegis_discovery.telemetry import OpenTelemetry
    from aegis_discovery.telemetry._calls import ServiceTelemetry

_log = logging.getLogger("aegis.pool")


class BasePool(Generic[ChannelT]):
    """A pool without its channels, which each subclass opens in its own way.

    Args:
        source: A topology, or an object with one.
        views: Builds the views of its services.
        tls: The identity of this process, if it is known.
        telemetry: Traces and measures the calls, if it is given.
        balancers: As in `PoolOptions`, as are the following.
        retry: Whether calls may be retried.
        service_config: Configures methods.
    """

    _channels: Any
    _owns_channels: bool

    def __init__(
        self,
        source: Any,
        views: ViewBuilder[ChannelT],
        tls: TLSConfig | None,
        telemetry: OpenTelemetry | None,
        *,
        balancers: Mapping[str, Callable[[], Balancer]] | None,
        retry: bool,
        service_config: str | Mapping[str, Any] | None,
    ) -> None:
        self._telemetry = telemetry
        self._retry = retry
        self._config = ServiceConfig(service_config)
        self._registry: EndpointRegistry[ChannelT] = EndpointRegistry(
            getattr(source, "topology", source), balancers=balancers, views=views
        )
        self._registry.probe = self._probe
        if tls is not None:
            self._registry.identity = tls.node_id

    def __repr__(self) -> str:
        connected = ", ".join(e.node_id for e in self._registry.connected_endpoints())
        return f"<ServiceClientPool channels=[{connected}]{' closed' * self._registry.closed}>"

    def stats(self) -> PoolStats:
        """Returns a frozen snapshot of the counters, the edges and the state of each provider."""
        return self._registry.stats()

    def reevaluate(self) -> None:
        """Calls `may_provide` for every provider again; use it after the rules changed."""
        self._registry.refresh(force=True)

    def change_identity(self, tls: TLSConfig) -> None:
        """Makes new calls with another identity; calls under way end on their old channels."""
        if self._owns_channels:
            self._channels.change_identity(tls)
        self._registry.identity = tls.node_id
        self._registry.replace_endpoints()

    def _method_config(self, retry: bool | None) -> Callable[[str], MethodConfig]:
        """Returns the function that configures the methods of a channel."""
        for_method = self._config.for_method
        if self._retry if retry is None else retry:
            return for_method
        return lambda method: for_method(method).without_retry()

    def _telemetry_of(self, name: str, version: str) -> ServiceTelemetry | None:
        """Returns what reports the calls to a service, if they are traced."""
        if self._telemetry is None:
            return None
        from aegis_discovery.telemetry._calls import ServiceTelemetry  # it needs an extra

        return ServiceTelemetry(self._telemetry, f"{name}/{version}", self._place_of)

    def _place_of(self, node_id: str) -> tuple[str, str]:
        node = self._registry.source.get_node(node_id)
        return ("", "") if node is None else (node.region, node.zone)

    def _probe(self, endpoint: Endpoint[ChannelT]) -> None:
        """Finds out in the background whether an endpoint is back."""
        try:
            self._start_probe(endpoint)
        except Exception:  # noqa: BLE001 - must not fail the call that triggered the probe
            _log.debug("%r cannot be probed", endpoint, exc_info=True)
            self._probe_ended(endpoint, StatusCode.UNAVAILABLE)

    def _start_probe(self, endpoint: Endpoint[ChannelT]) -> None:
        raise NotImplementedError

    def _probe_ended(self, endpoint: Endpoint[ChannelT], code: StatusCode) -> None:
        """Records how a probe ended, and wakes the calls that wait for that."""
        now = time.monotonic()
        endpoint.probe_ended(code not in _NO_ANSWER, now)
        if code is StatusCode.UNAVAILABLE:
            endpoint.connection_failed(now)  # it may have been in use
        self._registry.waiters.changed()
