"""The sync client pool."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import grpc
from aegis_certs import TLSConfig

from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.pool_base import PROBE, PROBE_TIMEOUT, BasePool
from aegis_discovery._calls.sync.channel import BalancedChannel, BorrowedChannel
from aegis_discovery._calls.sync.waiting import Starter, SyncRouter
from aegis_discovery._calls.views import MayProvide, ViewBuilder
from aegis_discovery.transport._channels import ChannelCache
from aegis_discovery.transport._shared import Options

if TYPE_CHECKING:
    from aegis_discovery._calls.balancers import Balancer
    from aegis_discovery.telemetry import OpenTelemetry


class ServiceClientPool(BasePool[grpc.Channel]):
    """Calls services by name and balances the calls over their providers, with mutual TLS.

    Each provider must prove that it is the node that the topology names. Calls skip providers that
    the mesh considers unhealthy or that recent calls failed at, as long as others are left. Any
    number of threads may use a pool, in the process that made it: in a forked child it raises
    `ForkedError`.

    A call that was not answered may be retried at another provider. The first provider may have
    run it before it died.

    Args:
        source: A topology, or an object that has one (`Node`, `Mesh`).
        tls: The identity of this process; None if `change_identity` sets it before the topology
            has a node.
        region: The region of this process; its providers are preferred.
        zone: The zone of this process in that region; its providers are preferred above all.
        may_provide: Called with a node and a service's name and version; returns whether the node
            may provide the service. Other nodes get no calls. It is called for each provider that
            changes, and must not use the pool.
        channels: Channels shared with other users of the same nodes, in place of own ones. They
            have their own identity and options, and the pool does not close them.
        telemetry: Traces and measures the calls: `aegis_discovery.telemetry.OpenTelemetry`. Off by
            default.
        balancers: As in `PoolOptions`, as are the following.
        retry: Whether calls may be retried.
        service_config: Configures methods.
        interceptors: See every attempt of a call.
        options: Channel options of gRPC.

    Raises:
        ServiceConfigError: If the service config is malformed or not supported.
    """

    def __init__(
        self,
        source: Any,
        tls: TLSConfig | None,
        *,
        region: str = "",
        zone: str = "",
        may_provide: MayProvide | None = None,
        channels: ChannelCache | None = None,
        telemetry: OpenTelemetry | None = None,
        balancers: Mapping[str, Callable[[], Balancer]] | None = None,
        retry: bool = True,
        service_config: str | Mapping[str, Any] | None = None,
        interceptors: Sequence[Any] = (),
        options: Options = (),
    ) -> None:
        views: ViewBuilder[grpc.Channel] = ViewBuilder(region, zone, may_provide)
        super().__init__(
            source,
            views,
            tls,
            telemetry,
            balancers=balancers,
            retry=retry,
            service_config=service_config,
        )
        self._owns_channels = channels is None
        if channels is None:
            channels = ChannelCache(tls, options=options)
        elif options:
            raise ValueError("shared channels bring their own options")
        self._channels = channels
        self._interceptors = tuple(interceptors)
        self._starter = Starter()

    def channel(self, name: str, version: str, *, retry: bool | None = None) -> grpc.Channel:
        """Returns a channel to a service that balances every call; any stub works on it.

        Args:
            name: The service's name.
            version: Its version.
            retry: Whether calls of this channel may be retried; None for the pool's setting.

        Raises:
            ClosedError: If the pool was closed.
        """
        return BalancedChannel(
            self._router(name, version),
            self._connect,
            self._method_config(retry),
            self._telemetry_of(name, version),
        )

    def get_conn(self, name: str, version: str) -> grpc.Channel:
        """Returns the channel of one provider, chosen by the balancer; closing it does nothing.

        Raises:
            NoProvidersError: If the service has no provider.
            ClosedError: If the pool was closed.
        """
        endpoint = self._router(name, version).pick(time.monotonic())
        telemetry = self._telemetry_of(name, version)
        return BorrowedChannel(endpoint, self._connect(endpoint), telemetry)

    def _router(self, name: str, version: str) -> SyncRouter:
        return SyncRouter(self._registry.service(name, version), self._starter)

    def _connect(self, endpoint: Endpoint[grpc.Channel]) -> grpc.Channel:
        channel = endpoint.channel
        if channel is None:
            channel = self._channels.get(endpoint.node_id, endpoint.address)
            if self._interceptors:
                channel = grpc.intercept_channel(channel, *self._interceptors)
            endpoint.channel = channel
        return channel

    def _start_probe(self, endpoint: Endpoint[grpc.Channel]) -> None:
        channel: Any = self._channels.get(endpoint.node_id, endpoint.address)
        probe = channel.unary_unary(PROBE).future(
            b"", timeout=PROBE_TIMEOUT, wait_for_ready=endpoint.excluded
        )

        def ended(probe: Any) -> None:
            probed = kept()
            if probed is not None:
                self._probe_ended(probed, probe.code())
            del references[:]

        # gRPC closes a channel and cancels a future that nothing references. If the endpoint is
        # dropped meanwhile, so is its channel: the next one of that node connects at once.
        references = [channel, probe]
        kept = weakref.ref(endpoint, lambda _: probe.cancel())
        probe.add_done_callback(ended)

    def close(self) -> None:
        """Refuses further calls and closes the connections; calls under way are cancelled."""
        if self._registry.is_forked:
            return  # the connections belong to the parent process
        connected = self._registry.close()  # without a reference a channel cannot be closed
        if self._owns_channels:
            self._channels.close()
        del connected

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
