"""The node: one process's membership of the mesh."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

from aegis_certs import TLSConfig
from aegis_discovery.background import register_at_fork
from aegis_discovery.errors import ForkedError
from aegis_discovery.identity import IdentityEvent

from aegis_core._access.policy_file import PolicySource
from aegis_core._address import check_is_free
from aegis_core._node.draining import stop_when_drained
from aegis_core._node.faces import NodeView, through_peers
from aegis_core._node.identity import load_authority, load_identity
from aegis_core._node.options import NodeOptions, expand
from aegis_core._node.outbound import Outbound
from aegis_core._node.runtime import RunningNode
from aegis_core._node.signals import notify_manager, stop_hint, stop_signals
from aegis_core._peers.manager import PeerManager
from aegis_core._server.base import ServerBase, ServerFactory
from aegis_core._server.memory import share_arena
from aegis_core.errors import NodeStateError

if TYPE_CHECKING:
    import aegis_discovery.aio

    from aegis_core._server.aio.server import MeshServer
    from aegis_core._stats import NodeStats

_log = logging.getLogger("aegis.node")


def _asyncio_server(*args: Any, **settings: Any) -> ServerBase[Any]:
    from aegis_core._server.aio.server import MeshServer  # a blocking node has another one

    return MeshServer(*args, **settings)


class Node(NodeView):
    """One process of the mesh. It serves, it knows the other nodes, and it calls them.

    Args:
        id: The node id; the node's certificate proves it. A worker, one of several processes under
            one identity, has a number after it, as in `orders-1#2`.
        address: `host:port` to listen on; port 0 takes a free port.
        advertise: `host:port` that others dial, where that is not `address`.
        name: A name for people; the id by default.
        type: The kind of node, such as `api` or `worker`.
        services: The services that the node provides.
        region: The region that the node runs in; callers in the same region and zone prefer it.
        zone: A part of the region.
        boundary: `region` keeps membership inside regions, once all nodes of the mesh say so: for
            large meshes, and lines between regions that may be cut. Empty by default.
        registrars: Functions that add the gRPC services to the server.
        cert_dir: Directory of certificates. One that has a CA's key gets a certificate of this
            node. An empty one gets a CA too, unless the node has seed peers.
        tls_options: Certificate files of your own, in place of `cert_dir`.
        tls: An identity that is loaded already, in place of both.
        token: A token of the mesh's CA: its text, or the `Path` of a file that holds it. With it,
            a node that has no identity yet, or an expired one, enrols when it starts. A valid
            identity in `cert_dir` is used, and the token is not.
        issuer: Issue certificates to the mesh, with the CA's key in `cert_dir`.
        rotate: Whether an issuer replaces its CA in time by itself: `auto`, or `manual`. `auto`
            does so only if the root's key is in `cert_dir` and all peers sign their records;
            otherwise it logs warnings in time.
        seed_peers: `host:port` or `id@host:port` of nodes to join through.
        metrics: `HOST:PORT` where a Prometheus reads metrics, in plain HTTP: `/metrics`. A port
            alone is one of the loopback interface. A worker adds its number to the port.
        registry: Where the mesh is kept in place of feeds: `etcd://[NAME@]HOST:PORT,.../PREFIX`.
            With seed peers too, the node takes part in both, as while a mesh moves.
        mesh: The mesh's name; nodes of another mesh are refused.
        health_checkers: Checkers that run on an interval; the worst result is the node's health.
        health_interval: Seconds between two runs of the checkers.
        interceptors: Server interceptors: `grpc.aio.ServerInterceptor` for `aegis_core.aio.Node`,
            `grpc.ServerInterceptor` for `aegis_core.Node`.
        join_timeout: Seconds that the start waits for a seed peer at most.
        require_join: Fail the start if no seed peer has answered within `join_timeout`.
        grace: Seconds that calls in flight have when the node stops.
        max_concurrent_calls: How many calls of your services may run at the same time. Further
            calls are shed at once, with `RESOURCE_EXHAUSTED`. No limit by default.
        max_calls_per_caller: How many calls one caller may have open, over all its connections, and
            times its live workers. Further ones are shed. 1 000 by default, as many as one
            connection may have. Raise it where many processes share an identity.
        max_workers: The largest number of threads of handlers that are not coroutines; further
            calls wait for a thread. 32 by default.
        max_receive_message_length: Bytes of the largest request that the server accepts, of any
            service; -1 for no limit. 4 MiB by default. A caller that gets larger answers needs the
            channel option `grpc.max_receive_message_length` in its `PoolOptions`.
        keepalive_time_ms: Milliseconds without traffic after which the server sends a ping, to
            notice connections whose other end is gone.
        keepalive_timeout_ms: Milliseconds that the answer to such a ping may take; then the
            connection is closed, and its calls end.
        options: Further channel arguments of gRPC for the server, which override the defaults.
        policy: Which callers may call what, and which nodes may provide what: a `Policy`, or the
            path of a TOML file, which is read again when it changes. Without a policy, every
            member of the mesh may call and provide everything.
        pool_options: How the node's pool calls: balancers, retries, service config, interceptors.
        telemetry: Traces and measures the calls of the node's services and of its pool, with
            OpenTelemetry: `aegis_discovery.telemetry.OpenTelemetry()`. Off by default.

    Raises:
        ConfigError: If an option cannot work.
        aegis_certs.InvalidNodeIdError: If the id is not a valid node id.
        aegis_discovery.InvalidAddressError: If a seed peer is not a valid address.
    """

    _make_server: ServerFactory = staticmethod(_asyncio_server)

    @expand(NodeOptions)
    def __init__(self, options: NodeOptions) -> None:
        self._prepare(options)

    def _prepare(self, options: NodeOptions) -> None:
        self.id = options.id
        self._options = options
        self._running: RunningNode | None = None
        self._outbound: Outbound | None = None
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._stop_requested = False
        self._identity_subscribers: list[Callable[[IdentityEvent], object]] = []
        self._forked = False

    def __repr__(self) -> str:
        where = self.address if self._running else "not running"
        return f"<Node {self.id} {where}>"

    @property
    def pool(self) -> aegis_discovery.aio.ServiceClientPool:
        """Channels to the mesh's services.

        It may be used before the node runs: a call waits for a provider then, if it has
        `wait_for_ready`, and fails with `aegis_discovery.NoProvidersError` if not.
        """
        self._check_fork()
        return self.outbound.pool

    @property
    def peers(self) -> PeerManager:
        """The peers of this node, and calls to single peers."""
        return self._parts.peers

    @property
    def server(self) -> MeshServer:
        """The server of this node."""
        return cast("MeshServer", self._parts.server)  # a blocking node has a property of its own

    @property
    def failure(self) -> Exception | None:
        """The error that stopped this node; None if it runs, or `stop` was called."""
        return self._failure

    def stats(self) -> NodeStats:
        """Returns a snapshot of the node's calls, feeds, topology, certificate and pool."""
        return self._parts.stats()

    # Start and stop

    async def run(self, *, on_ready: Callable[[], object] | None = None) -> None:
        """Starts, serves until SIGTERM, SIGINT or SIGHUP, then leaves, drains and returns.

        A second signal ends the process at once. In a thread other than the main one it handles
        no signals, and returns after `stop`. It tells a service manager that sets `NOTIFY_SOCKET`,
        such as systemd, when the node is ready and when it stops.

        Args:
            on_ready: Called once the node serves.

        Raises:
            NodeIdInUseError: If it stopped because another process runs under its id.
            MeshError: As `start`, which has further errors.
        """
        self._check_not_started()
        with stop_signals(self._request_stop, asyncio.get_running_loop()):
            try:
                if await self._start_unless_stopped():
                    if on_ready is not None:
                        on_ready()
                    await self.wait_for_termination()
            finally:
                await self.stop()

    async def start(self) -> None:
        """Loads the identity, serves, and joins the mesh.

        Returns when this node serves and either knows the mesh, or knows that no seed peer
        answered. In the second case it continues to try, unless the node has `require_join`.

        Raises:
            NodeStateError: If the node was started before.
            AddressInUseError: If the address cannot be bound.
            ConfigError: If an option cannot work.
            JoinError: If no seed peer answered, and the node has the option `require_join`.
            aegis_certs.CertsError: If the identity cannot be loaded.
            aegis_discovery.errors.PolicyError: If the policy file is not a valid policy.
        """
        self._check_not_started()
        register_at_fork(self)
        share_arena()
        self._ended = asyncio.get_running_loop().create_future()
        self._starting = asyncio.create_task(self._start_parts(), name=f"aegis-start-{self.id}")
        try:
            await asyncio.shield(self._starting)
        except BaseException:
            stopped = self._stopping is not None
            await self.stop(grace=0)
            if stopped and self._starting.cancelled():
                stopped_by = NodeStateError(f"node {self.id} was stopped while it started")
                raise self._failure or stopped_by from None
            raise

    async def stop(self, grace: float | None = None) -> None:
        """Leaves the mesh, lets calls in flight finish, and closes everything.

        If the caller is cancelled, the stop continues; call it again to wait for its end. In a
        forked child it does nothing, because the node runs in the parent process.

        Args:
            grace: Seconds that calls in flight have; by default the node's option `grace`.
        """
        if self._starting is None or self._forked:
            return
        if self._stopping is None:
            self._begin_stop(self._options.grace if grace is None else grace)
        assert self._stopping is not None  # noqa: S101 - set by the line above
        await asyncio.shield(self._stopping)

    async def wait_for_termination(self) -> None:
        """Waits until the node was stopped.

        Raises:
            NodeIdInUseError: If it stopped because another process runs under its id.
        """
        self._check_fork()
        if self._ended is None:
            raise NodeStateError(f"node {self.id} was not started")
        await asyncio.shield(self._ended)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Identity

    def change_identity(self, tls: TLSConfig) -> None:
        """Continues with another certificate, key or trust bundle of the same node.

        No call fails and no stream breaks because of it. If the identity was loaded from files,
        the node does this by itself when the files change.

        Raises:
            ConfigError: If it is not an identity of this node.
        """
        self._parts.change_identity(tls)

    def subscribe_identity(self, callback: Callable[[IdentityEvent], object]) -> Callable[[], None]:
        """Calls back, in the event loop, on every change of this node's identity.

        The certificate is renewed at two thirds of its life, changed files are loaded within
        seconds, and invalid files are refused: each of these is an event.

        Returns:
            A function that ends the subscription.
        """
        self._identity_subscribers.append(callback)
        return lambda: self._identity_subscribers.remove(callback)

    # Calls to single peers

    add_peer = through_peers(PeerManager.add_peer)
    remove_peer = through_peers(PeerManager.remove_peer)
    ping_peer = through_peers(PeerManager.ping_peer)
    get_peer_health = through_peers(PeerManager.get_peer_health)
    get_peer_node_info = through_peers(PeerManager.get_peer_node_info)
    sync_topology = through_peers(PeerManager.sync_topology)
    sync_topology_with_all_peers = through_peers(PeerManager.sync_topology_with_all_peers)

    # Internals

    @property
    def outbound(self) -> Outbound:
        """What this process calls others with; made when it is needed first."""
        if self._outbound is None or self._outbound.is_forked:
            self._outbound = Outbound(self._options)
        return self._outbound

    async def _start_unless_stopped(self) -> bool:
        """Starts the node for `run`; returns False if a signal asked it to stop meanwhile."""
        if self._stop_requested:
            return False
        try:
            await self.start()
        except NodeStateError:
            if self._stop_requested:
                return False
            raise
        if not self._stop_requested:
            notify_manager("READY")
        return not self._stop_requested

    def _is_stopping(self) -> bool:
        return self._stopping is not None

    def _request_stop(self, cause: signal.Signals | str) -> None:
        """Begins the stop of a node that runs, or of one that starts."""
        name = cause if isinstance(cause, str) else cause.name
        _log.info("%s stops after %s%s", self.id, name, stop_hint())
        notify_manager("STOPPING")
        self._stop_requested = True
        if self._starting is not None and self._stopping is None:
            self._begin_stop(self._options.grace)

    def after_fork_in_child(self) -> None:
        """Marks this copy of the node as one in a forked child; its methods raise `ForkedError`."""
        self._forked = True

    def _check_fork(self) -> None:
        if self._forked:
            raise ForkedError(f"node {self.id}")

    def _check_not_started(self) -> None:
        if self._starting is not None:
            self._check_fork()
            raise NodeStateError(f"node {self.id} was started before; make a new Node")

    @property
    def _parts(self) -> RunningNode:
        self._check_fork()
        if self._running is None:
            state = "was not started" if self._starting is None else "is not running"
            raise NodeStateError(f"node {self.id} {state}")
        return self._running

    async def _start_parts(self) -> None:
        # First of all: nobody would use the CA that is created otherwise.
        await asyncio.to_thread(check_is_free, self._options.address)
        source, tls = await load_identity(self._options)
        authority = await asyncio.to_thread(load_authority, self._options)
        policy = PolicySource(self._options.policy)
        await asyncio.to_thread(policy.load)
        self._running = RunningNode(
            self._options,
            source,
            tls,
            policy,
            self.outbound,
            authority=authority,
            make_server=self._make_server,
            on_failure=self._stop_with,
            on_identity=self._publish_identity,
        )
        stop_when_drained(self._running.state, self._request_stop)
        await self._running.start()

    def _begin_stop(self, grace: float) -> None:
        self._stopping = asyncio.create_task(self._stop_parts(grace), name="aegis-stop")

    async def _stop_parts(self, grace: float) -> None:
        assert self._starting is not None  # noqa: S101 - only a started node is stopped
        assert self._ended is not None  # noqa: S101 - set with it
        self._starting.cancel()
        await asyncio.wait([self._starting])
        running, self._running = self._running, None
        try:
            if running is not None:
                await running.stop(grace, leave=self._failure is None)
            else:
                await self.outbound.close_pool()
        finally:
            if self._failure is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(self._failure)
                # Marks it as retrieved: nobody has to call wait_for_termination.
                self._ended.exception()

    def _stop_with(self, error: Exception) -> None:
        if self._failure is None and self._stopping is None:
            self._failure = error
            _log.error("%s stops: %s", self.id, error)
            self._begin_stop(self._options.grace)

    def _publish_identity(self, event: IdentityEvent) -> None:
        for callback in list(self._identity_subscribers):
            try:
                callback(event)
            except Exception:  # noqa: BLE001 - one subscriber's error must not stop the others
                _log.exception("an identity subscriber failed on %s", event.kind)
