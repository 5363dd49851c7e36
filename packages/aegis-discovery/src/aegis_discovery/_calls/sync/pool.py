"""The sync client pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import grpc
from aegis_certs import TLSConfig

from aegis_discovery._calls.balancers import Balancer
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.pool_base import PROBE, PROBE_TIMEOUT, BasePool, is_alive
from aegis_discovery._calls.router import Router
from aegis_discovery._calls.sync.channel import BalancedChannel, BorrowedChannel
from aegis_discovery._calls.sync.no_providers import NoProvidersRpcError
from aegis_discovery._calls.views import MayProvide
from aegis_discovery.transport._channels import ChannelCache
from aegis_discovery.transport._shared import Options


class ServiceClientPool(BasePool[grpc.Channel]):
    """Calls services by name: their providers in turn, over shared channels of mutual TLS.

    Each provider must prove to be the node that the topology names. Providers that the mesh holds
    to be unhealthy, or that calls had trouble with lately, are passed over as long as others are
    left. It may be used from any number of threads, in the process that made it: in a forked child
    it raises `ForkedError`.

    A call that nobody answered may go on at another provider. Whoever died may have run it before.

    Args:
        source: A topology, or anything that has one (`Node`, `Mesh`).
        tls: Our identity.
        interceptors: Client interceptors of gRPC; they see every attempt of a call.
        options: Further channel options of gRPC.
        retry: Whether a call with a single request, that ended UNAVAILABLE before anything was
            answered, may be tried again at up to two other providers, within a budget.
        service_config: Retries, timeouts and `wait_for_ready` by method, in the shape of gRPC's
            service config: JSON text, or what it parses to.
        balancers: By a service's name, what makes its balancer, such as `LeastRequests`; round
            robin elsewhere.
        region: Where this process runs; providers of the same region are preferred.
        zone: A part of the region; providers of the same zone are preferred above all.
        may_provide: Tells of a node and a service's name and version whether the node may provide
            it; those that may not are left out. Asked when the providers change; it must not use
            the pool.
        channels: Channels to share with others who call the same nodes, in place of own ones;
            they bring their own identity and options, and are not closed with the pool.

    Raises:
        ServiceConfigError: If the service config cannot be followed.
    """

    def __init__(
        self,
        source: Any,
        tls: TLSConfig,
        *,
        interceptors: Sequence[Any] = (),
        options: Options = (),
        retry: bool = True,
        service_config: str | Mapping[str, Any] | None = None,
        balancers: Mapping[str, Callable[[], Balancer]] | None = None,
        region: str = "",
        zone: str = "",
        may_provide: MayProvide | None = None,
        channels: ChannelCache | None = None,
    ) -> None:
        super().__init__(source, retry, service_config, balancers, region, zone, may_provide)
        if channels is None:
            self._channels = ChannelCache(tls, options=options)
        elif options:
            raise ValueError("shared channels bring their own options")
        else:
            self._channels = channels
        self._owns_channels = channels is None
        self._interceptors = tuple(interceptors)

    def channel(self, name: str, version: str, *, retry: bool | None = None) -> grpc.Channel:
        """Returns a channel to a service that balances every call; any stub works on it.

        Args:
            name: The service's name.
            version: Its version.
            retry: False to make each call of this channel once; None for what the pool does.

        Raises:
            ClosedError: If the pool was closed.
        """
        router = Router(self._endpoints.service(name, version), NoProvidersRpcError)
        return BalancedChannel(router, self._connect, self._configuration(retry))

    def get_conn(self, name: str, version: str) -> grpc.Channel:
        """Returns the channel of the provider whose turn it is; it need not be closed.

        Raises:
            NoProvidersError: If nobody provides the service.
            ClosedError: If the pool was closed.
        """
        router = Router(self._endpoints.service(name, version), NoProvidersRpcError)
        endpoint = router.pick(time.monotonic())
        return BorrowedChannel(endpoint, self._connect(endpoint))

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
        probe = channel.unary_unary(PROBE).future(b"", timeout=PROBE_TIMEOUT)

        def ended(probe: Any) -> None:
            endpoint.probed(is_alive(probe.code()), time.monotonic())
            del keep[:]

        # gRPC closes a channel that nobody holds, and cancels a future that nobody holds.
        keep = [channel, probe]
        probe.add_done_callback(ended)

    def change_identity(self, tls: TLSConfig) -> None:
        """Makes calls with another identity from now on; calls under way end on their channels."""
        if self._owns_channels:
            self._channels.change_identity(tls)
        self._endpoints.renew()

    def close(self) -> None:
        """Takes no more calls and closes the connections; calls under way are cancelled."""
        if self._endpoints.is_forked:
            return  # the connections are those of another process
        held = self._endpoints.close()  # a channel that nobody holds could not be closed
        if self._owns_channels:
            self._channels.close()
        del held

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
