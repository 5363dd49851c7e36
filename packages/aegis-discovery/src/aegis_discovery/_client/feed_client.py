"""A client's feed: held open to any node, moved to another when that one goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import grpc
from aegis_certs import CertsError, IdentitySource, TLSConfig
from cryptography import x509

from aegis_discovery._address import SeedPeer
from aegis_discovery._client.bootstrap import candidates, resolve
from aegis_discovery._client.follow import FeedDivergedError, FeedSilentError, follow
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
    """Keeps a topology up to date for a process that is no node itself.

    Attributes:
        topology: Everything the mesh knows, or the providers of some services only; nothing here
            ever changes it but the feed.
    """

    def __init__(
        self,
        source: IdentitySource,
        tls: TLSConfig,
        seeds: Sequence[SeedPeer],
        *,
        mesh: str,
        services: Collection[ServiceInfo] = (),
    ) -> None:
        # The owner is nobody that can be in the mesh: a client never writes a record.
        self.topology = Topology(owner="")
        self._tls = tls
        self._seeds = tuple(seeds)
        self._mesh = mesh
        self._verifier = RecordVerifier(tls.bundle, mesh=mesh, trust_domain=tls.trust_domain)
        self._reader = FeedReader(
            self.topology, self._verifier, trusts_statuses=True, services=services
        )
        self._complaints = LogLimiter(_log)
        self._rotator = IdentityRotator(source, tls)
        self._followers: list[Callable[[TLSConfig], object]] = []
        self._ready = asyncio.Event()
        self._causes: dict[str, str] = {}
        self._told = False
        self._last: SeedPeer | None = None
        self._task: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self, timeout: float) -> None:
        """Opens the feed and waits for the whole topology.

        Raises:
            ConnectError: If no peer told it within `timeout` seconds; says why for each.
        """
        self._dial()
        self._keeping = asyncio.create_task(
            run_rotator(self._rotator, self._on_identity), name="aegis-client-identity"
        )
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            await self.close()
            reasons = "; ".join(f"{address}: {why}" for address, why in self._causes.items())
            raise ConnectError(
                f"no seed peer let this client in within {timeout:g} s "
                f"({reasons or 'none answered'})",
                self._causes,
            ) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the feed."""
        tasks = [task for task in (self._task, self._keeping) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def get_certificate(self, node_id: str) -> x509.Certificate | None:
        """Returns the certificate that a node signed its record with; None where there is none."""
        record = self.topology.get_record(node_id)
        if record is None or record.voucher is not None:
            return None
        return self._verifier.certificate_of(record)

    def on_identity(self, follower: Callable[[TLSConfig], object]) -> None:
        """Calls back with every new identity of this client."""
        self._followers.append(follower)

    def _dial(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._run(), name="aegis-client-feed")

    def _on_identity(self, event: IdentityEvent) -> None:
        if event.kind is IdentityEventKind.REVOCATIONS:
            self.topology.remove_revoked(
                self._verifier.apply_revocations(self._rotator.revocations)
            )
        elif event.kind is IdentityEventKind.CHANGED:
            self._tls = event.tls
            self._verifier.change_bundle(event.tls.bundle)
            for follower in self._followers:
                follower(event.tls)
            self._dial()

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            async for peer in self._candidates():
                self._told, self._last = False, None
                try:
                    await self._watch(peer, backoff)
                except FeedDivergedError as error:
                    _log.info("%s", error)
                except ConnectError as error:
                    self._note(peer, error.causes.get(peer.address, str(error)))
                except (DiscoveryError, CertsError, FeedSilentError) as error:
                    self._note(peer, str(error))
                except grpc.aio.AioRpcError as error:
                    self._note(peer, describe_call_error(error, self._tls))
                    self._last = peer if self._told else None
                except Exception as error:  # noqa: BLE001 - a fault of ours must not end the feed for good
                    line = "the feed of %s failed"
                    self._complaints.warn(peer.address, "fault", line, peer.address, error=error)
                if self._told:
                    # What it told says better whom to ask next than a list made before.
                    break
            await asyncio.sleep(backoff.next())

    async def _watch(self, peer: SeedPeer, backoff: Backoff) -> None:
        node_id = peer.node_id
        if node_id is None:
            found = await asyncio.to_thread(probe_identity, peer.address, self._tls)
            node_id = found.node_id

        def on_message(received: ReceiveResult) -> None:
            backoff.reset()
            self._told = True
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
        """Goes through whom to ask; where a connection broke, that one may be there again."""
        for peer in candidates(self.topology.nodes.values(), self._seeds, self._last):
            if peer not in self._seeds:
                yield peer
                continue
            # Only now: a name server that hangs is in nobody's way as long as nodes answer.
            for found in await asyncio.to_thread(resolve, peer):
                yield found

    def _note(self, peer: SeedPeer, why: str) -> None:
        self._causes[peer.address] = why
        _log.info("the feed of %s ended: %s", peer.node_id or peer.address, why)
