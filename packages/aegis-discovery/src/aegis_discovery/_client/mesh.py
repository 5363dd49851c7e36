"""The blocking face of a client's mesh."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Self

from aegis_certs import IdentitySource, TLSConfig
from cryptography import x509

from aegis_discovery._address import SeedPeer
from aegis_discovery._calls.options import PoolOptions
from aegis_discovery._calls.sync.pool import ServiceClientPool
from aegis_discovery._client.bootstrap import (
    DEFAULT_MESH,
    check_services,
    client_source,
    parse_seeds,
)
from aegis_discovery._client.feed_client import FeedClient
from aegis_discovery._model import ServiceInfo
from aegis_discovery._topology.topology import Topology
from aegis_discovery.background import BackgroundLoop
from aegis_discovery.policy._providers import ProviderAuthorizer
from aegis_discovery.policy._rules import Policy


class Mesh:
    """A live view of a mesh, for a process that is no node of it.

    The feed runs on an event loop thread in the background; calls do not pass through it. It
    belongs to the process that connected: in a forked child it raises `ForkedError`.
    """

    def __init__(
        self,
        background: BackgroundLoop,
        client: FeedClient,
        pool: ServiceClientPool,
    ) -> None:
        self._background = background
        self._client = client
        self._pool = pool
        client.on_identity(pool.change_identity)

    @property
    def topology(self) -> Topology:
        """Kept up to date by a feed from any node of the mesh.

        It has all nodes, or the providers of the services that were asked for.
        """
        self._background.check_fork("mesh")
        return self._client.topology

    @property
    def pool(self) -> ServiceClientPool:
        """Channels to its services."""
        self._background.check_fork("mesh")
        return self._pool

    def get_certificate(self, node_id: str) -> x509.Certificate | None:
        """Returns the certificate of a node; None if it is unknown or signs nothing itself."""
        return self._client.get_certificate(node_id)

    def close(self) -> None:
        """Ends the feed and closes the pool; nothing in a forked child, where neither runs."""
        if not self._background.closed:
            self._pool.close()
            self._background.run(self._client.close())
            self._background.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    *seed_peers: str,
    node_id: str | None = None,
    cert_dir: str | Path = "./certs",
    tls: TLSConfig | None = None,
    mesh: str = DEFAULT_MESH,
    services: Collection[ServiceInfo] = (),
    policy: Policy | None = None,
    region: str = "",
    zone: str = "",
    pool_options: PoolOptions | None = None,
    timeout: float = 10.0,
) -> Mesh:
    """Connects a client to a mesh, as `aegis_discovery.aio.connect`.

    Raises:
        ConnectError: If no seed peer let the client in, or none could be asked for this.
        aegis_certs.CertsError: If the identity cannot be loaded.
    """
    seeds = parse_seeds(seed_peers)
    wanted = check_services(services)
    source = client_source(node_id, cert_dir, tls)
    identity = source.load()
    background = BackgroundLoop("aegis-client")
    try:
        client = background.run(_start(source, identity, seeds, mesh, wanted, timeout))
    except BaseException:
        background.close()
        raise
    pool = ServiceClientPool(
        client.topology,
        identity,
        region=region,
        zone=zone,
        may_provide=ProviderAuthorizer(policy, identity.trust_domain),
        **vars(pool_options or PoolOptions()),
    )
    return Mesh(background, client, pool)


async def _start(
    source: IdentitySource,
    tls: TLSConfig,
    seeds: tuple[SeedPeer, ...],
    mesh: str,
    services: tuple[ServiceInfo, ...],
    timeout: float,
) -> FeedClient:
    client = FeedClient(source, tls, seeds, mesh=mesh, services=services)
    await client.start(timeout)
    return client
