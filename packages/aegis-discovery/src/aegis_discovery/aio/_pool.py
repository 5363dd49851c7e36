"""The async client pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import grpc.aio
from aegis_certs import TLSConfig

from aegis_discovery._endpoints import Endpoint, Endpoints, ProviderSource, ServiceEndpoints
from aegis_discovery._routing import Router
from aegis_discovery._transport import Options
from aegis_discovery.aio._channel import BalancedChannel, BorrowedChannel
from aegis_discovery.aio._transport import ChannelCache, HomeLoop
from aegis_discovery.aio._unrouted import NoProvidersRpcError


class ServiceClientPool:
    """Calls services by name: their providers in turn, over shared channels of mutual TLS.

    Each provider must prove to be the node that the topology names. Providers that the mesh holds
    to be unhealthy, or that calls did not reach lately, are passed over as long as others are
    left. A pool belongs to the event loop of its first call.

    Args:
        source: A topology, or anything that has one (`Node`, `Mesh`).
        tls: Our identity.
        interceptors: Client interceptors of gRPC; they see every attempt of a call.
        options: Further channel options of gRPC.
        retry: Whether a call with a single request, that ended UNAVAILABLE before anything was
            answered, is tried once more at another provider. It may have run at the first one.
        channels: Channels to share with others who call the same nodes, in place of own ones;
            they bring their own identity, interceptors and options, and are not closed here.
    """

    def __init__(
        self,
        source: Any,
        tls: TLSConfig,
        *,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        options: Options = (),
        retry: bool = True,
        channels: ChannelCache | None = None,
    ) -> None:
        topology: ProviderSource = getattr(source, "topology", source)
        self._endpoints: Endpoints[grpc.aio.Channel] = Endpoints(topology)
        if channels is None:
            self._channels = ChannelCache(tls, interceptors=interceptors, options=options)
        elif interceptors or options:
            raise ValueError("shared channels bring their own interceptors and options")
        else:
            self._channels = channels
        self._owns_channels = channels is None
        self._retry = retry
        self._home = HomeLoop("pool")

    def __repr__(self) -> str:
        connected = ", ".join(endpoint.node_id for endpoint in self._endpoints.open_endpoints())
        return f"<ServiceClientPool channels=[{connected}]{' closed' * self._endpoints.closed}>"

    def channel(self, name: str, version: str) -> grpc.aio.Channel:
        """Returns a channel to a service that balances every call; any stub works on it.

        Raises:
            ClosedError: If the pool was closed.
        """
        router = _LoopRouter(self._endpoints.service(name, version), self._home, retry=self._retry)
        return BalancedChannel(router, self._connect)

    def get_conn(self, name: str, version: str) -> grpc.aio.Channel:
        """Returns the channel of the provider whose turn it is; it need not be closed.

        Raises:
            NoProvidersError: If nobody provides the service.
            ClosedError: If the pool was closed.
        """
        router = _LoopRouter(self._endpoints.service(name, version), self._home, retry=False)
        endpoint = router.pick()
        return BorrowedChannel(endpoint, self._connect(endpoint))

    def _connect(self, endpoint: Endpoint[grpc.aio.Channel]) -> grpc.aio.Channel:
        channel = endpoint.channel
        if channel is None:
            channel = self._channels.get(endpoint.node_id, endpoint.address)
            endpoint.channel = channel
        return channel

    def change_identity(self, tls: TLSConfig) -> None:
        """Makes calls with another identity from now on; calls under way end on their channels."""
        if self._owns_channels:
            self._channels.change_identity(tls)
        self._endpoints.renew()

    async def close(self, grace: float | None = None) -> None:
        """Takes no more calls and closes the connections.

        Args:
            grace: Seconds that calls under way have to end; they are cancelled then, or at once.
        """
        held = self._endpoints.close()  # a channel that nobody holds could not be closed
        if self._owns_channels:
            await self._channels.close(grace)
        del held

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _LoopRouter(Router[grpc.aio.Channel]):
    """A router that serves one event loop only: gRPC's channels would hang in another."""

    __slots__ = ("_home",)

    def __init__(
        self, service: ServiceEndpoints[grpc.aio.Channel], home: HomeLoop, *, retry: bool
    ) -> None:
        super().__init__(service, NoProvidersRpcError, retry=retry)
        self._home = home

    def pick(self) -> Endpoint[grpc.aio.Channel]:
        self._home.check()
        endpoint = self._service.pick()  # not by super(): each frame of a call counts
        if endpoint is None or self.closed:
            raise self._refusal()
        return endpoint
