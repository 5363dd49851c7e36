"""A client's view of a mesh in a registry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aegis_certs import TLSConfig

from aegis_discovery._runtime.sleeping import sleep_until_tick
from aegis_discovery._topology.topology import Topology
from aegis_discovery.feed._reader import FeedReader, ReceiveResult
from aegis_discovery.registry._address import RegistryAddress
from aegis_discovery.registry._contents import Contents
from aegis_discovery.registry._etcd_registry import EtcdRegistry
from aegis_discovery.registry._keys import Keys
from aegis_discovery.registry._statuses import RegistryStatuses


class RegistryFollower:
    """Keeps the topology of a client up to date from a registry.

    Args:
        address: Where the registry is.
        tls: The identity of the client.
        mesh: The name of the mesh.
        topology: The client's topology.
        reader: Verifies what is read, and merges it.
        knows_all: Whether the topology has all nodes, not only those of some services.
        on_complete: Called whenever everything was read.
    """

    def __init__(
        self,
        address: RegistryAddress,
        tls: TLSConfig,
        *,
        mesh: str,
        topology: Topology,
        reader: FeedReader,
        knows_all: bool,
        on_complete: Callable[[], None],
    ) -> None:
        self._contents = Contents(Keys(address.prefix, mesh))
        self._statuses = RegistryStatuses(topology, counts_verdicts=knows_all)
        self._on_complete = on_complete
        self._etcd = EtcdRegistry(
            address,
            tls,
            mesh=mesh,
            reader=reader,
            contents=self._contents,
            on_received=self._on_received,
            on_keys=self._on_keys,
        )

    @property
    def causes(self) -> dict[str, str]:
        """Why members of the registry do not answer, by their addresses."""
        return self._etcd.causes

    def change_identity(self, tls: TLSConfig) -> None:
        self._etcd.change_identity(tls)

    async def run(self) -> None:
        following = asyncio.create_task(self._etcd.run(), name="aegis-client-registry")
        try:
            while not following.done():
                await sleep_until_tick(1.0)
                self._statuses.review(time.monotonic())
            await following
        finally:
            following.cancel()
            await asyncio.wait({following})

    def _on_received(self, result: ReceiveResult) -> None:
        if result.complete:
            self._on_complete()

    def _on_keys(self) -> None:
        self._statuses.key_changes(*self._contents.take_changes(), time.monotonic())
