"""A mesh as a client sees it: its topology and calls to its services."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import _get_running_loop  # unlike the public one, it never raises
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, Self, Unpack

from cryptography import x509

from aegis_discovery._client.feed_client import FeedClient
from aegis_discovery._client.setup import create_client
from aegis_discovery._runtime.loop_timers import timers_outside_loop
from aegis_discovery._topology.topology import Topology
from aegis_discovery.errors import ClosedError

if TYPE_CHECKING:
    from aegis_discovery._calls.aio.pool import ServiceClientPool
    from aegis_discovery._client.arguments import ConnectArguments


class Mesh:
    """A live view of a mesh, for a process that is not one of its nodes.

    Attributes:
        topology: Kept up to date by a feed from any node of the mesh: all nodes, or the providers
            of the services that were requested.
        documents: What the CA of the mesh has published.
    """

    def __init__(self, client: FeedClient, pool_arguments: dict[str, Any]) -> None:
        self._client = client
        self._timers = contextlib.ExitStack()
        self._pool_arguments = pool_arguments
        self._pool: ServiceClientPool | None = None
        self._closed = False
        self.topology: Topology = client.topology
        self.documents = client.documents

    @property
    def pool(self) -> ServiceClientPool:
        """Channels to its services; made on first use, since who only looks at a mesh needs none.

        Raises:
            ClosedError: The mesh was closed, and had no pool before.
        """
        if self._pool is None:
            if self._closed:
                raise ClosedError("mesh")
            from aegis_discovery._calls.aio.pool import ServiceClientPool

            self._pool = ServiceClientPool(tls=self._client.tls, **self._pool_arguments)
            self._client.on_identity_change(self._pool.change_identity)
            self._client.may_provide.subscribe_changed(self._pool.reevaluate)
            if _get_running_loop() is not None:  # where its timers make each call dearer
                self._timers.enter_context(timers_outside_loop())
        return self._pool

    @property
    def silent_for(self) -> float:
        """Seconds since the feed last brought a message; nodes send one every two seconds."""
        return self._client.silent_for

    def get_certificate(self, node_id: str) -> x509.Certificate | None:
        """Returns the certificate of a node; None if it is unknown or signs nothing itself."""
        return self._client.get_certificate(node_id)

    async def close(self) -> None:
        """Ends the feed and closes the pool."""
        self._closed = True
        await self._client.close()
        if self._pool is not None:
            await self._pool.close()
        self._timers.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Connecting(Coroutine[Any, Any, Mesh]):
    """A mesh to come: `await` it, or enter it with `async with`."""

    def __init__(self, connecting: Coroutine[Any, Any, Mesh]) -> None:
        self._connecting = connecting
        self._mesh: Mesh | None = None

    def __await__(self) -> Generator[Any, Any, Mesh]:
        return self._connecting.__await__()

    def send(self, value: Any) -> Any:
        return self._connecting.send(value)

    def throw(self, *error: Any) -> Any:
        return self._connecting.throw(*error)

    def close(self) -> None:
        self._connecting.close()

    async def __aenter__(self) -> Mesh:
        self._mesh = await self._connecting
        return self._mesh

    async def __aexit__(self, *_: object) -> None:
        if self._mesh is not None:
            await self._mesh.close()


def connect(*seed_peers: str, **options: Unpack[ConnectArguments]) -> Connecting:
    """Connects a client to a mesh; the result is awaited, or entered with `async with`.

    The arguments are those of `aegis_discovery.connect`.

    Raises:
        ConnectError: If no seed peer accepted the client, or no feed can serve this request.
        aegis_certs.CertsError: If the identity cannot be loaded.
    """
    return Connecting(_connect(*seed_peers, **options))


async def _connect(*seed_peers: str, **options: Unpack[ConnectArguments]) -> Mesh:
    client, pool_arguments = await asyncio.to_thread(create_client, *seed_peers, **options)
    await client.start()
    return Mesh(client, pool_arguments)
