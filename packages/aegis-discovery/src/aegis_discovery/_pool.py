"""The sync client pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import grpc
from aegis_certs import TLSConfig

from aegis_discovery._channel import BalancedChannel, BorrowedChannel
from aegis_discovery._endpoints import Endpoint, Endpoints, ProviderSource
from aegis_discovery._routing import Router
from aegis_discovery._transport import ChannelCache, Options
from aegis_discovery._unrouted import NoProvidersRpcError


class ServiceClientPool:
    """Calls services by name: their providers in turn, over shared channels of mutual TLS.

    Each provider must prove to be the node that the topology names. Providers that the mesh holds
    to be unhealthy, or that calls did not reach lately, are passed over as long as others are
    left. It may be used from any number of threads. No process may fork once it has used one.

    Args:
        source: A topology, or anything that has one (`Node`, `Mesh`).
        tls: Our identity.
        interceptors: Client interceptors of gRPC; they see every attempt of a call.
        options: Further channel options of gRPC.
        retry: Whether a call with a single request, that ended UNAVAILABLE before anything was
            answered, is tried once more at another provider. It may have run at the first one.
        channels: Channels to share with others who call the same nodes, in place of own ones;
            they bring their own identity and options, and are not closed with the pool.
    """

    def __init__(
        self,
        source: Any,
        tls: TLSConfig,
        *,
        interceptors: Sequence[Any] = (),
        options: Options = (),
        retry: bool = True,
        channels: ChannelCache | None = None,
    ) -> None:
        topology: ProviderSource = getattr(source, "topology", source)
        self._endpoints: Endpoints[grpc.Channel] = Endpoints(topology)
        if channels is None:
            self._channels = ChannelCache(tls, options=options)
        elif options:
            raise ValueError("shared channels bring their own options")
        else:
            self._channels = channels
        self._owns_channels = channels is None
        self._interceptors = tuple(interceptors)
        self._retry = retry

    def __repr__(self) -> str:
        connected = ", ".join(endpoint.node_id for endpoint in self._endpoints.open_endpoints())
        return f"<ServiceClientPool channels=[{connected}]{' closed' * self._endpoints.closed}>"

    def channel(self, name: str, version: str) -> grpc.Channel:
        """Returns a channel to a service that balances every call; any stub works on it.

        Raises:
            ClosedError: If the pool was closed.
        """
        service = self._endpoints.service(name, version)
        router = Router(service, NoProvidersRpcError, retry=self._retry)
        return BalancedChannel(router, self._connect)

    def get_conn(self, name: str, version: str) -> grpc.Channel:
        """Returns the channel of the provider whose turn it is; it need not be closed.

        Raises:
            NoProvidersError: If nobody provides the service.
            ClosedError: If the pool was closed.
        """
        service = self._endpoints.service(name, version)
        endpoint = Router(service, NoProvidersRpcError, retry=False).pick()
        return BorrowedChannel(endpoint, self._connect(endpoint))

    def _connect(self, endpoint: Endpoint[grpc.Channel]) -> grpc.Channel:
        channel = endpoint.channel
        if channel is None:
            channel = self._channels.get(endpoint.node_id, endpoint.address)
            if self._interceptors:
                channel = grpc.intercept_channel(channel, *self._interceptors)
            endpoint.channel = channel
        return channel

    def change_identity(self, tls: TLSConfig) -> None:
        """Makes calls with another identity from now on; calls under way end on their channels."""
        if self._owns_channels:
            self._channels.change_identity(tls)
        self._endpoints.renew()

    def close(self) -> None:
        """Takes no more calls and closes the connections; calls under way are cancelled."""
        held = self._endpoints.close()  # a channel that nobody holds could not be closed
        if self._owns_channels:
            self._channels.close()
        del held

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
