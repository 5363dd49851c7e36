"""The mesh server on `grpc.aio`: one TLS port for the mesh's own services and the user's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
from aegis_certs import TLSConfig
from aegis_discovery.background import stacks_of_own_size, timers_outside_loop
from aegis_discovery.proto import (
    aegis_pb2_grpc,
    mesh_pb2_grpc,
    operations_pb2_grpc,
    stats_pb2_grpc,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from aegis_core._health.checks import HealthInfo
from aegis_core._server import base, reflection
from aegis_core._server.aio.grpc_internals import new_server
from aegis_core._server.aio.interceptor import CallerInterceptor
from aegis_core._server.aio.lost_callers import log_lost_callers_quietly
from aegis_core._server.aio.mesh_services import (
    FeedService,
    Introspection,
    Operations,
    UnsignedProtocolService,
)
from aegis_core._server.aio.thread_pool import HandlerThreads
from aegis_core._server.base import OWN_OPTIONS, Registrar, ServerBase
from aegis_core._server.drain import drain
from aegis_core._server.held.own_requests import OwnServices
from aegis_core._server.introspection import NodeIntrospection
from aegis_core._server.mesh_protocol import LocalNode
from aegis_core._server.operations import NodeOperations
from aegis_core._server.rejections import Rejection

if TYPE_CHECKING:
    from aegis_discovery.telemetry import OpenTelemetry

    from aegis_core._server.aio.certificates import CertificateService
    from aegis_core._server.issuer import IssuerService


class MeshServer(ServerBase[asyncio.Task[Any]]):
    """Serves the mesh protocol, standard health and reflection, and the user's own services.

    Args:
        tls: The server's identity; callers must show a certificate of the same trust bundle.
        address: `host:port` to listen on; port 0 takes a free port.
        local_node: What the mesh's services need of their node.
        introspection: What the node tells operators.
        registrars: Functions that add the user's services.
        interceptors: gRPC server interceptors around all services.
        max_concurrent_calls: How many calls of the user's services may run at the same time; None
            for no limit.
        max_calls_per_caller: How many calls one caller may have open, times its live workers.
        max_workers: The largest number of threads of handlers that are not coroutines.
        options: gRPC channel arguments, which override ours.
        issuer: Issues certificates to the mesh; None on nodes that do not.
        telemetry: Traces and measures the calls of the user's services.
    """

    def __init__(
        self,
        tls: TLSConfig,
        address: str,
        local_node: LocalNode,
        *,
        introspection: NodeIntrospection,
        registrars: Sequence[Registrar] = (),
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        max_concurrent_calls: int | None = None,
        max_calls_per_caller: int,
        max_workers: int,
        options: Sequence[tuple[str, Any]] = (),
        issuer: IssuerService | None = None,
        telemetry: OpenTelemetry | None = None,
    ) -> None:
        super().__init__(
            address,
            local_node,
            max_concurrent_calls=max_concurrent_calls,
            is_issuer=issuer is not None,
            max_calls_per_caller=max_calls_per_caller,
            options=options,
            telemetry=telemetry,
        )
        self._threads = HandlerThreads(max_workers)
        self._timers = contextlib.ExitStack()
        self._interceptor = CallerInterceptor(self._checks, self._threads)
        self._feeds = FeedService(local_node)
        self._health = health_aio.HealthServicer()
        log_lost_callers_quietly()
        self._server, services = _new_server(self._interceptor, interceptors, options)
        recorder: Any = base.ServiceRecorder(self._server, services)
        for registrar in registrars:
            registrar(recorder)
        self.services = self._checks.services = tuple(sorted(recorder.names))
        own: Any = OwnServices(recorder)
        unsigned_protocol = UnsignedProtocolService(local_node)
        aegis_pb2_grpc.add_MeshServiceServicer_to_server(unsigned_protocol, own)
        mesh_pb2_grpc.add_MeshServicer_to_server(self._feeds, own)
        stats_pb2_grpc.add_IntrospectionServicer_to_server(Introspection(introspection), own)
        operations = Operations(NodeOperations(local_node))
        operations_pb2_grpc.add_OperationsServicer_to_server(operations, own)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, own)
        self._certificates: CertificateService | None = None
        if issuer is not None:
            from aegis_discovery.proto import issuer_pb2_grpc  # few nodes issue

            from aegis_core._server.aio.certificates import CertificateService

            self._certificates = CertificateService(issuer, local_node.topology, self._checks.block)
            issuer_pb2_grpc.add_IssuerServicer_to_server(self._certificates, own)
        reflection.add_reflection((*self.services, *self._own_services), recorder, is_async=True)
        self._bind(tls)

    @property
    def watchers(self) -> frozenset[str]:
        return self._feeds.watchers

    @property
    def feeds_served(self) -> int:
        return self._feeds.served

    async def start(self) -> None:
        self._timers.enter_context(timers_outside_loop())  # in the loop they delay each call
        await self._server.start()

    async def revalidate_callers(self) -> None:
        await self._interceptor.revalidate_callers()

    def end_call(self, call: asyncio.Task[Any], rejection: Rejection) -> None:
        self._interceptor.end_call(call, rejection)

    async def set_health(self, info: HealthInfo) -> None:
        response = health_pb2.HealthCheckResponse
        status = response.SERVING if self.serves(info) else response.NOT_SERVING
        for name in ("", *self.services):
            await self._health.set(name, status)

    async def end_feeds(self) -> frozenset[str]:
        await self._health.enter_graceful_shutdown()
        return await self._feeds.close(base.FEED_END_TIMEOUT)

    async def stop(self, grace: float) -> None:
        await drain(self._admission, self._interceptor.end_calls, grace, silence=base.DRAIN_SILENCE)
        # Even if the grace is 0: a reader discards the last message of a feed that did not end.
        await self._server.stop(base.CLOSE_GRACE)
        self._threads.close()
        self._timers.close()
        if self._certificates is not None:
            self._certificates.close()


def _new_server(
    checks: CallerInterceptor,
    interceptors: Sequence[grpc.aio.ServerInterceptor],
    options: Sequence[tuple[str, Any]],
) -> tuple[Any, Any]:
    """Returns gRPC's server, and what to add services to."""
    options = (*options, *OWN_OPTIONS)
    with stacks_of_own_size():  # the first server starts the thread in which gRPC polls
        if interceptors:  # what they put around a handler runs after the checks
            server: Any = new_server((), (checks, *interceptors), options)
            return server, server
        return new_server((checks,), (), options), checks
