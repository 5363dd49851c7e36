"""The feed of a client: open to any one node, and moved to another one when that node leaves.

With a registry, the client follows that instead, and asks no node.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import TYPE_CHECKING

import grpc
from aegis_certs import CertsError, IdentitySource, TLSConfig, owner_of
from cryptography import x509

from aegis_discovery._client.bootstrap import feed_candidates
from aegis_discovery._client.follow import (
    FeedDivergedError,
    FeedGarbageError,
    FeedTimeoutError,
    follow,
)
from aegis_discovery._client.home import HomeSearch, follow_until_found
from aegis_discovery._client.snapshot import FIRST_PATIENCE, MAX_PATIENCE, snapshot_limit
from aegis_discovery._model import ServiceInfo
from aegis_discovery._runtime.addresses import SeedPeer
from aegis_discovery._runtime.daemon_thread import in_daemon_thread
from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery._topology.topology import Topology
from aegis_discovery.documents._document import Change, DocumentKind
from aegis_discovery.documents._keeper import DocumentKeeper
from aegis_discovery.enrolment._known import known_issuers
from aegis_discovery.enrolment._renewal import MeshRenewal
from aegis_discovery.errors import ConnectError, DiscoveryError
from aegis_discovery.feed._impersonators import remove_impersonators
from aegis_discovery.feed._reader import FeedReader, ReceiveResult
from aegis_discovery.identity._rotator import IdentityEvent, IdentityEventKind, IdentityRotator
from aegis_discovery.identity._run import run_rotator
from aegis_discovery.policy._providers import ProviderAuthorizer
from aegis_discovery.records._verifier import RecordVerifier
from aegis_discovery.transport._aio_channels import open_channel
from aegis_discovery.transport._backoff import Backoff
from aegis_discovery.transport._probe import describe_call_error, probe_identity
from aegis_discovery.transport._resolve import Resolver
from aegis_discovery.transport._shared import FEED_OPTIONS

if TYPE_CHECKING:
    from aegis_discovery.policy._rules import Policy
    from aegis_discovery.registry._address import RegistryAddress
    from aegis_discovery.registry._follower import RegistryFollower

STEADY = 60.0
"""Seconds that a feed must bring messages before its server is the first to be asked again."""

FIRST_PROBE_TIMEOUT = 2.0
"""Seconds for each step of finding out the id of a seed peer, until all seed peers were tried.
Three that accept connections and then say nothing delay a client by six seconds."""

PROBE_TIMEOUT = 5.0
"""The same afterwards, for peers that are slow."""

_log = logging.getLogger("aegis.client")


class FeedClient:
    """Keeps a topology up to date for a process that is not a node itself.

    Attributes:
        topology: All nodes of the mesh, or only the providers of some services. Only the feed
            changes it.
        documents: What the CA of the mesh has published.
        may_provide: Decides by both policies which nodes may provide a service.
        server: The id of the node that serves the feed, or served the last one.
    """

    def __init__(
        self,
        source: IdentitySource,
        tls: TLSConfig,
        seeds: Sequence[SeedPeer],
        *,
        mesh: str,
        registry: RegistryAddress | None = None,
        services: Collection[ServiceInfo] = (),
        policy: Policy | None = None,
        region: str = "",
        timeout: float | None = 10.0,
        renews: bool = True,
    ) -> None:
        self._policy = policy
        self.may_provide = ProviderAuthorizer(policy, tls.trust_domain)
        # No node of a mesh has an empty id: a client never writes a record.
        self.topology = Topology(owner="")
        self._tls = tls
        self._seeds = tuple(seeds)
        self._mesh = mesh
        self._region = region
        self._home = HomeSearch(region, self.topology) if region else None
        self._timeout = timeout
        self._verifier = RecordVerifier(
            tls.bundle,
            mesh=mesh,
            trust_domain=tls.trust_domain,
            find_signed=self.topology.find_signed,
        )
        remove_impersonators(self.topology, self._verifier)
        self._keeper = DocumentKeeper(tls, mesh=mesh, files=source.published)
        self.documents = self._keeper.store
        self._reader = FeedReader(
            self.topology,
            self._verifier,
            trusts_statuses=True,
            services=services,
            documents=self.documents,
        )
        self._registry: RegistryFollower | None = None
        if registry is not None:
            self._registry = self._follow_registry(registry, knows_all=not services)
        self._log_limiter = LogLimiter(_log)
        self._renewal = MeshRenewal(source, lambda: known_issuers(self.documents, self.topology))
        self._rotator = IdentityRotator(source, tls, remote=self._renewal, published=self._keeper)
        self._listeners: list[Callable[[TLSConfig], object]] = []
        self._ready = asyncio.Event()
        self._causes: dict[str, str] = {}
        self._received_at = 0.0
        self._heard_at = time.monotonic()
        self._last_peer: SeedPeer | None = None
        self.server = ""
        self._probe_timeout = FIRST_PROBE_TIMEOUT
        self._patience = FIRST_PATIENCE
        self._resolver = Resolver()
        # Addresses and ids of the peers whose feed did not last, since one last did. A peer that
        # sends a message and then falls silent, or sends garbage, must not keep this client from
        # trying the others. Workers of one identity count once: a member may enter 64.
        self._tried, self._resumed = set[str](), set[str]()
        self._feed_task: asyncio.Task[None] | None = None
        self._rotation_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the feed and waits for the whole topology; without a timeout it does not wait.

        Raises:
            ConnectError: If no peer sent it within the timeout, with the cause for each peer.
        """
        await asyncio.to_thread(self._keeper.load)
        self._apply_policy()
        self.topology.forget(self.documents.forgotten_until)
        self.documents.subscribe(self._on_document)
        for event in self._rotator.apply_published():
            self._on_identity(event)
        self._restart_feed()
        self._rotation_task = asyncio.create_task(
            run_rotator(self._rotator, self._on_identity), name="aegis-client-identity"
        )
        if self._timeout is None:
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._ready.wait()
        except TimeoutError:
            await self.close()
            who = (
                "no seed peer accepted" if self._registry is None else "the registry did not serve"
            )
            raise ConnectError(
                f"{who} this client within {self._timeout:g} s ({self._reasons()})", self._causes
            ) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the feed."""
        self._renewal.close()
        tasks = [task for task in (self._feed_task, self._rotation_task) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def silent_for(self) -> float:
        """Seconds since the feed last brought a message; 0 with a registry, which is no feed."""
        if self._registry is not None:
            return 0.0
        return time.monotonic() - self._heard_at

    @property
    def tls(self) -> TLSConfig:
        """The identity of now."""
        return self._tls

    def get_certificate(self, node_id: str) -> x509.Certificate | None:
        record = self.topology.get_record(node_id)
        if record is None or record.voucher is not None:
            return None
        return self._verifier.certificate_of(record)

    def on_identity_change(self, listener: Callable[[TLSConfig], object]) -> None:
        """Calls the listener with every new identity of this client."""
        self._listeners.append(listener)

    def _follow_registry(self, address: RegistryAddress, *, knows_all: bool) -> RegistryFollower:
        from aegis_discovery.registry._follower import RegistryFollower  # few meshes have one

        return RegistryFollower(
            address,
            self._tls,
            mesh=self._mesh,
            topology=self.topology,
            reader=self._reader,
            knows_all=knows_all,
            on_complete=lambda: self._ready.set(),
        )

    def _restart_feed(self) -> None:
        work = self._run
        if self._registry is not None:
            self._registry.change_identity(self._tls)
            work = self._registry.run
        if self._feed_task is not None:
            if self._registry is not None:
                return  # it has connected again by itself
            self._feed_task.cancel()
        self._feed_task = asyncio.create_task(work(), name="aegis-client-feed")

    def _on_document(self, change: Change) -> None:
        # Soon, because this may close the feed that is being read.
        if change.is_news:
            asyncio.get_running_loop().call_soon(self._apply, change.document.kind)

    def _apply(self, kind: DocumentKind) -> None:
        if kind in (DocumentKind.CRL, DocumentKind.BUNDLE):
            for event in self._rotator.apply_published():
                self._on_identity(event)
        elif kind is DocumentKind.POLICY:
            self._apply_policy()
        elif kind is DocumentKind.FORGET:
            self.topology.forget(self.documents.forgotten_until)

    def _apply_policy(self) -> None:
        own, published = self._policy, self.documents.policy
        policy = own or published
        if own is not None and published is not None:
            from aegis_discovery.policy._rules import combined  # few clients have two

            policy = combined(own, published)
        self.may_provide.set_policy(policy)

    def _on_identity(self, event: IdentityEvent) -> None:
        if event.kind is IdentityEventKind.REVOCATIONS:
            revocations = self._rotator.revocations
            self._keeper.apply_revocations(revocations)
            self.topology.remove_revoked(self._verifier.apply_revocations(revocations))
        elif event.kind is IdentityEventKind.CHANGED:
            self._tls = event.tls
            self._keeper.change_identity(event.tls)
            self._verifier.change_bundle(event.tls.bundle)
            for listener in self._listeners:
                listener(event.tls)
            self._restart_feed()

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            async for peer in self._candidates():
                key = owner_of(peer.node_id) if peer.node_id else peer.address
                if self._tried & {key, peer.address} and peer != self._last_peer:
                    continue
                self._tried.add(key)
                self._received_at, self._last_peer, self._is_reached = 0.0, None, False
                began, home = time.monotonic(), None
                try:
                    home = await self._watch(peer)
                except FeedDivergedError as error:
                    _log.info("%s", error)
                except (DiscoveryError, CertsError, FeedTimeoutError) as error:
                    causes = error.causes if isinstance(error, ConnectError) else {}
                    self._record_failure(peer, causes.get(peer.address, str(error)))
                except grpc.aio.AioRpcError as error:
                    self._record_failure(peer, describe_call_error(error, self._tls))
                    # Its connection was cut, so it is asked once more: it knows our cursor.
                    if self._received_at and key not in self._resumed:
                        self._resumed.add(key)
                        self._last_peer = peer
                except FeedGarbageError as error:
                    self._causes[peer.address] = str(error)
                    line = "another node is asked: %s"
                    self._log_limiter.warn(peer.address, "garbage", line, error)
                except Exception as error:  # noqa: BLE001 - a bug of ours must not end the feed for ever
                    line = "the feed of %s failed"
                    self._log_limiter.warn(peer.address, "fault", line, peer.address, error=error)
                if not (self._is_reached or self._received_at):  # it may be at another address
                    self._tried = self._tried - {key} | {peer.address}
                if self._received_at - began >= STEADY:
                    self._forget_tries()
                    backoff.reset()
                    if self._home is not None:
                        self._home.feed_lasted(self.server)
                if home is not None:
                    # This server did nothing wrong: it is asked again if the other one fails.
                    self._tried.discard(key)
                    self._tried.discard(owner_of(self.server))
                    self._last_peer = home
                if self._received_at or home is not None:
                    # Its topology is newer than this list of candidates.
                    break
            else:
                self._forget_tries()
                self._probe_timeout = PROBE_TIMEOUT
                self._patience = min(2 * self._patience, MAX_PATIENCE)
                if self._timeout is None and not self._ready.is_set():
                    line = "no seed peer accepts this client yet, which goes on trying (%s)"
                    self._log_limiter.warn("seeds", "unreached", line, self._reasons())
                await asyncio.sleep(backoff.next())

    async def _watch(self, peer: SeedPeer) -> SeedPeer | None:
        """Follows the feed of a peer; returns a node of the own region if that is to go on."""
        node_id = peer.node_id
        if node_id is None:
            found = await in_daemon_thread(
                probe_identity, peer.address, self._tls, self._probe_timeout
            )
            node_id = found.node_id
            if owner_of(node_id) in self._tried and peer.address not in self._resumed:
                return None
            self._tried.add(owner_of(node_id))
        self.server = node_id

        self._verifier.retain(self.topology.signers)
        channel = open_channel(self._tls, node_id, peer.address, options=FEED_OPTIONS)
        try:
            async with snapshot_limit(node_id, self._patience) as received_in_time:

                def on_message(received: ReceiveResult) -> None:
                    self._received_at = self._heard_at = time.monotonic()
                    received_in_time(received)
                    if received.complete:
                        self._causes.clear()
                        self._ready.set()
                        self._patience = FIRST_PATIENCE

                feed = follow(
                    channel,
                    self._reader,
                    self._reader.request(self._mesh, source=node_id),
                    source=node_id,
                    on_message=on_message,
                )
                if self._home is None:
                    await feed
                    return None
                return await follow_until_found(feed, self._find_home(self._home, node_id))
        finally:
            self._is_reached = channel.get_state() is grpc.ChannelConnectivity.READY
            await channel.close()

    async def _find_home(self, home: HomeSearch, source: str) -> SeedPeer | None:
        await self._ready.wait()
        return await home.find(source, self._can_reach)

    async def _can_reach(self, peer: SeedPeer) -> bool:
        channel = open_channel(self._tls, peer.node_id or "", peer.address)
        try:
            async with asyncio.timeout(FIRST_PROBE_TIMEOUT):
                await channel.channel_ready()
        except TimeoutError:
            return False
        else:
            return True
        finally:
            await channel.close()

    def _forget_tries(self) -> None:
        self._tried.clear()
        self._resumed.clear()

    async def _candidates(self) -> AsyncIterator[SeedPeer]:
        nodes = self.topology.nodes.values()
        for peer in feed_candidates(nodes, self._seeds, self._last_peer, self._region):
            if peer not in self._seeds:
                yield peer
                continue
            # Resolve late: a slow name server then delays nothing as long as nodes answer.
            try:
                for found in await self._resolver.resolve(peer):
                    yield found
            except ConnectError as error:
                self._record_failure(peer, error.causes[peer.address])

    def _reasons(self) -> str:
        causes = self._causes if self._registry is None else self._registry.causes
        reasons = "; ".join(f"{address}: {cause}" for address, cause in causes.items())
        return reasons or "none answered"

    def _record_failure(self, peer: SeedPeer, cause: str) -> None:
        self._causes[peer.address] = cause
        _log.info("the feed of %s ended: %s", peer.node_id or peer.address, cause)
