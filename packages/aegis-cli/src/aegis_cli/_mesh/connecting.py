"""Connects commands to a mesh: once, or for as long as they watch it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from aegis_certs import CertsError, TLSConfig, owner_of
from aegis_discovery import NodeInfo, NodeStatus, PeerIdentityError
from aegis_discovery.aio import connect
from aegis_discovery.background import in_daemon_thread
from aegis_discovery.errors import DiscoveryError
from aegis_discovery.transport import parse_seed, probe_identity

from aegis_cli._mesh.reader import Reader
from aegis_cli.errors import CliError

TOPOLOGY_TIMEOUT = 5.0
"""Seconds in which a node must send the topology."""

Identity = Callable[[], TLSConfig]
"""Returns the identity to connect with: another one when the last has too little time left."""


class MeshPlace(NamedTuple):
    """Where a mesh can be read.

    Attributes:
        node: `host:port`, or `id@host:port`, of a node; None with a registry.
        identity: Returns the identity to connect with.
        mesh: The name of the mesh.
        registry: The address of its registry, in place of a node.
    """

    node: str | None
    identity: Identity
    mesh: str
    registry: str | None = None

    def at(self, node: str) -> Self:
        """The same mesh, read from this node."""
        return self._replace(node=node, registry=None)


@asynccontextmanager
async def reading(place: MeshPlace) -> AsyncIterator[Reader]:
    """Connects to a mesh.

    Raises:
        aegis_discovery.ConnectError: The node or the registry does not answer, or refuses the
            identity.
    """
    reader = await open_reader(place, place.identity())
    try:
        yield reader
    finally:
        await reader.close()


async def open_reader(place: MeshPlace, tls: TLSConfig) -> Reader:
    """Connects to a mesh; close the reader when it is not needed any more."""
    if place.node is None:
        connected = await connect(
            registry=place.registry, tls=tls, mesh=place.mesh, timeout=TOPOLOGY_TIMEOUT
        )
        alive = [one for one in connected.topology.nodes.values() if not one.vouched_by]
        alive.sort(key=lambda one: (one.status is not NodeStatus.ALIVE, one.id))
        return Reader(connected, tls, alive[0] if alive else NodeInfo("the registry"))
    peer = parse_seed(place.node)
    # `connect` retries until its timeout; here the first answer decides.
    answered = await in_daemon_thread(probe_identity, peer.address, tls)
    if peer.node_id is not None and owner_of(peer.node_id) != answered.node_id:
        raise PeerIdentityError(
            peer.address, f"{answered.node_id} answers there, not {peer.node_id}"
        )
    known = f"{answered.node_id}@{peer.address}"
    connected = await connect(known, tls=tls, mesh=place.mesh, timeout=TOPOLOGY_TIMEOUT)
    found = next(
        (
            one
            for one in connected.topology.get_nodes_by_identity(answered.node_id)
            if one.id == peer.node_id or one.address == peer.address
        ),
        NodeInfo(answered.node_id, address=peer.address),
    )
    return Reader(connected, tls, found)


class LastingReader:
    """Reads for as long as a command watches, also beyond the end of an identity.

    A new identity is taken when half of the time that the last one had left is over, and everything
    is read through it from then on.
    """

    def __init__(
        self,
        place: MeshPlace,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._place = place
        self._clock = clock
        self._reader: Reader | None = None
        self._renew_at = clock()
        self._trouble = ""

    async def open(self) -> Reader:
        """Returns the reader of now."""
        if self._reader is None:
            tls = await asyncio.to_thread(self._place.identity)
            self._reader = await open_reader(self._place, tls)
            self._note(tls)
        elif self._clock() >= self._renew_at:
            await self._renew(self._reader)
        assert self._reader is not None  # noqa: S101 - set above
        return self._reader

    @property
    def trouble(self) -> str:
        """Why the identity could not be renewed; empty if it was."""
        return self._trouble

    async def close(self) -> None:
        if self._reader is not None:
            await self._reader.close()

    async def _renew(self, reader: Reader) -> None:
        source = reader.source
        try:
            tls = await asyncio.to_thread(self._place.identity)
            # The node that was named first may be gone by now.
            places = [self._place]
            if self._place.node is not None:
                places.insert(0, self._place.at(f"{source.id}@{source.address}"))
            renewed = await _first(places, tls)
        except (CertsError, CliError, DiscoveryError, OSError) as error:
            self._trouble = str(error)
            self._renew_at = self._clock() + timedelta(seconds=10)
            return
        self._trouble, self._reader = "", renewed
        self._note(tls)
        await reader.close()

    def _note(self, tls: TLSConfig) -> None:
        now = self._clock()
        self._renew_at = now + max((tls.not_after - now) / 2, timedelta(seconds=1))


async def _first(places: Sequence[MeshPlace], tls: TLSConfig) -> Reader:
    for place in places[:-1]:
        try:
            return await open_reader(place, tls)
        except DiscoveryError:
            continue
    return await open_reader(places[-1], tls)
