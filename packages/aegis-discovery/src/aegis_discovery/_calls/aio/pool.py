"""The async client pool."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from asyncio import _get_running_loop  # unlike the public one, it never raises
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio
from aegis_certs import TLSConfig

from aegis_discovery._calls.aio.channel import BalancedChannel, BorrowedChannel
from aegis_discovery._calls.aio.ended import result_of
from aegis_discovery._calls.aio.no_providers import NoProvidersRpcError
from aegis_discovery._calls.endpoint import Endpoint
from aegis_discovery._calls.pool_base import PROBE, PROBE_TIMEOUT, BasePool
from aegis_discovery._calls.router import Router
from aegis_discovery._calls.selection import ServiceEndpoints
from aegis_discovery._calls.views import MayProvide, ViewBuilder
from aegis_discovery.transport._aio_channels import ChannelCache, LoopBound
from aegis_discovery.transport._shared import Options

_log = logging.getLogger("aegis.pool")

if TYPE_CHECKING:
    from aegis_discovery._calls.balancers import Balancer
    from aegis_discovery.telemetry import OpenTelemetry


class ServiceClientPool(BasePool[grpc.aio.Channel]):
    """Calls services by name and balances the calls over their providers, with mutual TLS.

    A pool belongs to the event loop of its first call. Its arguments and its behaviour are those of
    `aegis_discovery.ServiceClientPool`, but its `interceptors` are those of `grpc.aio`, and shared
    `channels` have interceptors of their own.

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
        views: ViewBuilder[grpc.aio.Channel] = ViewBuilder(region, zone, may_provide)
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
            interceptors = [_skip_probes(one) for one in interceptors]
            channels = ChannelCache(tls, interceptors=interceptors, options=options)
        elif interceptors or options:
            raise ValueError("shared channels bring their own interceptors and options")
        self._channels = channels
        self._home = LoopBound("pool")

    def channel(self, name: str, version: str, *, retry: bool | None = None) -> grpc.aio.Channel:
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

    def get_conn(self, name: str, version: str) -> grpc.aio.Channel:
        """Returns the channel of one provider, chosen by the balancer; closing it does nothing.

        Raises:
            NoProvidersError: If the service has no provider.
            ClosedError: If the pool was closed.
        """
        endpoint = self._router(name, version).pick(time.monotonic())
        telemetry = self._telemetry_of(name, version)
        return BorrowedChannel(endpoint, self._connect(endpoint), telemetry)

    def _router(self, name: str, version: str) -> Router[grpc.aio.Channel]:
        return _LoopRouter(self._registry.service(name, version), self._home)

    def _connect(self, endpoint: Endpoint[grpc.aio.Channel]) -> grpc.aio.Channel:
        channel = endpoint.channel
        if channel is None:
            channel = self._channels.get(endpoint.node_id, endpoint.address)
            endpoint.channel = channel
        return channel

    def _start_probe(self, endpoint: Endpoint[grpc.aio.Channel]) -> None:
        channel: Any = self._connect(endpoint)
        probe = channel.unary_unary(PROBE)(
            b"", timeout=PROBE_TIMEOUT, wait_for_ready=endpoint.excluded
        )

        loop = asyncio.get_running_loop()

        def end(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(probe.cancel)

        def ended(probe: Any) -> None:
            del references[:]
            probed = kept()
            if probed is None:
                return
            code = grpc.StatusCode.UNAVAILABLE
            try:
                code = result_of(probe).code
            except Exception:  # noqa: BLE001 - an interceptor's own error is not an answer
                _log.debug("%r was not probed", probed, exc_info=True)
            self._probe_ended(probed, code)

        # gRPC closes a channel and cancels a call that nothing references. If the endpoint is
        # dropped meanwhile, so is its channel: the next one of that node connects at once.
        references = [channel, probe]
        kept = weakref.ref(endpoint, end)
        probe.add_done_callback(ended)

    async def close(self, grace: float | None = None) -> None:
        """Refuses further calls and closes the connections.

        Args:
            grace: Seconds that calls under way have to end before they are cancelled; None for 0.
        """
        connected = self._registry.close()  # without a reference a channel cannot be closed
        if self._owns_channels:
            await self._channels.close(grace)
        del connected

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _SkipProbes(grpc.aio.UnaryUnaryClientInterceptor):
    """Hides the probes of the pool from an interceptor of the user."""

    def __init__(self, inner: grpc.aio.UnaryUnaryClientInterceptor) -> None:
        self._inner = inner

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        if details.method in (PROBE, PROBE.encode()):
            return await continuation(details, request)
        return await self._inner.intercept_unary_unary(continuation, details, request)


def _skip_probes(interceptor: grpc.aio.ClientInterceptor) -> grpc.aio.ClientInterceptor:
    if isinstance(interceptor, grpc.aio.UnaryUnaryClientInterceptor):
        return _SkipProbes(interceptor)
    return interceptor


class _LoopRouter(Router[grpc.aio.Channel]):
    """A router for one event loop: the channels of gRPC would hang in another one.

    Attributes:
        loop: The loop in which `check` found all well; no loop before that, and when it is closed.
    """

    __slots__ = ("_home", "loop")

    def __init__(self, service: ServiceEndpoints[grpc.aio.Channel], home: LoopBound) -> None:
        super().__init__(service, NoProvidersRpcError)
        self._home = home
        self.loop: object = self

    def check_open(self) -> None:
        self._home.check()
        super().check_open()

    def pick(self, now: float) -> Endpoint[grpc.aio.Channel]:
        if _get_running_loop() is not self.loop:
            self.check()
        return super().pick(now)

    def check(self) -> None:
        """Checks the running loop, and that the channel is open, before a call."""
        self._home.check()
        if self.closed:
            raise self.pick_error()
        self.loop = _get_running_loop()

    def close(self) -> None:
        super().close()
        self.loop = self
