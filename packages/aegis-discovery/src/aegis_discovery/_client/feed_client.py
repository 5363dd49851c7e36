"""The feed of a client: open to any one node, and moved to another one when that node leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import grpc
from aegis_certs import CertsError, IdentitySource, TLSConfig
from cryptography import x509

from aegis_discovery._address import SeedPeer
from aegis_discovery._client.bootstrap import feed_candidates, resolve_seed
from aegis_discovery._client.follow import FeedDivergedError, FeedTimeoutError, follow
from aegis_discovery._model import ServiceInfo
from aegis_discovery._runtime.log_limiter import LogLimiter
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import ConnectError, DiscoveryError
from aegis_discovery.feed._reader import FeedReader, ReceiveResult
from aegis_discovery.identity._rotator import IdentityEvent, IdentityEventKind, IdentityRotator
from aegis_discovery.identity._run import run_rotator
from aegis_discovery.records._verifier import RecordVerifier
from aegis_discovery.transport._aio_channels import open_channel
from aegis_discovery.transport._backoff import Backoff
from aegis_discovery.transport._probe import describe_call_error, probe_identity

_log = logging.getLogger("aegis.client")


class FeedClient:
    """Keeps a topology up to date for a process that is not a node itself.

    Attributes:
        topology: All nodes of the mesh, or only the providers of some services. Only the feed
            changes it.
    """

    def __init__(
        self,
        source: IdentitySource,
        tls: TLSConfig,
        seeds: Sequence[SeedPeer],
        *,
        mesh: str,
        services: Collection[ServiceInfo] = (),
        timeout: float | None = 10.0,
    ) -> None:
        # No node of a mesh has an empty id: a client never writes a record.
        self.topology = Topology(owner="")
        self._tls = tls
        self._seeds = tuple(seeds)
        self._mesh = mesh
        self._timeout = timeout
        self._verifier = RecordVerifier(tls.bundle, mesh=mesh, trust_domain=tls.trust_domain)
        self._reader = FeedReader(
            self.topology, self._verifier, trusts_statuses=True, services=services
        )
        self._log_limiter = LogLimiter(_log)
        self._rotator = IdentityRotator(source, tls)
        self._listeners: list[Callable[[TLSConfig], object]] = []
        self._ready = asyncio.Event()
        self._causes: dict[str, str] = {}
        self._received = False
        self._last_peer: SeedPeer | None = None
        self._feed_task: asyncio.Task[None] | None = None
        self._rotation_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the feed and waits for the whole topology; without a timeout it does not wait.

        Raises:
            ConnectError: If no peer sent it within the timeout, with the cause for each peer.
        """
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
            raise ConnectError(
                f"no seed peer accepted this client within {self._timeout:g} s ({self._reasons()})",
                self._causes,
            ) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the feed."""
        tasks = [task for task in (self._feed_task, self._rotation_task) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def get_certificate(self, node_id: str) -> x509.Certificate | None:
        record = self.topology.get_record(node_id)
        if record is None or record.voucher is not None:
            return None
        return self._verifier.certificate_of(record)

    def on_identity_change(self, listener: Callable[[TLSConfig], object]) -> None:
        """Calls the listener with every new identity of this client."""
        self._listeners.append(listener)

    def _restart_feed(self) -> None:
        if self._feed_task is not None:
            self._feed_task.cancel()
        self._feed_task = asyncio.create_task(self._run(), name="aegis-client-feed")

    def _on_identity(self, event: IdentityEvent) -> None:
        if event.kind is IdentityEventKind.REVOCATIONS:
            self.topology.remove_revoked(
                self._verifier.apply_revocations(self._rotator.revocations)
            )
        elif event.kind is IdentityEventKind.CHANGED:
            self._tls = event.tls
            self._verifier.change_bundle(event.tls.bundle)
            for listener in self._listeners:
                listener(event.tls)
            self._restart_feed()

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            async for peer in self._candidates():
                self._received, self._last_peer = False, None
                try:
                    await self._watch(peer, backoff)
                except FeedDivergedError as error:
                    _log.info("%s", error)
                except ConnectError as error:
                    self._record_failure(peer, error.causes.get(peer.address, str(error)))
                except (DiscoveryError, CertsError, FeedTimeoutError) as error:
                    self._record_failure(peer, str(error))
                except grpc.aio.AioRpcError as error:
                    self._record_failure(peer, describe_call_error(error, self._tls))
                    self._last_peer = peer if self._received else None
                except Exception as error:  # noqa: BLE001 - a bug of ours must not end the feed for ever
                    line = "the feed of %s failed"
                    self._log_limiter.warn(peer.address, "fault", line, peer.address, error=error)
                if self._received:
                    # Its topology is newer than this list of candidates.
                    break
            if self._timeout is None and not self._ready.is_set():
                line = "no seed peer accepts this client yet, which goes on trying (%s)"
                self._log_limiter.warn("seeds", "unreached", line, self._reasons())
            await asyncio.sleep(backoff.next())

    async def _watch(self, peer: SeedPeer, backoff: Backoff) -> None:
        node_id = peer.node_id
        if node_id is None:
            found = await asyncio.to_thread(probe_identity, peer.address, self._tls)
            node_id = found.node_id

        def on_message(received: ReceiveResult) -> None:
            backoff.reset()
            self._received = True
            if received.complete:
                self._causes.clear()
                self._ready.set()

        self._verifier.retain(self.topology.signers)
        channel = open_channel(self._tls, node_id, peer.address)
        try:
            await follow(
                channel,
                self._reader,
                self._reader.request(self._mesh, source=node_id),
                source=node_id,
                on_message=on_message,
            )
        finally:
            await channel.close()

    async def _candidates(self) -> AsyncIterator[SeedPeer]:
        for peer in feed_candidates(self.topology.nodes.values(), self._seeds, self._last_peer):
            if peer not in self._seeds:
                yield peer
                continue
            # Resolve late: a slow name server then delays nothing as long as nodes answer.
            for found in await asyncio.to_thread(resolve_seed, peer):
                yield found

    def _reasons(self) -> str:
        reasons = "; ".join(f"{address}: {cause}" for address, cause in self._causes.items())
        return reasons or "none answered"

    def _record_failure(self, peer: SeedPeer, cause: str) -> None:
        self._causes[peer.address] = cause
        _log.info("the feed of %s ended: %s", peer.node_id or peer.address, cause)
