"""The mesh server: one TLS port for the mesh's own services and the user's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from aegis_certs import TLSConfig
from aegis_discovery import HealthStatus
from aegis_discovery.policy import OPEN_SERVICES, Policy, split_method
from aegis_discovery.proto import aegis_pb2_grpc, mesh_pb2_grpc, stats_pb2_grpc
from aegis_discovery.transport import join_address
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from aegis_core._access.authorization import CallAuthorizer
from aegis_core._address import bind_error, bound_address, describe_os_error
from aegis_core._health.checks import HealthInfo
from aegis_core._server import reflection
from aegis_core._server.admission import AdmissionControl
from aegis_core._server.drain import drain
from aegis_core._server.interceptor import CallerInterceptor
from aegis_core._server.introspection import Introspection
from aegis_core._server.mesh_services import FeedService, LocalNode, UnsignedProtocolService
from aegis_core._server.thread_pool import HandlerThreads
from aegis_core._stats import CallStats, NodeStats
from aegis_core.errors import AddressInUseError

_log = logging.getLogger("aegis.server")

Registrar = Callable[[Any], object]
"""Adds a service to a server, such as `lambda s: add_GreeterServicer_to_server(Greeter(), s)`."""

FEED_END_TIMEOUT = 1.0
"""Seconds that watchers have to read the last message of their feed, that this node left."""

DRAIN_SILENCE = 0.2
"""Seconds without a new call after which callers are taken to know that this node leaves."""

CLOSE_GRACE = 0.5
"""Seconds that gRPC's own stop gives to late calls of the mesh protocol, and to ending feeds."""

OWN_SERVICES = (*sorted(OPEN_SERVICES), *reflection.SERVICES)
"""The services that every node serves besides the user's."""


class MeshServer:
    """Serves the mesh protocol, standard health and reflection, and the user's own services.

    Args:
        tls: The server's identity; callers must show a certificate of the same trust bundle.
        address: `host:port` to listen on; port 0 takes a free port.
        local_node: What the mesh's services need of their node.
        stats: Returns a snapshot of the whole node.
        registrars: Functions that add the user's services.
        interceptors: gRPC server interceptors around all services.
        max_concurrent_calls: How many calls of the user's services may run at the same time; None
            for no limit.
        max_workers: The largest number of threads of handlers that are not coroutines.
        options: gRPC channel arguments, which override ours.
    """

    def __init__(
        self,
        tls: TLSConfig,
        address: str,
        local_node: LocalNode,
        *,
        stats: Callable[[], NodeStats],
        registrars: Sequence[Registrar] = (),
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        max_concurrent_calls: int | None = None,
        max_workers: int,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._host, self._port = bound_address(address)
        self._topology = local_node.topology
        self._authorizer = CallAuthorizer(local_node.caller_verifier, self._type_of)
        self._admission = AdmissionControl[asyncio.Task[Any]](max_concurrent_calls)
        self._threads = HandlerThreads(max_workers)
        self._interceptor = CallerInterceptor(
            self._authorizer,
            self._admission,
            self._threads,
            open_services=OPEN_SERVICES,
            own_services=OWN_SERVICES,
        )
        self._feeds = FeedService(local_node)
        self._health = health_aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=(self._interceptor, *interceptors),
            # With it, a second process on the same port would get every other connection.
            options=(*options, ("grpc.so_reuseport", 0), ("grpc.http2.bdp_probe", 0)),
        )
        recorder: Any = _ServiceRecorder(self._server)
        for registrar in registrars:
            registrar(recorder)
        self.services = tuple(sorted(recorder.names))
        unsigned_protocol = UnsignedProtocolService(local_node)
        aegis_pb2_grpc.add_MeshServiceServicer_to_server(unsigned_protocol, recorder)
        mesh_pb2_grpc.add_MeshServicer_to_server(self._feeds, recorder)
        stats_pb2_grpc.add_IntrospectionServicer_to_server(Introspection(stats), recorder)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, recorder)
        reflection.add_reflection((*self.services, *OWN_SERVICES), recorder)
        self._changed_identity: grpc.ServerCertificateConfiguration | None = None
        self._bind(tls)

    def __repr__(self) -> str:
        return f"<MeshServer {self.address} services={list(self.services)}>"

    @property
    def address(self) -> str:
        """The address that the server is bound to, with the real port."""
        return join_address(self._host, self._port)

    @property
    def port(self) -> int:
        """The port that the server is bound to."""
        return self._port

    @property
    def watchers(self) -> frozenset[str]:
        """Ids of the nodes and clients that hold a feed of this node open."""
        return self._feeds.watchers

    @property
    def feeds_served(self) -> int:
        """How many feeds were opened so far."""
        return self._feeds.served

    @property
    def calls(self) -> CallStats:
        """Counts of the calls that arrived so far, by outcome."""
        admission = self._admission
        return CallStats(
            begun=admission.begun,
            running=len(admission.running),
            limit=admission.limit,
            shed=admission.shed,
            late=admission.arrived_after_close,
            denied=self._interceptor.denied,
            refused=self._interceptor.refused,
        )

    @property
    def has_policy(self) -> bool:
        """Whether a policy decides which calls are allowed."""
        return self._authorizer.policy is not None

    async def start(self) -> None:
        """Starts to serve."""
        await self._server.start()

    async def revalidate_callers(self) -> None:
        """Ends open streams of callers that are not allowed any more; runs until cancelled."""
        await self._interceptor.revalidate_callers()

    async def set_health(self, info: HealthInfo) -> None:
        """Publishes the node's health in the standard health service."""
        response = health_pb2.HealthCheckResponse
        is_unhealthy = info.status is HealthStatus.UNHEALTHY
        status = response.NOT_SERVING if is_unhealthy else response.SERVING
        for name in ("", *self.services):
            await self._health.set(name, status)

    async def end_feeds(self) -> frozenset[str]:
        """Ends all feeds with their last message; returns the ids of the watchers that read it.

        Feeds end before calls, so that watchers switch to a node that still receives changes.
        """
        await self._health.enter_graceful_shutdown()
        return await self._feeds.close(FEED_END_TIMEOUT)

    async def stop(self, grace: float) -> None:
        """Lets calls in flight finish, then closes.

        Args:
            grace: Seconds that calls in flight have; calls that still run then are ended.
        """
        await drain(self._interceptor, self._admission, grace, silence=DRAIN_SILENCE)
        # Even if the grace is 0: a reader discards the last message of a feed that did not end.
        await self._server.stop(CLOSE_GRACE)
        self._threads.close()

    def change_identity(self, tls: TLSConfig) -> None:
        """Uses another certificate or trust bundle for new connections; open ones continue."""
        self._changed_identity = _configuration(tls)

    def set_policy(self, policy: Policy | None) -> None:
        """Decides by this policy from now on; open streams that it denies are ended."""
        self._authorizer.set_policy(policy)

    def _type_of(self, node_id: str) -> str | None:
        node = self._topology.get_node(node_id)
        return node.type if node else None

    def _bind(self, tls: TLSConfig) -> None:
        credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(tls),
            self._fetch_identity,  # type: ignore[arg-type]  # the stub lacks None, for unchanged
            require_client_authentication=True,
        )
        try:
            self._port = self._server.add_secure_port(self.address, credentials)
        except RuntimeError as error:
            problem = bind_error(self._host, self._port)
            reason = describe_os_error(problem) if problem else "gRPC refused it"
            raise AddressInUseError(self.address, reason) from error

    def _fetch_identity(self) -> grpc.ServerCertificateConfiguration | None:
        # gRPC asks at each new connection, on a thread of its own.
        changed, self._changed_identity = self._changed_identity, None
        return changed


def _configuration(tls: TLSConfig) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(tls.private_key, tls.certificate_chain)], root_certificates=tls.trust_bundle
    )


class _ServiceRecorder:
    """Passes services on to the server, and records the names of those that are added.

    A handler of the user's that serves any method is not asked for a node's own services, which
    have no policy and no limit. No method is registered with gRPC's core, as generated code also
    does: each registered method makes every call to the server slower (gRPC 1.85 waits for all
    of them again at each call).
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.names: set[str] = set()

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        named = [h for h in handlers if isinstance(h, grpc.ServiceRpcHandler)]
        self.names.update(handler.service_name() for handler in named)
        self._server.add_generic_rpc_handlers(
            [handler if handler in named else _UserServicesOnly(handler) for handler in handlers]
        )

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        if service_name not in self.names:
            handler = grpc.method_handlers_generic_handler(service_name, method_handlers)
            self.add_generic_rpc_handlers((handler,))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class _UserServicesOnly(grpc.GenericRpcHandler):
    """A generic handler of the user's that is not asked for a node's own services."""

    def __init__(self, inner: grpc.GenericRpcHandler) -> None:
        self._inner = inner

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        service, _ = split_method(handler_call_details.method)
        return None if service in OWN_SERVICES else self._inner.service(handler_call_details)
