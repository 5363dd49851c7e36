"""The blocking face of the node, which runs on an event loop thread of its own."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from aegis_certs import TLSConfig
from aegis_discovery.background import BackgroundLoop
from aegis_discovery.identity import IdentityEvent

from aegis_core._node.faces import NodeView, through_peers
from aegis_core._node.node import Node as AsyncNode
from aegis_core._node.options import BlockingOptions, NodeOptions, expand
from aegis_core._node.outbound import Outbound
from aegis_core._node.runtime import RunningNode
from aegis_core._node.signals import stop_signals
from aegis_core._peers.info import PeerInfo
from aegis_core._peers.manager import PeerManager as AsyncPeerManager
from aegis_core._server.base import ServerBase
from aegis_core._server.memory import share_arena
from aegis_core._server.sync.server import BlockingServer
from aegis_core.errors import NodeStateError

if TYPE_CHECKING:
    import aegis_discovery

    from aegis_core._stats import NodeStats

P = ParamSpec("P")
R = TypeVar("R")


def _blocking(
    method: Callable[Concatenate[AsyncPeerManager, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[PeerManager, P], R]:
    """Makes a blocking method that runs this coroutine on the node's event loop."""

    @functools.wraps(method)
    def run(self: PeerManager, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._loop.run(method(self._peers, *args, **kwargs))

    return run


class PeerManager:
    """The blocking face of `aegis_core.aio.PeerManager`."""

    def __init__(self, peers: AsyncPeerManager, loop: BackgroundLoop) -> None:
        self._peers = peers
        self._loop = loop

    def __repr__(self) -> str:
        return repr(self._peers)

    @property
    def added(self) -> Mapping[str, PeerInfo]:
        """The peers that were added, by id."""
        return self._peers.added

    def add_peer(self, peer: PeerInfo) -> None:
        """Adds a peer, as `aegis_core.aio.PeerManager.add_peer`."""
        self._loop.call(self._peers.add_peer, peer)

    def remove_peer(self, peer_id: str) -> None:
        """Forgets a peer that was added, as `aegis_core.aio.PeerManager.remove_peer`."""
        self._loop.call(self._peers.remove_peer, peer_id)

    ping_peer = _blocking(AsyncPeerManager.ping_peer)
    get_peer_health = _blocking(AsyncPeerManager.get_peer_health)
    get_peer_node_info = _blocking(AsyncPeerManager.get_peer_node_info)
    sync_topology = _blocking(AsyncPeerManager.sync_topology)
    sync_topology_with_all_peers = _blocking(AsyncPeerManager.sync_topology_with_all_peers)


class MeshServer:
    """The server of a blocking node: what it serves, and where."""

    def __init__(self, server: ServerBase[Any]) -> None:
        self._server = server

    def __repr__(self) -> str:
        return repr(self._server)

    @property
    def address(self) -> str:
        """The address that the server is bound to, with the real port."""
        return self._server.address

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of the user's gRPC services."""
        return self._server.services


class _NodeOnLoop(AsyncNode):
    """A node on the event loop of a blocking node, which serves with `grpc.server`."""

    _make_server = BlockingServer

    def __init__(self, options: NodeOptions) -> None:
        self._prepare(options)


class Node(NodeView):
    """One process of the mesh, for code that is not async.

    It takes the same options as `aegis_core.aio.Node`, and serves with `grpc.server`. Registrars
    may add sync servicers, whose handlers run on threads, or async ones, which cost more here,
    since each of their calls has a thread too. The pool has its own channels, so that calls do not
    pass through the node's event loop. A node belongs to the process that started it: in a forked
    child it raises `aegis_discovery.ForkedError`. A node that is not started yet may be started
    in the child.
    """

    @expand(BlockingOptions)
    def __init__(self, options: NodeOptions) -> None:
        self.id = options.id
        self._options = options
        # The pool options are for the blocking pool, whose interceptors are of another type.
        self._node = _NodeOnLoop(replace(options, pool_options=None))
        self._background: BackgroundLoop | None = None
        self._pool: aegis_discovery.ServiceClientPool | None = None
        self._lock = threading.Lock()
        self._outbound: Outbound | None = None
        self._is_stopped = False

    def __repr__(self) -> str:
        return repr(self._node)

    @property
    def pool(self) -> aegis_discovery.ServiceClientPool:
        """Blocking channels to the mesh's services.

        It may be used before the node runs, as that of `aegis_core.aio.Node`.
        """
        if self._background is not None:
            self._background.check_fork(f"node {self.id}")
        with self._lock:
            outbound = self._node.outbound
            if self._pool is None or outbound is not self._outbound:
                if self._is_stopped:
                    raise NodeStateError(f"node {self.id} is not running")
                from aegis_discovery import ServiceClientPool  # many nodes call no service

                self._outbound = outbound
                pool_options = self._options.pool_options
                self._pool = ServiceClientPool(
                    outbound.topology,
                    None,
                    region=self._options.region,
                    zone=self._options.zone,
                    may_provide=outbound.may_provide,
                    telemetry=self._options.telemetry,
                    **({} if pool_options is None else vars(pool_options)),
                )
                outbound.add(self._pool)
            return self._pool

    @property
    def peers(self) -> PeerManager:
        """The peers of this node, and calls to single peers."""
        return PeerManager(self._node.peers, self._loop)

    @property
    def server(self) -> MeshServer:
        """The server of this node."""
        return MeshServer(self._parts.server)

    def stats(self) -> NodeStats:
        """Returns a snapshot of the node's calls, feeds, topology, certificate and pool."""
        return self._loop.call(self._node.stats)

    def run(self, *, on_ready: Callable[[], object] | None = None) -> None:
        """Starts, serves until SIGTERM, SIGINT or SIGHUP, then leaves, drains and returns.

        As `aegis_core.aio.Node.run`, with the same errors. `on_ready` is called in this thread, and
        a signal that arrives meanwhile stops the node afterwards.
        """
        background, node = self._new_loop(), self._node
        held: list[signal.Signals] | None = None

        def stop(number: signal.Signals) -> None:
            if held is None:
                background.call_soon(node._request_stop, number)  # noqa: SLF001 - see _parts
            else:
                held.append(number)

        with stop_signals(stop):
            try:
                if background.run(node._start_unless_stopped()):  # noqa: SLF001 - see _parts
                    held = []
                    # The loop has seen all signals before this question, and sees no later one.
                    if on_ready is not None and not background.call(node._is_stopping):  # noqa: SLF001 - see _parts
                        on_ready()
                    arrived, held = held, None
                    for number in arrived:
                        stop(number)
                    self.wait_for_termination()
            finally:
                self.stop()

    def start(self) -> None:
        """Starts the node, as `aegis_core.aio.Node.start`, with the same errors."""
        background = self._new_loop()
        try:
            background.run(self._node.start())
        except BaseException:
            # Ctrl-C ends up here too, when the mesh may already know this node.
            background.run(self._node.stop(grace=0))
            self._close_pool()
            background.close()
            raise

    def stop(self, grace: float | None = None) -> None:
        """Leaves the mesh, lets calls in flight finish, and closes, as `aegis_core.aio.Node.stop`.

        In a forked child it does nothing, because the node runs in the parent process.
        """
        if self._background is None or self._background.closed:
            return
        try:
            self._background.run(self._node.stop(grace))
        finally:
            self._close_pool()
            self._background.close()

    def wait_for_termination(self) -> None:
        """Waits until the node was stopped; raises the error that stopped it, if there was one."""
        if not self._loop.closed:
            self._loop.run(self._node.wait_for_termination())
        elif self._node.failure is not None:
            raise self._node.failure

    def change_identity(self, tls: TLSConfig) -> None:
        """Continues with another identity, as `aegis_core.aio.Node.change_identity`."""
        self._loop.call(self._node.change_identity, tls)

    def subscribe_identity(self, callback: Callable[[IdentityEvent], object]) -> Callable[[], None]:
        """Calls back, on the node's own thread, as `aegis_core.aio.Node.subscribe_identity`."""
        return self._node.subscribe_identity(callback)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    add_peer = through_peers(PeerManager.add_peer)
    remove_peer = through_peers(PeerManager.remove_peer)
    ping_peer = through_peers(PeerManager.ping_peer)
    get_peer_health = through_peers(PeerManager.get_peer_health)
    get_peer_node_info = through_peers(PeerManager.get_peer_node_info)
    sync_topology = through_peers(PeerManager.sync_topology)
    sync_topology_with_all_peers = through_peers(PeerManager.sync_topology_with_all_peers)

    @property
    def _parts(self) -> RunningNode:
        return self._node._parts  # noqa: SLF001 - two faces of one node

    def _close_pool(self) -> None:
        with self._lock:
            self._is_stopped = True
            if self._pool is not None:
                self._pool.close()

    def _new_loop(self) -> BackgroundLoop:
        if self._background is not None:
            self._background.check_fork(f"node {self.id}")
            raise NodeStateError(f"node {self.id} was started before; make a new Node")
        share_arena()  # before there are more threads
        self._background = BackgroundLoop(f"aegis-{self.id}")
        return self._background

    @property
    def _loop(self) -> BackgroundLoop:
        if self._background is None:
            raise NodeStateError(f"node {self.id} was not started")
        self._background.check_fork(f"node {self.id}")
        return self._background
