"""The blocking API of a client's mesh."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, Unpack

from cryptography import x509

from aegis_discovery._calls.sync.pool import ServiceClientPool
from aegis_discovery._client.feed_client import FeedClient
from aegis_discovery._client.setup import create_client
from aegis_discovery._topology.topology import Topology
from aegis_discovery.background import BackgroundLoop
from aegis_discovery.documents._store import DocumentStore

if TYPE_CHECKING:
    from aegis_discovery._client.arguments import ConnectArguments


class Mesh:
    """A live view of a mesh, for a process that is not one of its nodes.

    The feed runs on an event loop in a background thread; calls do not pass through it. A mesh
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
        client.on_identity_change(pool.change_identity)
        client.may_provide.subscribe_changed(pool.reevaluate)

    @property
    def topology(self) -> Topology:
        """Kept up to date by a feed from any node of the mesh.

        It has all nodes, or the providers of the services that were requested.
        """
        self._background.check_fork("mesh")
        return self._client.topology

    @property
    def documents(self) -> DocumentStore:
        """What the CA of the mesh has published."""
        self._background.check_fork("mesh")
        return self._client.documents

    @property
    def pool(self) -> ServiceClientPool:
        """Channels to its services."""
        self._background.check_fork("mesh")
        return self._pool

    @property
    def silent_for(self) -> float:
        """Seconds since the feed last brought a message; nodes send one every two seconds."""
        return self._client.silent_for

    def get_certificate(self, node_id: str) -> x509.Certificate | None:
        """Returns the certificate of a node; None if it is unknown or signs nothing itself."""
        return self._client.get_certificate(node_id)

    def close(self) -> None:
        """Ends the feed and closes the pool; does nothing in a forked child, which has neither."""
        if not self._background.closed:
            self._pool.close()
            self._background.run(self._client.close())
            self._background.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(*seed_peers: str, **options: Unpack[ConnectArguments]) -> Mesh:
    """Connects a client to a mesh.

    Args:
        seed_peers: `host:port` or `id@host:port` of nodes, in the order in which to try them. All
            addresses of a host name are tried.
        options: Keyword arguments:

            - `node_id`: The client's identity in `cert_dir`; issued there if the CA key is there. A
              client creates no CA.
            - `cert_dir`: The directory of certificates; `./certs` by default.
            - `tls`: The identity itself, in place of `node_id` and `cert_dir`.
            - `token`: A token of the mesh's CA: its text, or the `Path` of a file that holds it.
              With it, a client that has no identity yet, or an expired one, enrols. Where `node_id`
              is given too, the token is read only then.
            - `mesh`: The mesh's name; `DEFAULT_MESH` by default.
            - `registry`: Follow this registry instead of seed peers:
              `etcd://[NAME@]HOST:PORT,.../PREFIX`.
            - `services`: Limits the topology to the providers of these services, of any version
              where `version` is empty, so that a small client of a large mesh stores and processes
              only what it calls. By default the topology has all nodes.
            - `policy`: Its `provide` rules decide which nodes may provide a service; the pool calls
              no others.
            - `region`: The region of this process; its providers are preferred, and its nodes serve
              this client as long as one of them answers.
            - `zone`: The zone of this process; its providers are preferred above all.
            - `pool_options`: Options of the pool: balancers, retries, service config, interceptors.
            - `telemetry`: Traces and measures the calls, with OpenTelemetry:
              `aegis_discovery.telemetry.OpenTelemetry()`. Off by default.
            - `timeout`: Seconds to wait for the whole topology; 10 by default.
            - `wait`: False to return at once, before any node answered. The client goes on trying
              to reach the mesh, and a call with `wait_for_ready=True` waits for its provider.

    Raises:
        ConnectError: If no seed peer accepted the client, the registry did not answer, or no feed
            can serve this request.
        InvalidAddressError: If a seed peer or the registry is not a valid address.
        TokenError: If the token cannot be used.
        EnrolmentError: If no issuer gave a certificate for the token.
        aegis_certs.CertsError: If the identity cannot be loaded.
    """
    client, pool_arguments = create_client(*seed_peers, **options)
    # Not uvloop's, which takes longer to load than a feed can gain by it: calls pass it by.
    background = BackgroundLoop("aegis-client", asyncio.new_event_loop)
    try:
        background.run(client.start())
    except BaseException:
        background.close()
        raise
    return Mesh(background, client, ServiceClientPool(tls=client.tls, **pool_arguments))
