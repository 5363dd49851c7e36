"""The async client pool."""

from __future__ import annotations

import logging
import time
from asyncio import _get_running_loop  # unlike the public one, it raises nothing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import grpc.aio
from aegis_certs import TLSConfig

from aegis_discovery._calls.aio.call import end_of
from aegis_discovery._calls.aio.channel import BalancedChannel, BorrowedChannel
from aegis_discovery._calls.aio.no_providers import NoProvidersRpcError
from aegis_discovery._calls.balancers import Balancer
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.pool_base import PROBE, PROBE_TIMEOUT, BasePool, is_alive
from aegis_discovery._calls.router import Router
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery._calls.views import MayProvide
from aegis_discovery.transport._aio_channels import ChannelCache, LoopBound
from aegis_discovery.transport._shared import Options

_log = logging.getLogger("aegis.pool")


class ServiceClientPool(BasePool[grpc.aio.Channel]):
    """Calls services by name: their providers in turn, over shared channels of mutual TLS.

    Each provider must prove to be the node that the topology names. Providers that the mesh holds
    to be unhealthy, or that calls had trouble with lately, are passed over as long as others are
    left. A pool belongs to the event loop of its first call.

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
            they bring their own identity, interceptors and options, and are not closed here.

    Raises:
        ServiceConfigError: If the service config cannot be followed.
    """

    def __init__(
        self,
        source: Any,
        tls: TLSConfig,
        *,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
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
            self._channels = ChannelCache(
                tls, interceptors=[_past_probes(one) for one in interceptors], options=options
            )
        elif interceptors or options:
            raise ValueError("shared channels bring their own interceptors and options")
        else:
            self._channels = channels
        self._owns_channels = channels is None
        self._home = LoopBound("pool")

    def channel(self, name: str, version: str, *, retry: bool | None = None) -> grpc.aio.Channel:
        """Returns a channel to a service that balances every call; any stub works on it.

        Args:
            name: The service's name.
            version: Its version.
            retry: False to make each call of this channel once; None for what the pool does.

        Raises:
            ClosedError: If the pool was closed.
        """
        router = _LoopRouter(self._endpoints.service(name, version), self._home)
        return BalancedChannel(router, self._connect, self._configuration(retry))

    def get_conn(self, name: str, version: str) -> grpc.aio.Channel:
        """Returns the channel of the provider whose turn it is; it need not be closed.

        Raises:
            NoProvidersError: If nobody provides the service.
            ClosedError: If the pool was closed.
        """
        router = _LoopRouter(self._endpoints.service(name, version), self._home)
        endpoint = router.pick(time.monotonic())
        return BorrowedChannel(endpoint, self._connect(endpoint))

    def _connect(self, endpoint: Endpoint[grpc.aio.Channel]) -> grpc.aio.Channel:
        channel = endpoint.channel
        if channel is None:
            channel = self._channels.get(endpoint.node_id, endpoint.address)
            endpoint.channel = channel
        return channel

    def _start_probe(self, endpoint: Endpoint[grpc.aio.Channel]) -> None:
        channel: Any = self._connect(endpoint)
        probe = channel.unary_unary(PROBE)(b"", timeout=PROBE_TIMEOUT)

        def ended(probe: Any) -> None:
            alive = False
            try:
                alive = is_alive(end_of(probe).code)
            except Exception:  # noqa: BLE001 - an interceptor's own error: that is no answer
                _log.debug("%r was not probed", endpoint, exc_info=True)
            endpoint.probed(alive, time.monotonic())
            del keep[:]

        # gRPC closes a channel that nobody holds, and cancels a call that nobody holds.
        keep = [channel, probe]
        probe.add_done_callback(ended)

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


class _PastProbes(grpc.aio.UnaryUnaryClientInterceptor):
    """A user's interceptor, which is to see the user's calls and not the probes of the pool."""

    def __init__(self, inner: grpc.aio.UnaryUnaryClientInterceptor) -> None:
        self._inner = inner

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        if details.method in (PROBE, PROBE.encode()):
            return await continuation(details, request)
        return await self._inner.intercept_unary_unary(continuation, details, request)


def _past_probes(interceptor: grpc.aio.ClientInterceptor) -> grpc.aio.ClientInterceptor:
    if isinstance(interceptor, grpc.aio.UnaryUnaryClientInterceptor):
        return _PastProbes(interceptor)
    return interceptor


class _LoopRouter(Router[grpc.aio.Channel]):
    """A router that serves one event loop only: gRPC's channels would hang in another."""

    __slots__ = ("_home", "_loop")

    def __init__(self, service: ServiceEndpoints[grpc.aio.Channel], home: LoopBound) -> None:
        super().__init__(service, NoProvidersRpcError)
        self._home = home
        self._loop: object = home  # no loop at all, so that the first call looks at home

    def pick(self, now: float) -> Endpoint[grpc.aio.Channel]:
        # Not by super(), and the loop looked at here: each frame of a call counts.
        if _get_running_loop() is not self._loop:
            self._home.check()
            self._loop = _get_running_loop()
        endpoint = self._service.pick(now)
        if endpoint is None or self.closed:
            raise self._refusal()
        return endpoint
