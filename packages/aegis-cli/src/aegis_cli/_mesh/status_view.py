"""Shows the status of a mesh, once or repeatedly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from aegis_certs import TLSConfig, owner_of
from aegis_certs.cli import show_json
from aegis_discovery import PeerIdentityError
from aegis_discovery.aio import connect
from aegis_discovery.transport import parse_seed, probe_identity
from rich.console import Group

from aegis_cli._console import console, print_lines
from aegis_cli._mesh.status import Collector, MeshFacts
from aegis_cli._mesh.table import mesh_json, mesh_table

TOPOLOGY_TIMEOUT = 5.0
"""Seconds in which a node must send the topology."""

INTERVAL = 1.0
"""Seconds between two updates."""


@asynccontextmanager
async def collector(
    node: str | None, tls: TLSConfig, mesh: str, registry: str | None = None
) -> AsyncIterator[Collector]:
    """Connects to a mesh through one of its nodes, or through its registry.

    Raises:
        aegis_discovery.ConnectError: The node or the registry does not answer, or refuses the
            identity.
    """
    seeds = [] if node is None else [await _known(node, tls)]
    connecting = connect(*seeds, registry=registry, tls=tls, mesh=mesh, timeout=TOPOLOGY_TIMEOUT)
    async with connecting as connected:
        status = Collector(connected, tls)
        try:
            yield status
        finally:
            await status.close()


async def _known(node: str, tls: TLSConfig) -> str:
    """Returns a node with the id that its certificate proves."""
    peer = parse_seed(node)
    # `connect` retries until its timeout; here the first answer decides.
    answered = await asyncio.to_thread(probe_identity, peer.address, tls)
    if peer.node_id is not None and owner_of(peer.node_id) != answered.node_id:
        raise PeerIdentityError(
            peer.address, f"{answered.node_id} answers there, not {peer.node_id}"
        )
    return f"{answered.node_id}@{peer.address}"


async def show_once(
    node: str | None,
    tls: TLSConfig,
    *,
    registry: str | None,
    mesh: str,
    json: bool,
    workers: bool,
) -> None:
    """Prints the present status."""
    async with collector(node, tls, mesh, registry) as status:
        facts = await status.collect(with_stats=json)
    if json:
        show_json(mesh_json(facts))
    else:
        out = console()
        print_lines(out, mesh_table(facts, out.width, workers=workers))


async def show_until_interrupted(
    node: str | None,
    tls: TLSConfig,
    *,
    registry: str | None,
    mesh: str,
    json: bool,
    workers: bool,
) -> None:
    """Shows the status repeatedly, in place on a terminal, until it is cancelled."""
    with suppress(asyncio.CancelledError), _view(json, workers) as show:
        async with collector(node, tls, mesh, registry) as status:
            while True:
                show(await status.collect(with_stats=json))
                await asyncio.sleep(INTERVAL)


@contextmanager
def _view(json: bool, workers: bool) -> Iterator[Callable[[MeshFacts], None]]:
    """Yields a function that shows the facts, in the form that fits the output."""
    out = console()
    if json:
        yield lambda facts: show_json(mesh_json(facts), indent=None)
    elif out.is_terminal:
        from rich.live import Live  # for --watch only

        with Live(console=out, auto_refresh=False) as live:
            yield lambda facts: live.update(
                mesh_table(facts, out.width, workers=workers), refresh=True
            )
    else:
        yield lambda facts: print_lines(
            out, Group(mesh_table(facts, out.width, workers=workers), "")
        )
