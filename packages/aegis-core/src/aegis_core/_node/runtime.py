"""The parts of a node between its start and its stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aegis_certs import IdentitySource, TLSConfig, owner_of, write_issuer_address
from aegis_discovery import HealthStatus, NodeInfo
from aegis_discovery.aio.identity import run_rotator
from aegis_discovery.background import sleep_until_tick
from aegis_discovery.documents import NAMES, Change, Document, DocumentKind, document_to_wire
from aegis_discovery.enrolment import MeshRenewal, known_issuers
from aegis_discovery.identity import IdentityEvent, IdentityEventKind, IdentityRotator
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.transport import parse_seed

from aegis_core._access.policy_file import POLL_INTERVAL, PolicySource
from aegis_core._address import published_address
from aegis_core._health.checks import HealthInfo
from aegis_core._health.monitor import HealthMonitor
from aegis_core._node.descriptors import name_shortage
from aegis_core._node.evidence import Evidence, evidence_on
from aegis_core._node.history import History
from aegis_core._node.options import NodeOptions
from aegis_core._node.outbound import Outbound
from aegis_core._node.registries import Registries
from aegis_core._node.stalls import STARVED, Starvation, watch_loop
from aegis_core._node.supervise import supervise
from aegis_core._peers.joiner import Joiner
from aegis_core._peers.runner import SessionRunner
from aegis_core._peers.session import MAINTENANCE
from aegis_core._server.base import ServerFactory
from aegis_core._server.introspection import NodeIntrospection
from aegis_core._server.memory import watch_memory
from aegis_core._server.mesh_protocol import LocalNode
from aegis_core._state import NodeState
from aegis_core.errors import ConfigError

if TYPE_CHECKING:
    from aegis_certs import CertificateAuthority

    from aegis_core._server.issuer import IssuerService
    from aegis_core._server.metrics import MetricsServer
    from aegis_core._stats import NodeStats

_log = logging.getLogger("aegis.node")
_server_log = logging.getLogger("aegis.server")


class RunningNode:
    """Creates the parts of a node, owns its tasks, and stops both in order."""

    def __init__(
        self,
        options: NodeOptions,
        source: IdentitySource,
        tls: TLSConfig,
        policy: PolicySource,
        outbound: Outbound,
        *,
        authority: CertificateAuthority | None,
        make_server: ServerFactory,
        on_failure: Callable[[Exception], None],
        on_identity: Callable[[IdentityEvent], None],
    ) -> None:
        if tls.node_id != owner_of(options.id):
            reason = f"the certificate is {tls.node_id}'s, this node is {options.id}"
            raise ConfigError("tls", reason)
        if "client" not in tls.usages:
            reason = f"the certificate of {tls.node_id} may only serve, and a node calls its peers"
            raise ConfigError("tls", f"{reason}; issue one for both usages")
        self._options = options
        self._policy = policy
        self._authority = authority
        self._renewal = MeshRenewal(
            source,
            lambda: known_issuers(self.state.documents, self.state.topology),
            is_shared=owner_of(options.id) != options.id,
        )
        self._publish_identity = on_identity
        self._has_joined = False
        self._calls_accepted = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started_at = datetime.now(UTC)
        self._starvation = Starvation()
        self._metrics: MetricsServer | None = None
        self._outbound = outbound
        self.state = NodeState(
            tls,
            outbound.topology,
            node_id=options.id,
            mesh=options.mesh,
            on_failure=on_failure,
            files=source.published,
        )
        self._rotator = IdentityRotator(
            source, tls, remote=self._renewal, published=self.state.keeper
        )
        self.monitor = HealthMonitor(
            options.id,
            options.health_checkers,
            on_change=self._publish_health,
            interval=options.health_interval,
        )
        local_node = LocalNode(
            node_id=options.id,
            instance=self.state.instance,
            mesh=options.mesh,
            topology=self.state.topology,
            verifier=self.state.verifier,
            chain_of=self.state.chain_of,
            info=self.state.own_node,
            health=lambda: self.monitor.info,
            on_foreign=lambda record: self.session.foreign_record_received(
                record, time.monotonic()
            ),
            confirm=lambda caller_id: self.peers.confirm(caller_id),
            is_behind=lambda peer_id: self.peers.is_behind(peer_id),
            caller_verifier=self.state.caller_verifier,
            has_joined=lambda: self._has_joined,
            documents=self.state.documents,
            drain=lambda why: self.state.drain(why),
        )
        self.server = make_server(
            tls,
            options.address,
            local_node,
            introspection=NodeIntrospection(self.stats, self.explain),
            registrars=options.registrars,
            interceptors=options.interceptors,
            max_concurrent_calls=options.max_concurrent_calls,
            max_calls_per_caller=options.max_calls_per_caller,
            max_workers=options.max_workers,
            options=options.server_options,
            telemetry=options.telemetry,
            issuer=authority and self._issuer_service(authority),
        )
        self.server.hold_calls(joining=options.joins)
        outbound.change_identity(tls)
        self.may_provide = outbound.may_provide
        self.runner = SessionRunner(self.state, outbound.channels)
        self.peers, self.session = self.runner.peers, self.runner.session
        self._observers = self.session.membership.observers
        self.history = History(self.state.topology, self._observers)
        self._apply_policy()
        seeds = tuple(map(parse_seed, options.seed_peers))
        self._registries = Registries(options, self.state, self.runner)
        causes = self._registries.causes
        self.joiner = Joiner(self.state, self.peers, self.session, seeds, registry_causes=causes)

    async def start(self) -> None:
        options = self._options
        if options.metrics is not None:
            from aegis_core._server.metrics import serve_metrics

            self._metrics = await serve_metrics(options.metrics, self.stats)
        address = published_address(options.address, options.advertise, self.server.port)
        await self.monitor.check()
        await asyncio.to_thread(self.state.keeper.load)
        self._apply_policy()
        self.state.topology.forget(self.state.documents.forgotten_until)
        self.state.documents.subscribe(self._on_document)
        for event in await asyncio.to_thread(self._rotator.poll):
            self._on_identity(event)
        self.state.topology.add_node(
            NodeInfo(
                options.id,
                options.name or options.id,
                options.type,
                address,
                services=tuple(options.services),
                region=options.region,
                zone=options.zone,
                boundary=options.boundary,
                health=self.monitor.info.status,
                registry="etcd" if options.replaces_feed else "",
                trust_bundle=self.state.tls.bundle_fingerprint,
            )
        )
        await self.server.set_health(self.monitor.info)
        await self.server.start()
        if self._authority is not None:
            await asyncio.to_thread(self._announce_issuer, address)
        known_as = f", known as {address}" if address != self.server.address else ""
        _server_log.info("%s serves at %s%s", options.id, self.server.address, known_as)
        for name, work in (
            ("registries", self._registries.run),
            ("joiner", self.joiner.run),
            ("health", self.monitor.run),
            ("maintenance", self._maintain),
            ("memory", watch_memory),
            ("revalidation", self.server.revalidate_callers),
            ("connections", self.server.guard_connections),
            ("identity", self._follow_identity),
            ("stalls", lambda: watch_loop(options.id, self._on_loop_check)),
            ("descriptors", lambda: name_shortage(options.id)),
            *([("policy", self._follow_policy)] if self._policy.may_change else []),
            *([("documents", self._publish_documents)] if self._authority else []),
        ):
            self._spawn(supervise(name, work), name)
        self._spawn(self._accept_calls(), "accept-calls")
        if self._authority is not None and options.rotate == "auto":
            from aegis_core._node.rotation import CARotation  # only an issuer needs it

            rotation = CARotation(self._authority, self.state)
            self._spawn(supervise("rotation", rotation.run), "rotation")
        await self.joiner.wait(options.join_timeout, required=options.require_join)
        self._has_joined = True
        if self.state.joined.is_set():
            await self._calls_accepted.wait()

    async def _accept_calls(self) -> None:
        """Accepts calls of the user's services once this node knows what the mesh has published.

        A node that reaches no seed peer accepts them after a while, with what its directory kept.
        """
        if self._options.joins:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.join_timeout):
                    await self.joiner.wait_for_news()
            self.server.hold_calls(joining=False)
            await self.server.set_health(self.monitor.info)
        self._calls_accepted.set()

    def _announce_issuer(self, address: str) -> None:
        """Lets the commands beside the CA's key name this issuer in tokens."""
        assert self._authority is not None  # noqa: S101 - only an issuer announces itself
        write_issuer_address(self._authority.directory, self.state.identity, address)

    def _issuer_service(self, authority: CertificateAuthority) -> IssuerService:
        from aegis_core._server.issuer import IssuerService  # few nodes issue

        return IssuerService(owner_of(self._options.id), authority, self._published_documents)

    def _published_documents(self) -> Iterator[mesh_pb2.SignedDocument]:
        return (document_to_wire(document.signed) for document in self.state.documents)

    def stats(self) -> NodeStats:
        from aegis_core._stats import FeedStats, NodeStats

        topology, server, pool = self.state.topology, self.server, self._outbound.pool_stats()
        return NodeStats(
            node_id=self.state.node_id,
            started_at=self._started_at,
            certificate_not_after=self.state.tls.not_after,
            topology_version=topology.version,
            topology_nodes=topology.node_count,
            has_policy=server.has_policy,
            own_policy=self._policy.digest,
            calls=server.calls,
            pool=pool,
            feeds=FeedStats(
                served=len(server.watchers),
                opened=server.feeds_served,
                **self.session.counts(time.monotonic()),
            ),
            documents={one.key: one.sequence for one in self.state.documents},
            policies=self._policy.loaded(self.state.documents.get(DocumentKind.POLICY)),
            standings=self.history.standings,
            events=self.history.events,
            edges=server.edges + pool.edges,
            loop_lag=self._starvation.lag,
            nodes=Counter(str(node.status) for node in topology.nodes.values()),
        )

    def explain(self, node_id: str) -> Evidence:
        """Returns what this node knows of another one, and who says so, as JSON values."""
        topology, verifier = self.state.topology, self.state.verifier
        found = evidence_on(node_id, topology, verifier, self._observers, self.history)
        return {"node_id": node_id, "asked": self.state.node_id, **found}

    def change_identity(self, tls: TLSConfig) -> None:
        self._apply_identity(tls)
        self._rotator.change_identity(tls)

    def _apply_identity(self, tls: TLSConfig) -> None:
        self.state.change_identity(tls)
        self.server.change_identity(tls)
        self.peers.change_identity(tls)
        self._outbound.change_identity(tls)
        self._registries.change_identity(tls)

    async def _follow_identity(self) -> None:
        if self._rotator.tls is not self.state.tls:
            # The last change of identity failed halfway.
            self._on_identity(IdentityEvent(IdentityEventKind.CHANGED, self._rotator.tls))
        await run_rotator(self._rotator, self._on_identity)

    async def _follow_policy(self) -> None:
        while True:
            await sleep_until_tick(POLL_INTERVAL)
            before = self._policy.policy
            if await asyncio.to_thread(self._policy.poll) is not before:
                self._apply_policy()
                self.history.note("policy", f"loaded its own policy {self._policy.digest[:12]}")

    def _apply_policy(self) -> None:
        policy = self._policy.joined_with(self.state.documents.policy)
        self.server.set_policy(policy)
        self.may_provide.set_policy(policy)

    def _on_identity(self, event: IdentityEvent) -> None:
        if event.kind is IdentityEventKind.CHANGED:
            try:
                self._apply_identity(event.tls)
                self.history.note("identity", f"certificate until {event.tls.not_after:%F %T} UTC")
            except ConfigError as error:
                _log.error("%s keeps its identity: %s", self.state.node_id, error)
                event = event._replace(kind=IdentityEventKind.REFUSED, reason=str(error))
        elif event.kind is IdentityEventKind.REVOCATIONS:
            self.state.apply_revocations(self._rotator.revocations)
        self._publish_identity(event)

    async def _publish_documents(self) -> None:
        """Publishes what the directory of an issuer says, and each change of it."""
        assert self._authority is not None  # noqa: S101 - only an issuer publishes
        await self._calls_accepted.wait()  # another issuer may have published something newer
        from aegis_core._node.issuing import publish_documents  # few nodes issue

        await publish_documents(self._authority, self.state)

    def _on_document(self, change: Change) -> None:
        # Soon, because this may close the feed that is being read.
        if change.is_news:
            asyncio.get_running_loop().call_soon(self._apply, change.document)

    def _apply(self, document: Document) -> None:
        """Does what a document of the mesh's CA says, at once; files are written later."""
        node_id, kind = self.state.node_id, document.kind
        _log.info("%s applies the %s that was published", node_id, NAMES[kind])
        self.history.note("document", f"applied {NAMES[kind]} {document.sequence}")
        if kind in (DocumentKind.CRL, DocumentKind.BUNDLE):
            for event in self._rotator.apply_published():
                self._on_identity(event)
        elif kind is DocumentKind.POLICY:
            self._apply_policy()
        elif kind is DocumentKind.FORGET:
            self.state.topology.forget(self.state.documents.forgotten_until)

    async def stop(self, grace: float, *, leave: bool) -> None:
        """Stops the node, and leaves the mesh unless another process runs under this id."""
        topology, node_id = self.state.topology, self.state.node_id
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.history.close)
            if self._metrics is not None:
                stack.callback(self._metrics.close)
            stack.push_async_callback(self.peers.close)
            stack.push_async_callback(self._outbound.close_pool)
            stack.push_async_callback(self.server.stop, grace)
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            self._renewal.close()
            await asyncio.gather(*tasks, return_exceptions=True)
            leaves = leave and topology.get_node(node_id) is not None
            if leaves:
                self.session.leave()
            aware = await self.server.end_feeds()
            if leaves:
                await self._registries.say_goodbye(aware)
        _log.info("%s stopped", node_id)

    def _publish_health(self, info: HealthInfo) -> None:
        topology, node_id = self.state.topology, self.state.node_id
        known = topology.get_node(node_id)
        if known is not None and known.health is not info.status:
            topology.update_node(replace(known, health=info.status))
            level = logging.WARNING if info.status is HealthStatus.UNHEALTHY else logging.INFO
            _log.log(level, "%s is %s: %s", node_id, info.status, info.error or info.message)
            self._spawn(self.server.set_health(info), "set-health")

    def _on_loop_check(self, late_by: float) -> None:
        """Says that this node cannot serve while its event loop is starved."""
        self.server.note_loop_turn()
        if self._starvation.note_check(late_by):
            behind = f"it is behind by {STARVED:g} s or more; handlers must not block it"
            self.monitor.report("event loop", behind if self._starvation.is_starved else None)

    async def _maintain(self) -> None:
        """Renews the lease of the node's own record, and removes what is not needed any more."""
        while True:
            await sleep_until_tick(MAINTENANCE)
            not_after = self.state.tls.not_after.timestamp()
            self.session.maintain(time.time(), not_after=not_after)
            self.state.forget_certificates()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"aegis-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
