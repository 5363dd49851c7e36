"""The mesh server on `grpc.server`: one TLS port for the mesh's own services and the user's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from aegis_certs import TLSConfig
from aegis_discovery.background import stacks_of_own_size
from aegis_discovery.proto import (
    aegis_pb2_grpc,
    mesh_pb2_grpc,
    operations_pb2_grpc,
    stats_pb2_grpc,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aegis_core._access.issuer_callers import ISSUER
from aegis_core._health.checks import HealthInfo
from aegis_core._server import base, reflection
from aegis_core._server.base import OWN_OPTIONS, CheckedServices, Registrar, ServerBase
from aegis_core._server.drain import drain
from aegis_core._server.held.own_requests import bounded
from aegis_core._server.introspection import NodeIntrospection
from aegis_core._server.mesh_protocol import LocalNode
from aegis_core._server.operations import NodeOperations
from aegis_core._server.rejections import Rejection
from aegis_core._server.sync.calls import ServerCall
from aegis_core._server.sync.coroutines import CoroutineHandlers
from aegis_core._server.sync.handlers import present
from aegis_core._server.sync.interceptor import CallerInterceptor, CheckedHandler
from aegis_core._server.sync.mesh_services import (
    FeedService,
    HealthService,
    Introspection,
    LivenessService,
    NodeLoop,
    limited_in_time,
)
from aegis_core._server.sync.operations import Operations
from aegis_core._server.sync.streams import StreamSenders
from aegis_core._server.sync.threads import CallThreads

if TYPE_CHECKING:
    from aegis_discovery.telemetry import OpenTelemetry

    from aegis_core._server.issuer import IssuerService

OWN_THREADS = 4
"""Threads of each part of the node's own services; none of them waits for a caller."""

# The CA signs one certificate at a time.
_THREADS = {"alive": OWN_THREADS, "mesh": OWN_THREADS, "reflection": OWN_THREADS, "issuer": 1}

STOP_POLL_INTERVAL = 0.01
"""Seconds between two checks whether gRPC has closed the server."""

# What waits for the node's event loop has other threads than what shows that the node is alive.
_WAIT_FOR_LOOP = {
    "/aegis.MeshService/SyncTopology",
    "/aegis.MeshService/GetTopology",
    "/aegis.mesh.v1.Mesh/Watch",
    "/aegis.mesh.v1.Introspection/GetStats",
    "/aegis.mesh.v1.Introspection/Explain",
    "/aegis.mesh.v1.Operations/Drain",
}


class BlockingServer(ServerBase[ServerCall]):
    """Serves as `aegis_core.aio.MeshServer`, with the same arguments, for a node that blocks.

    It is created and used on the node's event loop, which no call of the user's services passes.
    """

    def __init__(
        self,
        tls: TLSConfig,
        address: str,
        local_node: LocalNode,
        *,
        introspection: NodeIntrospection,
        registrars: Sequence[Registrar] = (),
        interceptors: Sequence[grpc.ServerInterceptor] = (),
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
        checks, loop = self._checks, NodeLoop(asyncio.get_running_loop())
        self._threads = CallThreads(max_workers, "aegis-handler", checks, self._admission)
        self._own_threads = {
            part: CallThreads(count, f"aegis-{part}", checks) for part, count in _THREADS.items()
        }
        self._coroutines = CoroutineHandlers()
        self._senders = StreamSenders("aegis-sender")
        self._feeds = FeedService(local_node, loop, self._senders)
        self._health = HealthService(self._senders)
        own: dict[str, CheckedHandler] = {}
        self._interceptor = CallerInterceptor(checks, self._threads, self._coroutines, own)
        self._server, services = _new_server(
            self._threads, self._interceptor, own, interceptors, (*options, *OWN_OPTIONS)
        )
        recorder: Any = base.ServiceRecorder(self._server, services)
        for registrar in registrars:
            registrar(recorder)
        self.services = self._checks.services = tuple(sorted(recorder.names))
        methods: Any = _OwnMethods()
        aegis_pb2_grpc.add_MeshServiceServicer_to_server(LivenessService(local_node, loop), methods)
        mesh_pb2_grpc.add_MeshServicer_to_server(self._feeds, methods)
        stats_pb2_grpc.add_IntrospectionServicer_to_server(
            Introspection(introspection, loop), methods
        )
        operations = Operations(NodeOperations(local_node), loop)
        operations_pb2_grpc.add_OperationsServicer_to_server(operations, methods)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        if issuer is not None:
            from aegis_discovery.proto import issuer_pb2_grpc  # few nodes issue

            from aegis_core._server.sync.certificates import CertificateService

            certificates = CertificateService(issuer, local_node, self._checks.block)
            issuer_pb2_grpc.add_IssuerServicer_to_server(certificates, methods)
        reflection.add_reflection((*self.services, *self._own_services), methods, is_async=False)
        own.update(
            {path: self._with_checks(path, handler) for path, handler in methods.handlers.items()}
        )
        self._bind(tls)

    @property
    def watchers(self) -> frozenset[str]:
        return self._feeds.watchers

    @property
    def feeds_served(self) -> int:
        return self._feeds.served

    async def start(self) -> None:
        with stacks_of_own_size():
            self._server.start()

    async def revalidate_callers(self) -> None:
        await self._interceptor.revalidate_callers(self._threads, *self._own_threads.values())

    def end_call(self, call: ServerCall, rejection: Rejection) -> None:
        call.end(rejection)

    async def set_health(self, info: HealthInfo) -> None:
        response = health_pb2.HealthCheckResponse
        status = response.SERVING if self.serves(info) else response.NOT_SERVING
        self._health.set(status, "", *self.services)

    def note_loop_turn(self) -> None:
        super().note_loop_turn()
        self._health.note_loop_turn()

    async def end_feeds(self) -> frozenset[str]:
        self._health.leave()
        return await self._feeds.close(base.FEED_END_TIMEOUT)

    async def stop(self, grace: float) -> None:
        await drain(self._admission, self._interceptor.end_calls, grace, silence=base.DRAIN_SILENCE)
        stopped = self._server.stop(base.CLOSE_GRACE)
        loop = asyncio.get_running_loop()
        # gRPC cancels what is left after the grace. Nothing may wait for longer than that.
        deadline = loop.time() + 2 * base.CLOSE_GRACE
        while not stopped.is_set() and loop.time() < deadline:  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(STOP_POLL_INTERVAL)
        self._senders.close()
        for threads in (self._threads, *self._own_threads.values()):
            threads.shutdown()
        self._coroutines.close()

    def _with_checks(self, path: str, handler: Any) -> CheckedHandler:
        service, part = path.split("/")[1], "alive"
        if service in reflection.SERVICES:
            handler, part = limited_in_time(handler), "reflection"
        elif path in _WAIT_FOR_LOOP:
            part = "mesh"
        elif service == ISSUER:
            part = "issuer"
        checked = present(bounded(service, handler), path, self._own_threads[part])
        return CheckedHandler(handler, checked, is_limited=False)


def _new_server(
    threads: CallThreads,
    checks: CallerInterceptor,
    own: dict[str, CheckedHandler],
    interceptors: Sequence[grpc.ServerInterceptor],
    options: Sequence[tuple[str, Any]],
) -> tuple[Any, Any]:
    """Returns gRPC's server, and what to add services to."""
    if interceptors:  # what they put around a handler runs after the checks
        server = grpc.server(threads, interceptors=[checks, *interceptors], options=options)
        return server, server
    services = CheckedServices(checks, own)
    return grpc.server(threads, handlers=[services], options=options), services


class _OwnMethods:
    """Takes the node's own services from generated code, in place of a server."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, _: Sequence[grpc.GenericRpcHandler]) -> None: ...

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        for name, handler in method_handlers.items():
            self.handlers[f"/{service_name}/{name}"] = handler
