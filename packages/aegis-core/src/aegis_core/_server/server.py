"""The mesh server: one TLS port for the mesh's own services and the user's."""

from __future__ import annotations

import asyncio
import logging
import socket
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
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from aegis_core._access.authorization import CallAuthorizer
from aegis_core._address import bound_address
from aegis_core._health.checks import HealthInfo
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
"""Seconds that watchers have to take the news that this node leaves."""

DRAIN_SILENCE = 0.2
"""Seconds without a new call after which callers have heard that this node leaves."""

CLOSE_GRACE = 0.5
"""Seconds at most for calls of the mesh protocol that come at the very end, and feeds that end."""

HANDLER_THREADS = 16
"""Threads that run handlers which are no coroutines."""

OWN_SERVICES = (*sorted(OPEN_SERVICES), reflection.SERVICE_NAME)
"""What every node serves beside the user's services."""


class MeshServer:
    """Serves the mesh protocol, standard health and reflection, and the user's own services.

    Args:
        tls: Who this server is; callers must show a certificate of the same trust bundle.
        address: `host:port` to listen on; port 0 takes a free one.
        own: What the mesh's services need of their node.
        stats: Takes a snapshot of the whole node.
        registrars: Add the user's services.
        interceptors: gRPC server interceptors around all services.
        max_concurrent_calls: Of the user's services; None for no limit.
    """

    def __init__(
        self,
        tls: TLSConfig,
        address: str,
        own: LocalNode,
        *,
        stats: Callable[[], NodeStats],
        registrars: Sequence[Registrar] = (),
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        max_concurrent_calls: int | None = None,
    ) -> None:
        self._host, self._port = bound_address(address)
        self._topology = own.topology
        self._judge = CallAuthorizer(own.check, self._type_of)
        self._intake: AdmissionControl[asyncio.Task[Any]] = AdmissionControl(max_concurrent_calls)
        self._threads = HandlerThreads(HANDLER_THREADS)
        self._guard = CallerInterceptor(
            self._judge,
            self._intake,
            self._threads,
            for_everybody=OPEN_SERVICES,
            uncounted=OWN_SERVICES,
        )
        self._feeds = FeedService(own)
        self._health = health_aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=(self._guard, *interceptors),
            # Without this, a second process on the same port would get every other connection.
            options=(("grpc.so_reuseport", 0), ("grpc.http2.bdp_probe", 0)),
        )
        registry: Any = _Registry(self._server)
        for registrar in registrars:
            registrar(registry)
        self.services = tuple(sorted(registry.names))
        aegis_pb2_grpc.add_MeshServiceServicer_to_server(UnsignedProtocolService(own), registry)
        mesh_pb2_grpc.add_MeshServicer_to_server(self._feeds, registry)
        stats_pb2_grpc.add_IntrospectionServicer_to_server(Introspection(stats), registry)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, registry)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            reflection.aio.ReflectionServicer((*self.services, *OWN_SERVICES)), registry
        )
        self._identity = _ServerIdentity(tls)
        self._bind()

    def __repr__(self) -> str:
        return f"<MeshServer {self.address} services={list(self.services)}>"

    @property
    def address(self) -> str:
        """The address that is bound, with the real port."""
        return join_address(self._host, self._port)

    @property
    def port(self) -> int:
        """The port that is bound."""
        return self._port

    @property
    def watchers(self) -> frozenset[str]:
        """Ids of those who hold a feed of this node open."""
        return self._feeds.watchers

    @property
    def feeds_served(self) -> int:
        """How many feeds were opened so far."""
        return self._feeds.served

    @property
    def calls(self) -> CallStats:
        """What became of the calls that came so far."""
        intake, guard = self._intake, self._guard
        return CallStats(
            begun=intake.begun,
            running=len(intake.running),
            limit=intake.limit,
            shed=intake.shed,
            late=intake.late,
            denied=guard.denied,
            refused=guard.refused,
        )

    @property
    def has_policy(self) -> bool:
        """Whether a policy says who may call what."""
        return self._judge.policy is not None

    async def start(self) -> None:
        """Begins to serve."""
        await self._server.start()

    async def revalidate_callers(self) -> None:
        """Ends open streams of callers that are not allowed any more; runs until cancelled."""
        await self._guard.run()

    async def set_health(self, info: HealthInfo) -> None:
        """Passes the node's health on to the standard health service."""
        serving = info.status is not HealthStatus.UNHEALTHY
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", *self.services):
            await self._health.set(name, status)

    async def end_feeds(self) -> frozenset[str]:
        """Ends all feeds with the last news; returns the ids of those who took them.

        They go first: who watches this node goes on with another one that still hears news.
        """
        await self._health.enter_graceful_shutdown()
        return await self._feeds.close(FEED_END_TIMEOUT)

    async def stop(self, grace: float) -> None:
        """Lets calls in flight finish, then closes.

        Args:
            grace: Seconds that calls in flight have; what still runs then is ended.
        """
        await drain(self._guard, self._intake, grace, silence=DRAIN_SILENCE)
        # Whatever the grace: a reader throws away the last news of a feed that did not end.
        await self._server.stop(CLOSE_GRACE)
        self._threads.close()

    def change_identity(self, tls: TLSConfig) -> None:
        """Serves new connections with another certificate or bundle; open ones go on."""
        self._identity.change(tls)

    def set_policy(self, policy: Policy | None) -> None:
        """Lets in who may call by another policy; open streams that it denies are ended."""
        self._judge.take(policy)

    def _type_of(self, node_id: str) -> str | None:
        node = self._topology.get_node(node_id)
        return node.type if node else None

    def _bind(self) -> None:
        credentials = grpc.dynamic_ssl_server_credentials(
            self._identity.current,
            self._identity.fetch,  # type: ignore[arg-type]  # the stub forgets None: unchanged
            require_client_authentication=True,
        )
        try:
            self._port = self._server.add_secure_port(self.address, credentials)
        except RuntimeError as error:
            raise AddressInUseError(self.address, _why_not(self._host, self._port)) from error


class _ServerIdentity:
    """Hands gRPC the certificate to serve new connections with."""

    def __init__(self, tls: TLSConfig) -> None:
        self.current = _configuration(tls)
        self._changed: grpc.ServerCertificateConfiguration | None = None

    def change(self, tls: TLSConfig) -> None:
        self._changed = _configuration(tls)

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Answers gRPC, which asks on a thread of its own at each new connection."""
        changed, self._changed = self._changed, None
        return changed


def _configuration(tls: TLSConfig) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(tls.private_key, tls.certificate_chain)], root_certificates=tls.trust_bundle
    )


class _Registry:
    """Stands in for the server while services are added, and writes down their names.

    What a node itself serves is under no policy and no limit, so that no handler that takes any
    call is asked for it. No method is registered with gRPC's core, as generated code also does:
    with each one, every call to the server gets dearer (1.85 waits for all of them anew).
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.names: set[str] = set()

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        named = [one for one in handlers if isinstance(one, grpc.ServiceRpcHandler)]
        self.names.update(handler.service_name() for handler in named)
        self._server.add_generic_rpc_handlers(
            [handler if handler in named else _OnlyTheUsers(handler) for handler in handlers]
        )

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        if service_name not in self.names:
            handler = grpc.method_handlers_generic_handler(service_name, method_handlers)
            self.add_generic_rpc_handlers((handler,))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class _OnlyTheUsers(grpc.GenericRpcHandler):
    """A handler of the user's that may take any call, except of what every node serves."""

    def __init__(self, inner: grpc.GenericRpcHandler) -> None:
        self._inner = inner

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        service, _ = split_method(handler_call_details.method)
        return None if service in OWN_SERVICES else self._inner.service(handler_call_details)


def _why_not(host: str, port: int) -> str:
    """Asks the system itself why an address cannot be bound; gRPC does not tell."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "gRPC refused it"
