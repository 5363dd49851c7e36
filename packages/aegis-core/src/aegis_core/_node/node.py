"""The node: one process's place in the mesh."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import grpc
from aegis_certs import IdentitySource, TLSConfig, TLSOptions, validate_node_id
from aegis_discovery import DEFAULT_MESH, NodeInfo, PoolOptions, ServiceInfo, Topology
from aegis_discovery.aio import ServiceClientPool
from aegis_discovery.background import of_this_process
from aegis_discovery.errors import ForkedError
from aegis_discovery.identity import IdentityEvent
from aegis_discovery.policy import Policy, ProviderAuthorizer
from aegis_discovery.transport import parse_seed
from cryptography import x509

from aegis_core._access.policy_file import PolicySource
from aegis_core._address import bound_address, published_address
from aegis_core._health.checks import HealthChecker, HealthInfo
from aegis_core._node.runtime import NodeOptions, PoolWithStats, RunningNode
from aegis_core._peers.info import PeerInfo
from aegis_core._peers.manager import PeerManager, SyncReport
from aegis_core._server.server import MeshServer, Registrar
from aegis_core._stats import NodeStats
from aegis_core.errors import ConfigError, NodeStateError, NoTLSConfigError

_log = logging.getLogger("aegis.node")


class Node:
    """One process of the mesh: it serves, it knows the others, and it calls them.

    Args:
        id: The node id; its certificate proves it.
        address: `host:port` to listen on; port 0 takes a free one.
        advertise: `host:port` that others dial, where that is not `address`.
        name: For people; the id by default.
        type: What kind of node it is.
        services: What it provides.
        region: Where it runs; callers in the same region and zone prefer it.
        zone: A part of the region.
        registrars: Add the gRPC services behind that to the server.
        cert_dir: Directory of certificates; made, with a CA, where it is empty.
        tls_options: Certificates of your own, in place of `cert_dir`.
        tls: An identity that is loaded already, in place of both.
        seed_peers: `host:port` or `id@host:port` of nodes to join through.
        mesh: The mesh's name; nodes of another one are refused.
        health_checkers: Run on an interval; the worst answer is the node's health.
        health_interval: Seconds between two runs.
        interceptors: gRPC server interceptors.
        join_timeout: The most seconds that the start waits for a seed peer.
        grace: Seconds that calls in flight have when the node stops.
        max_concurrent_calls: The most calls of your services that run at the same time; one more
            is shed at once, with `RESOURCE_EXHAUSTED`. No limit by default.
        policy: Who may call what, and who may provide what: a `Policy`, or the path of a TOML
            file, which is read again when it changes. Without one, every member of the mesh may.
        pool_options: How its pool calls: balancers, retries, service config, interceptors.

    Raises:
        ConfigError: If an option cannot work.
        aegis_certs.InvalidNodeIdError: If the id cannot be one.
        aegis_discovery.InvalidAddressError: If a seed peer cannot be one.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - the word that everybody uses for it
        *,
        address: str,
        advertise: str | None = None,
        name: str | None = None,
        type: str = "generic",  # noqa: A002 - as in the record
        services: Sequence[ServiceInfo] = (),
        region: str = "",
        zone: str = "",
        registrars: Sequence[Registrar] = (),
        cert_dir: str | Path | None = "./certs",
        tls_options: TLSOptions | None = None,
        tls: TLSConfig | None = None,
        seed_peers: Sequence[str] = (),
        mesh: str = DEFAULT_MESH,
        health_checkers: Sequence[HealthChecker] = (),
        health_interval: float = 10.0,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        join_timeout: float = 5.0,
        grace: float = 5.0,
        max_concurrent_calls: int | None = None,
        policy: Policy | str | Path | None = None,
        pool_options: PoolOptions | None = None,
    ) -> None:
        self.id = id
        if max_concurrent_calls is not None and max_concurrent_calls < 1:
            reason = f"{max_concurrent_calls} would refuse every call; give 1 or more, or None"
            raise ConfigError("max_concurrent_calls", reason)
        # What can be wrong about the addresses is told before anything is started.
        published_address(address, advertise, bound_address(address)[1])
        self._options = NodeOptions(
            info=NodeInfo(
                validate_node_id(id),
                name or id,
                type,
                services=tuple(services),
                region=region,
                zone=zone,
            ),
            address=address,
            advertise=advertise,
            registrars=tuple(registrars),
            seeds=tuple(parse_seed(peer) for peer in seed_peers),
            mesh=mesh,
            checkers=tuple(health_checkers),
            health_interval=health_interval,
            interceptors=tuple(interceptors),
            join_timeout=join_timeout,
            max_concurrent_calls=max_concurrent_calls,
            policy=PolicySource(policy),
            pool=pool_options or PoolOptions(),
        )
        self._cert_dir = cert_dir
        self._tls_options = tls_options
        self._tls = tls
        self._grace = grace
        self._running: RunningNode | None = None
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._identity_subscribers: list[Callable[[IdentityEvent], object]] = []
        self._forked = False

    def __repr__(self) -> str:
        where = self.address if self._running else "not running"
        return f"<Node {self.id} {where}>"

    # What a running node consists of

    @property
    def address(self) -> str:
        """The address that is bound, with the real port."""
        return self._parts.server.address

    @property
    def topology(self) -> Topology:
        """What this node knows of the mesh."""
        return self._parts.state.topology

    @property
    def pool(self) -> ServiceClientPool:
        """Channels to the mesh's services."""
        return self._parts.pool

    @property
    def peers(self) -> PeerManager:
        """The peers of this node, and calls to single ones."""
        return self._parts.peers

    @property
    def server(self) -> MeshServer:
        """The server of this node."""
        return self._parts.server

    @property
    def health(self) -> HealthInfo:
        """The outcome of the last health checks."""
        return self._parts.monitor.info

    @property
    def tls(self) -> TLSConfig:
        """The identity of this node."""
        return self._parts.state.tls

    @property
    def failure(self) -> Exception | None:
        """What stopped this node, if nobody meant to."""
        return self._failure

    @property
    def may_provide(self) -> ProviderAuthorizer:
        """Goes by the policy's `provide` rules: `may_provide` for pools of your own."""
        return self._parts.may_provide

    def stats(self) -> NodeStats:
        """Returns what came to this node, how it hears of the mesh, and more, as a frozen value."""
        return self._parts.stats()

    def tell_of(self, pool: PoolWithStats) -> None:
        """Tells of another pool in `stats`, where this node's calls go through that one."""
        self._parts.told_pool = pool

    # Life

    async def start(self) -> None:
        """Loads the identity, serves, and joins the mesh.

        Returns when this node serves and either knows the mesh, or knows that no seed peer
        answered; in that case it goes on trying.

        Raises:
            NodeStateError: If it was started before.
            AddressInUseError: If the address cannot be bound.
            ConfigError: If an option cannot work.
            aegis_certs.CertsError: If the identity cannot be loaded.
            aegis_discovery.errors.PolicyError: If the policy's file is none.
        """
        if self._starting is not None:
            self._check_fork()
            raise NodeStateError(f"node {self.id} was started before; make a new Node")
        of_this_process(self)
        self._ended = asyncio.get_running_loop().create_future()
        self._starting = asyncio.create_task(self._bring_up(), name=f"aegis-start-{self.id}")
        try:
            await asyncio.shield(self._starting)
        except BaseException:
            stopped = self._stopping is not None
            await self.stop(grace=0)
            if stopped and self._starting.cancelled():
                raise NodeStateError(f"node {self.id} was stopped while it started") from None
            raise

    async def stop(self, grace: float | None = None) -> None:
        """Leaves the mesh, lets calls in flight finish, and closes everything.

        In a forked child it does nothing: the node runs in the process that it was forked from.
        It goes on to its end even where the caller is cancelled; call it again to wait for that.

        Args:
            grace: Seconds that calls in flight have; by default as the node was made.
        """
        if self._starting is None or self._forked:
            return
        if self._stopping is None:
            grace = self._grace if grace is None else grace
            self._stopping = asyncio.create_task(self._take_down(grace), name="aegis-stop")
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

    def change_identity(self, tls: TLSConfig) -> None:
        """Goes on with another certificate, key or trust bundle of the same node.

        No call fails and no stream breaks by it. Where the identity came from files, the node
        does this by itself when they change.

        Raises:
            ConfigError: If it is not an identity of this node.
        """
        self._parts.change_identity(tls)

    def get_certificate(self, node_id: str) -> x509.Certificate | None:
        """Returns the certificate of a node; None if it is unknown or signs nothing itself."""
        state = self._parts.state
        return state.verifier.certificate_of(state.topology.get_record(node_id))

    def subscribe_identity(self, callback: Callable[[IdentityEvent], object]) -> Callable[[], None]:
        """Calls back, in the event loop, on every step in the life of this node's identity.

        Its certificate is renewed at two thirds of its life, changed files are taken up within
        seconds, and files that are no good are refused: each is an event.

        Returns:
            What ends that.
        """
        self._identity_subscribers.append(callback)
        return lambda: self._identity_subscribers.remove(callback)

    # Peers

    def add_peer(self, peer: PeerInfo) -> None:
        """Adds a peer: it is watched from now on, and comes into the topology by that."""
        self.peers.add_peer(peer)

    def remove_peer(self, peer_id: str) -> None:
        """Forgets a peer that was added."""
        self.peers.remove_peer(peer_id)

    async def ping_peer(self, peer_id: str) -> float:
        """Pings a peer; returns the seconds until its answer."""
        return await self.peers.ping_peer(peer_id)

    async def get_peer_health(self, peer_id: str) -> HealthInfo:
        """Asks a peer for its health."""
        return await self.peers.get_peer_health(peer_id)

    async def get_peer_node_info(self, peer_id: str) -> NodeInfo:
        """Asks a peer what it says of itself."""
        return await self.peers.get_peer_node_info(peer_id)

    async def sync_topology(self, peer_id: str) -> bool:
        """Merges a peer's topology now; returns whether anything new came of it."""
        return await self.peers.sync_topology(peer_id)

    async def sync_topology_with_all_peers(self) -> SyncReport:
        """Merges the topologies of all peers now."""
        return await self.peers.sync_topology_with_all_peers()

    # Inside

    def forked(self) -> None:
        """Refuses whatever comes from now on: the node runs in another process."""
        self._forked = True

    def _check_fork(self) -> None:
        if self._forked:
            raise ForkedError(f"node {self.id}")

    @property
    def _parts(self) -> RunningNode:
        self._check_fork()
        if self._running is None:
            state = "was not started" if self._starting is None else "is not running"
            raise NodeStateError(f"node {self.id} {state}")
        return self._running

    def _identity_source(self) -> IdentitySource:
        if self._tls is not None:
            return IdentitySource.fixed(self._tls)
        if self._tls_options is not None:
            return IdentitySource.of(self._tls_options)
        if self._cert_dir is None:
            raise NoTLSConfigError
        address = self._options.advertise or self._options.address
        return IdentitySource.directory(self.id, self._cert_dir, address=address)

    async def _bring_up(self) -> None:
        source = self._identity_source()
        tls = await asyncio.to_thread(source.load)
        await asyncio.to_thread(self._options.policy.load)
        self._running = RunningNode(
            self._options, source, tls, on_failure=self._fail, on_identity=self._tell_identity
        )
        await self._running.start()

    async def _take_down(self, grace: float) -> None:
        assert self._starting is not None  # noqa: S101 - else there is nothing to take down
        self._starting.cancel()
        await asyncio.wait([self._starting])
        running, self._running = self._running, None
        try:
            if running is not None:
                await running.stop(grace, leave=self._failure is None)
        finally:
            self._end()

    def _tell_identity(self, event: IdentityEvent) -> None:
        for callback in list(self._identity_subscribers):
            try:
                callback(event)
            except Exception:  # noqa: BLE001 - a subscriber's fault is no one else's
                _log.exception("a subscriber failed on %s", event.kind)

    def _fail(self, error: Exception) -> None:
        """Stops the node because of an error that it cannot live with."""
        if self._failure is None and self._stopping is None:
            self._failure = error
            _log.error("%s stops: %s", self.id, error)
            self._stopping = asyncio.create_task(self._take_down(self._grace), name="aegis-stop")

    def _end(self) -> None:
        assert self._ended is not None  # noqa: S101 - it was started
        if self._failure is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(self._failure)
            # Whoever waits is told; nobody has to wait.
            self._ended.exception()
