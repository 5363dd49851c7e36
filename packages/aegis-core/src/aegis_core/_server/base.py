"""What the servers of both faces of a node have in common: port, identity, policy and counts."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol

import grpc
from aegis_certs import TLSConfig
from aegis_discovery import HealthStatus, NodeStatus
from aegis_discovery.policy import OPEN_SERVICES, split_method
from aegis_discovery.transport import join_address

from aegis_core._access.authorization import CallAuthorizer
from aegis_core._access.issuer_callers import ISSUER
from aegis_core._address import bind_error, bound_address, describe_os_error
from aegis_core._health.checks import HealthInfo
from aegis_core._server import reflection
from aegis_core._server.admission import AdmissionControl
from aegis_core._server.call_checks import MAX_HEADERS, CallChecks, CallT
from aegis_core._server.caller_limits import CallerLimits
from aegis_core._server.caller_sockets import CallerSockets
from aegis_core._server.connection_guard import ConnectionGuard, MessageGuard
from aegis_core._server.connection_limits import ConnectionLimits
from aegis_core._server.held.channelz import ServerCounts
from aegis_core._server.held.flood_guard import FloodGuard
from aegis_core._server.held.frame_guard import FrameGuard
from aegis_core._server.held.running_requests import USUAL_MESSAGE
from aegis_core._server.mesh_protocol import LocalNode, live_workers
from aegis_core._server.operations import OPERATIONS
from aegis_core._server.rejections import Rejection
from aegis_core._server.telemetry import warn_of_no_provider
from aegis_core.errors import AddressInUseError

if TYPE_CHECKING:
    from aegis_discovery import EdgeStats
    from aegis_discovery.policy import Policy
    from aegis_discovery.telemetry import OpenTelemetry

    from aegis_core._stats import CallStats

Registrar = Callable[[Any], object]
"""Adds a service to a server, such as `lambda s: add_GreeterServicer_to_server(Greeter(), s)`."""

FEED_END_TIMEOUT = 1.0
"""Seconds that watchers have to read the last message of their feed, that this node left."""

DRAIN_SILENCE = 0.2
"""Seconds without a new call after which callers are taken to know that this node leaves."""

CLOSE_GRACE = 0.5
"""Seconds that gRPC's own stop gives to late calls of the mesh protocol, and to ending feeds."""

LARGEST_MESSAGE = 2**31 - 1
"""Bytes of a message where its length is not limited: gRPC's own limit."""

OWN_SERVICES = (*sorted(OPEN_SERVICES), OPERATIONS, *reflection.SERVICES)
"""The services that every node serves besides the user's."""

# With SO_REUSEPORT, a second process on the same port would get every other connection.
OWN_OPTIONS = (("grpc.so_reuseport", 0), ("grpc.http2.bdp_probe", 0))


class ServerBase(ABC, Generic[CallT]):
    """One TLS port, the identity that it shows, and the checks of its calls.

    A node does not care which server it has: it knows this class. All coroutines run on the event
    loop of the node.

    Args:
        address: `host:port` to listen on; port 0 takes a free port.
        local_node: What the mesh's services need of their node.
        max_concurrent_calls: How many calls of the user's services may run at the same time; None
            for no limit.
        is_issuer: Whether it serves the issuer's methods.
        max_calls_per_caller: How many calls one caller may have open, times its live workers.
        options: gRPC channel arguments.
        telemetry: Traces and measures the calls of the user's services.

    Attributes:
        services: Full names of the user's gRPC services.
    """

    services: tuple[str, ...] = ()
    _server: Any

    def __init__(
        self,
        address: str,
        local_node: LocalNode,
        *,
        max_concurrent_calls: int | None,
        is_issuer: bool,
        max_calls_per_caller: int,
        options: Sequence[tuple[str, Any]],
        telemetry: OpenTelemetry | None = None,
    ) -> None:
        self._host, self._port = bound_address(address)
        self._node_id = local_node.node_id
        self._topology = local_node.topology
        self._authorizer = CallAuthorizer(local_node.caller_verifier, self._type_of)
        self._admission = AdmissionControl[CallT](max_concurrent_calls)
        self._connections = ConnectionLimits(self._workers_of)
        self._guard: ConnectionGuard | None = None
        self._floods: FloodGuard | None = None
        self._checks = CallChecks(
            self._authorizer,
            self._admission,
            callers=CallerLimits(max_calls_per_caller, self._workers_of),
            connections=self._connections,
            workers_of=self._workers_of,
            max_headers=_max_headers(options),
            open_services=OPEN_SERVICES,
            own_services=OWN_SERVICES,
            is_issuer=is_issuer,
        )
        self._checks.telemetry = telemetry
        largest = self._checks.unfinished.max_message = _max_message(options)
        self._checks.reads.running.max_message = largest
        warn_of_no_provider(telemetry, self._node_id)
        self._own_services = [name for name in OWN_SERVICES if is_issuer or name != ISSUER]
        self._changed_identity: grpc.ServerCertificateConfiguration | None = None

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
    def calls(self) -> CallStats:
        """Counts of the calls that arrived so far, by outcome."""
        from aegis_core._stats import CallStats

        admission = self._admission
        return CallStats(
            begun=admission.begun,
            running=len(admission.running),
            limit=admission.limit,
            shed=admission.shed,
            late=admission.arrived_after_close,
            denied=self._checks.denied,
            refused=self._checks.refused,
            over_limit=self._checks.over_limit,
            closed_connections=sum(g.closed for g in (self._guard, self._floods) if g is not None),
        )

    @property
    def edges(self) -> tuple[EdgeStats, ...]:
        """Counts of the calls of the user's services, by caller and method."""
        own = self._topology.get_node(self._node_id)
        provided = own.services if own is not None else ()
        service = str(provided[0]) if len(provided) == 1 else ""
        return self._checks.edges.stats(self._node_id, service)

    @property
    def has_policy(self) -> bool:
        """Whether a policy decides which calls are allowed."""
        return self._authorizer.policy is not None

    @property
    @abstractmethod
    def watchers(self) -> frozenset[str]:
        """Ids of the nodes and clients that hold a feed of this node open."""

    @property
    @abstractmethod
    def feeds_served(self) -> int:
        """How many feeds were opened so far."""

    @abstractmethod
    async def start(self) -> None:
        """Starts to serve."""

    @abstractmethod
    async def revalidate_callers(self) -> None:
        """Ends open streams of callers that are not allowed any more; runs until cancelled."""

    async def guard_connections(self) -> None:
        """Closes connections of callers that have too many or flood; runs until cancelled."""
        port, checks, counts = self._port, self._checks, ServerCounts(self._port, self._host)
        guard = ConnectionGuard(self._connections, CallerSockets(port), counts, checks.unseen)
        floods = FloodGuard(checks.unseen, checks.callers, counts, CallerSockets(port))
        self._guard, checks.guard, self._floods = guard, guard, floods
        messages = MessageGuard(checks, CallerSockets(port), self.end_call, floods.count, counts)
        frames = FrameGuard(checks.unseen, checks.unfinished, floods, counts, CallerSockets(port))
        await asyncio.gather(guard.run(), messages.run(), frames.run())

    @abstractmethod
    def end_call(self, call: CallT, rejection: Rejection) -> None:
        """Ends a call with a status."""

    @abstractmethod
    async def set_health(self, info: HealthInfo) -> None:
        """Publishes the node's health in the standard health service."""

    @abstractmethod
    async def end_feeds(self) -> frozenset[str]:
        """Ends all feeds with their last message; returns the ids of the watchers that read it.

        Feeds end before calls, so that watchers switch to a node that still receives changes.
        """

    @abstractmethod
    async def stop(self, grace: float) -> None:
        """Lets calls in flight finish, then closes.

        Args:
            grace: Seconds that calls in flight have; calls that still run then are ended.
        """

    def note_loop_turn(self) -> None:
        """Records that the event loop of the node has a turn, about once a second."""
        if self._floods is not None:
            self._floods.note_turn()

    def hold_calls(self, *, joining: bool) -> None:
        """Rejects calls of the user's services while the node joins, or accepts them."""
        self._checks.is_joining = joining

    def serves(self, info: HealthInfo) -> bool:
        """Tells whether the standard health service says SERVING."""
        return info.status is not HealthStatus.UNHEALTHY and not self._checks.is_joining

    def change_identity(self, tls: TLSConfig) -> None:
        """Uses another certificate or trust bundle for new connections; open ones continue."""
        self._changed_identity = _configuration(tls)

    def set_policy(self, policy: Policy | None) -> None:
        """Decides by this policy from now on; open streams that it denies are ended."""
        self._authorizer.set_policy(policy)

    def _workers_of(self, identity: str) -> int:
        return live_workers(self._topology, identity)

    def _type_of(self, identity: str) -> str | None:
        nodes = self._topology.get_nodes_by_identity(identity)
        # A call does not tell which worker it is from, so an identity has a type only if all agree.
        types = {n.type for n in nodes if n.status is not NodeStatus.FAILED}
        types = types or {node.type for node in nodes}
        return types.pop() if len(types) == 1 else None

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
        if self._guard is not None:
            self._guard.note_accepted()
        if self._floods is not None:
            self._floods.note_accepted()
        changed, self._changed_identity = self._changed_identity, None
        return changed


def _configuration(tls: TLSConfig) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(tls.private_key, tls.certificate_chain)], root_certificates=tls.trust_bundle
    )


def _max_headers(options: Sequence[tuple[str, Any]]) -> int:
    names = {"grpc.max_metadata_size", "grpc.absolute_max_metadata_size"}
    return max([MAX_HEADERS, *(int(value) for name, value in options if name in names)])


def _max_message(options: Sequence[tuple[str, Any]]) -> int:
    sizes = [int(size) for name, size in options if name == "grpc.max_receive_message_length"]
    largest = sizes[-1] if sizes else USUAL_MESSAGE
    return largest if largest >= 0 else LARGEST_MESSAGE


def kind_of(handler: Any) -> str:
    """Returns gRPC's name of a handler's kind, such as `unary_stream`."""
    streaming = handler.request_streaming, handler.response_streaming
    return "_".join("stream" if streams else "unary" for streams in streaming)


ServerFactory = Callable[..., ServerBase[Any]]
"""Makes a server, with the arguments of `aegis_core.aio.MeshServer`."""


class ServiceRecorder:
    """Passes services on to the server, and records the names of those that are added.

    A handler of the user's that serves any method is not asked for a node's own services, which
    have no policy and no limit. No method is registered with gRPC's core, as generated code also
    does: each registered method makes every call to an asyncio server slower (gRPC 1.85 waits for
    all of them again at each call), and a handler that is not registered can be wrapped.

    Args:
        server: The server.
        services: What the services are added to; the server itself by default.
    """

    def __init__(self, server: Any, services: Any = None) -> None:
        self._server = server
        self._services = server if services is None else services
        self.names: set[str] = set()

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        named = [h for h in handlers if isinstance(h, grpc.ServiceRpcHandler)]
        self.names.update(handler.service_name() for handler in named)
        self._services.add_generic_rpc_handlers(
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


class Checks(Protocol):
    """The checks that a server runs before its handlers."""

    def with_checks(self, path: str, handler: Any) -> Any:
        """Returns a handler with the checks before it; None if there is no such method."""

    def serve(self, handler_call_details: Any, known: Any) -> Any:
        """Returns what serves a call that arrived."""


class CheckedServices(grpc.GenericRpcHandler):
    """All services of a server, with checks that cost less than a chain of interceptors.

    Without the chain, each call of an asyncio server costs 4 % less.

    Args:
        checks: The checks.
        fixed: Methods whose handlers never change, with their checks. Services with a handler for
            each method are added to it as they are called.
    """

    def __init__(self, checks: Checks, fixed: dict[str, Any] | None = None) -> None:
        self._serve = checks.serve
        self._with_checks = checks.with_checks
        self._services: list[grpc.GenericRpcHandler] = []
        self._fixed = {} if fixed is None else fixed

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Adds services, as a server does."""
        self._services.extend(handlers)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        known = self._fixed.get(handler_call_details.method)
        if known is None:
            known = self._find(handler_call_details)
        return self._serve(handler_call_details, known)

    def _find(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        is_fixed, path = True, handler_call_details.method
        for service in self._services:
            is_fixed = is_fixed and type(service) is _FIXED
            known = self._with_checks(path, service.service(handler_call_details))
            if known is not None:
                if is_fixed:
                    self._fixed[path] = known
                return known
        return None


_FIXED = type(grpc.method_handlers_generic_handler("", {}))
"""The type of a service with a handler for each method; others may answer each call anew."""
