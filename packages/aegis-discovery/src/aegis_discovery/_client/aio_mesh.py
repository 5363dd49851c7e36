"""A mesh as a client sees it: its topology and calls to its services."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Self

from aegis_certs import TLSConfig
from cryptography import x509

from aegis_discovery._calls.aio.pool import ServiceClientPool
from aegis_discovery._calls.options import PoolOptions
from aegis_discovery._client.bootstrap import (
    DEFAULT_MESH,
    check_services,
    client_source,
    parse_seeds,
)
from aegis_discovery._client.feed_client import FeedClient
from aegis_discovery._model import ServiceInfo
from aegis_discovery._topology.topology import Topology
from aegis_discovery.policy._providers import ProviderAuthorizer
from aegis_discovery.policy._rules import Policy


class Mesh:
    """A live view of a mesh, for a process that is no node of it.

    Attributes:
        topology: Kept up to date by a feed from any node of the mesh: all nodes, or the providers
            of the services that were asked for.
        pool: Channels to its services.
    """

    def __init__(self, client: FeedClient, pool: ServiceClientPool) -> None:
        self._client = client
        self.topology: Topology = client.topology
        self.pool = pool
        client.on_identity(pool.change_identity)

    def get_certificate(self, node_id: str) -> x509.Certificate | None:
        """Returns the certificate of a node; None if it is unknown or signs nothing itself."""
        return self._client.get_certificate(node_id)

    async def close(self) -> None:
        """Ends the feed and closes the pool."""
        await self._client.close()
        await self.pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def connect(
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
    """Connects a client to a mesh.

    Args:
        seed_peers: `host:port` or `id@host:port` of nodes, in the order in which to try them. All
            addresses of a host name are tried.
        node_id: The client's identity, in `cert_dir`; issued there if the CA key is at hand.
        cert_dir: Directory of certificates.
        tls: The identity, in place of `node_id` and `cert_dir`.
        mesh: The mesh's name.
        services: Only the providers of these are told of, of any version where that is empty; a
            small client of a large mesh then knows, and is woken by, what it calls. By default
            all nodes.
        policy: Its `provide` rules say which nodes are called for what they say they provide.
        region: Where this process runs; providers of the same region are preferred.
        zone: A part of the region; providers of the same zone are preferred above all.
        pool_options: How its pool calls: balancers, retries, service config, interceptors.
        timeout: Seconds for the whole topology to arrive.

    Raises:
        ConnectError: If no seed peer let the client in, or none could be asked for this.
        aegis_certs.CertsError: If the identity cannot be loaded.
    """
    seeds = parse_seeds(seed_peers)
    wanted = check_services(services)
    source = client_source(node_id, cert_dir, tls)
    identity = await asyncio.to_thread(source.load)
    client = FeedClient(source, identity, seeds, mesh=mesh, services=wanted)
    await client.start(timeout)
    pool = ServiceClientPool(
        client.topology,
        identity,
        region=region,
        zone=zone,
        may_provide=ProviderAuthorizer(policy, identity.trust_domain),
        **vars(pool_options or PoolOptions()),
    )
    return Mesh(client, pool)
