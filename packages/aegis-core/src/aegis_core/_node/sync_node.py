"""The blocking face of the node: it runs on an event loop thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Self, Unpack

from aegis_certs import TLSConfig
from aegis_discovery import NodeInfo, PoolOptions, ServiceClientPool, Topology
from aegis_discovery.background import BackgroundLoop
from aegis_discovery.identity import IdentityEvent, IdentityEventKind
from aegis_discovery.policy import ProviderAuthorizer
from cryptography import x509

from aegis_core._health.checks import HealthInfo
from aegis_core._node.node import Node as AsyncNode
from aegis_core._node.options import NodeArguments
from aegis_core._peers.info import PeerInfo
from aegis_core._peers.manager import PeerManager as AsyncPeerManager
from aegis_core._peers.manager import SyncReport
from aegis_core._server.server import MeshServer as AsyncMeshServer
from aegis_core._stats import NodeStats
from aegis_core.errors import NodeStateError


class Node:
    """One process of the mesh, for code that is not async.

    Takes the same options as `aegis_core.aio.Node`. Registrars may add sync servicers, whose
    handlers run on threads, or async ones. The pool has channels of its own, so that calls do not
    pass through the node's event loop. A node belongs to the process that started it: in a forked
    child it raises `aegis_discovery.ForkedError`. One that is not started yet may be started there.
    """

    def __init__(self, id: str, **options: Unpack[NodeArguments]) -> None:  # noqa: A002 - as aio.Node
        self.id = id
        # They are for the blocking pool: its interceptors are of another kind.
        self._pool_options = options.pop("pool_options", None) or PoolOptions()
        self._node = AsyncNode(id, **options)
        self._background: BackgroundLoop | None = None
        self._pool: ServiceClientPool | None = None
        self._region, self._zone = options.get("region", ""), options.get("zone", "")
        self._lock = threading.Lock()
        self._node.subscribe_identity(self._renew_pool)

    def __repr__(self) -> str:
        return repr(self._node)

    @property
    def address(self) -> str:
        """The address that is bound, with the real port."""
        return self._node.address

    @property
    def topology(self) -> Topology:
        """What this node knows of the mesh."""
        return self._node.topology

    @property
    def tls(self) -> TLSConfig:
        """The identity of this node."""
        return self._node.tls

    @property
    def health(self) -> HealthInfo:
        """The outcome of the last health checks."""
        return self._node.health

    @property
    def pool(self) -> ServiceClientPool:
        """Blocking channels to the mesh's services."""
        if self._background is not None:
            self._background.check_fork(f"node {self.id}")
        with self._lock:
            if self._pool is None:
                judge = self._node.may_provide
                self._pool = ServiceClientPool(
                    self._node.topology,
                    self._node.tls,
                    region=self._region,
                    zone=self._zone,
                    may_provide=judge,
                    **vars(self._pool_options),
                )
                judge.on_change(self._pool.reevaluate)
                self._node.tell_of(self._pool)
            return self._pool

    @property
    def peers(self) -> PeerManager:
        """The peers of this node, and calls to single ones."""
        return PeerManager(self._node.peers, self._loop)

    @property
    def server(self) -> MeshServer:
        """The server of this node."""
        return MeshServer(self._node.server)

    def stats(self) -> NodeStats:
        """Returns what came to this node, how it hears of the mesh, and more, as a frozen value."""
        return self._loop.call(self._node.stats)

    @property
    def may_provide(self) -> ProviderAuthorizer:
        """Goes by the policy's `provide` rules: `may_provide` for pools of your own."""
        return self._node.may_provide

    def start(self) -> None:
        """Starts the node, as `aegis_core.aio.Node.start`, with the same errors."""
        if self._background is not None:
            self._background.check_fork(f"node {self.id}")
            raise NodeStateError(f"node {self.id} was started before; make a new Node")
        self._background = BackgroundLoop(f"aegis-{self.id}")
        try:
            self._background.run(self._node.start())
        except BaseException:
            # Ctrl-C comes here too, and the mesh may know of this node by then.
            self._background.run(self._node.stop(grace=0))
            self._background.close()
            raise

    def stop(self, grace: float | None = None) -> None:
        """Leaves the mesh, lets calls in flight finish, and closes everything.

        In a forked child it does nothing: the node runs in the process that it was forked from.
        """
        if self._background is None or self._background.closed:
            return
        try:
            self._background.run(self._node.stop(grace))
        finally:
            with self._lock:
                if self._pool is not None:
                    self._pool.close()
            self._background.close()

    def wait_for_termination(self) -> None:
        """Waits until the node was stopped; raises what stopped it, if nobody meant to."""
        if not self._loop.closed:
            self._loop.run(self._node.wait_for_termination())
        elif self._node.failure is not None:
            raise self._node.failure

    def change_identity(self, tls: TLSConfig) -> None:
        """Goes on with another certificate, key or bundle, as `aegis_core.aio.Node` does."""
        self._loop.call(self._node.change_identity, tls)
        with self._lock:
            if self._pool is not None:
                self._pool.change_identity(tls)

    def get_certificate(self, node_id: str) -> x509.Certificate | None:
        """Returns the certificate of a node; None if it is unknown or signs nothing itself."""
        return self._node.get_certificate(node_id)

    def subscribe_identity(self, callback: Callable[[IdentityEvent], object]) -> Callable[[], None]:
        """Calls back, on the node's own thread, as `aegis_core.aio.Node` does."""
        return self._node.subscribe_identity(callback)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def add_peer(self, peer: PeerInfo) -> None:
        """Adds a peer: it is watched from now on, and comes into the topology by that."""
        self.peers.add_peer(peer)

    def remove_peer(self, peer_id: str) -> None:
        """Forgets a peer that was added."""
        self.peers.remove_peer(peer_id)

    def ping_peer(self, peer_id: str) -> float:
        """Pings a peer; returns the seconds until its answer."""
        return self.peers.ping_peer(peer_id)

    def get_peer_health(self, peer_id: str) -> HealthInfo:
        """Asks a peer for its health."""
        return self.peers.get_peer_health(peer_id)

    def get_peer_node_info(self, peer_id: str) -> NodeInfo:
        """Asks a peer what it says of itself."""
        return self.peers.get_peer_node_info(peer_id)

    def sync_topology(self, peer_id: str) -> bool:
        """Merges a peer's topology now; returns whether anything new came of it."""
        return self.peers.sync_topology(peer_id)

    def sync_topology_with_all_peers(self) -> SyncReport:
        """Merges the topologies of all peers now."""
        return self.peers.sync_topology_with_all_peers()

    def _renew_pool(self, event: IdentityEvent) -> None:
        with self._lock:
            if self._pool is not None and event.kind is IdentityEventKind.CHANGED:
                self._pool.change_identity(event.tls)

    @property
    def _loop(self) -> BackgroundLoop:
        if self._background is None:
            raise NodeStateError(f"node {self.id} was not started")
        self._background.check_fork(f"node {self.id}")
        return self._background


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
        """Adds a peer."""
        self._loop.call(self._peers.add_peer, peer)

    def remove_peer(self, peer_id: str) -> None:
        """Forgets a peer that was added."""
        self._loop.call(self._peers.remove_peer, peer_id)

    def ping_peer(self, peer_id: str) -> float:
        """Pings a peer; returns the seconds until its answer."""
        return self._loop.run(self._peers.ping_peer(peer_id))

    def get_peer_health(self, peer_id: str) -> HealthInfo:
        """Asks a peer for its health."""
        return self._loop.run(self._peers.get_peer_health(peer_id))

    def get_peer_node_info(self, peer_id: str) -> NodeInfo:
        """Asks a peer what it says of itself."""
        return self._loop.run(self._peers.get_peer_node_info(peer_id))

    def sync_topology(self, peer_id: str) -> bool:
        """Merges a peer's topology now; returns whether anything new came of it."""
        return self._loop.run(self._peers.sync_topology(peer_id))

    def sync_topology_with_all_peers(self) -> SyncReport:
        """Merges the topologies of all peers now."""
        return self._loop.run(self._peers.sync_topology_with_all_peers())


class MeshServer:
    """The blocking face of `aegis_core.aio.MeshServer`: what it serves, and where."""

    def __init__(self, server: AsyncMeshServer) -> None:
        self._server = server

    def __repr__(self) -> str:
        return repr(self._server)

    @property
    def address(self) -> str:
        """The address that is bound, with the real port."""
        return self._server.address

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of the user's gRPC services."""
        return self._server.services
