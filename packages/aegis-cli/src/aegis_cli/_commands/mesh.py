"""`aegis mesh`: look at a mesh from outside, and change who belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from aegis_certs.cli import examples, option

from aegis_cli._group import group
from aegis_cli._options import CHECK_FAILED, SpanType, check, connecting, filtering, watch

if TYPE_CHECKING:
    from aegis_cli._mesh.live import Place, Read, Shown
    from aegis_cli._view.model import Filter

NODE = "--node 127.0.0.1:50051"


@group(
    f"aegis mesh status {NODE}",
    f"aegis mesh why orders-2 {NODE}",
    notes="Set AEGIS_NODE once, and every command knows a node to ask.",
    events="aegis_cli._commands.mesh_nodes:events",
    why="aegis_cli._commands.mesh_nodes:why",
    diff="aegis_cli._commands.mesh_nodes:diff",
    ping="aegis_cli._commands.mesh_nodes:ping",
    drain="aegis_cli._commands.mesh_nodes:drain",
    forget="aegis_cli._commands.mesh_nodes:forget",
    top="aegis_cli._commands.mesh_traffic:top",
    edges="aegis_cli._commands.mesh_traffic:edges",
    policies="aegis_cli._commands.mesh_traffic:policies",
    graph="aegis_cli._commands.mesh_traffic:graph",
)
def mesh() -> None:
    """Look at a mesh, and remove nodes from it."""


def place_of(options: dict[str, Any]) -> Place:
    """Takes the options of `connecting`, but `json`, out of all options."""
    from aegis_cli._identity import client_identity
    from aegis_cli._mesh.live import Place

    cert_dir, identity = options.pop("cert_dir"), options.pop("identity")
    node, registry = options.pop("node"), options.pop("registry")
    if (node is None) is (registry is None):
        raise click.UsageError("name one node of the mesh by --node, or its --registry")
    return Place(
        node, lambda: client_identity(cert_dir, identity), options.pop("mesh"), registry=registry
    )


def filter_of(options: dict[str, Any]) -> Filter:
    """Takes the options of `filtering` out of all options."""
    from aegis_cli._view.model import Filter

    return Filter(*(options.pop(name) for name in ("services", "regions", "zones", "statuses")))


def answer(
    place: Place,
    read: Read,
    shown: Shown,
    *,
    json: bool,
    check: bool = False,
    watch: bool = False,
) -> None:
    """Shows one answer, or one after another; `check` makes an exit code of what is wrong."""
    from aegis_cli._run import run

    show = place.live if watch else place.once
    wrong = run(show(read, shown, json=json))
    if check and wrong:
        click.get_current_context().exit(CHECK_FAILED)


def reads(**parts: Any) -> Callable[[Any], Any]:
    """Reads a view with these parts."""

    async def read(reader: Any) -> Any:
        return await reader.read(**parts)

    return read


OWN: Sequence[str] = ("standings",)


@mesh.command(
    epilog=examples(
        f"aegis mesh status {NODE}",
        "aegis mesh status --node orders-1@10.0.0.7:50051 --identity ops",
        f"aegis mesh status {NODE} --service orders/v1 --status failed",
        f"aegis mesh status {NODE} --check --json | jq '.nodes[].id'",
    )
)
@connecting
@filtering
@option("--wide", "AEGIS_SHOW_WIDE", "Show name, type and address too.", is_flag=True)
@option(
    "--workers",
    "AEGIS_SHOW_WORKERS",
    "Show each worker; by default those of one id are one line. JSON always has each.",
    is_flag=True,
)
@check
@watch
def status(json: bool, wide: bool, workers: bool, check: bool, watch: bool, **options: Any) -> None:
    """Show the nodes: status, since when and by whom, certificate.

    What is wrong is at the top. One node is asked, which knows about all; `aegis mesh nodes` asks
    each node itself. --watch updates the table on a terminal; a pipe gets one table after another,
    or one line of JSON after another.
    """
    from aegis_cli._view import status as view

    place, chosen = place_of(options), filter_of(options)
    answer(
        place,
        reads(own=OWN),
        lambda seen: view.status(seen, chosen, wide=wide, workers=workers),
        json=json,
        check=check,
        watch=watch,
    )


@mesh.command(
    epilog=examples(f"aegis mesh nodes {NODE}", f"aegis mesh nodes {NODE} --region eu --watch")
)
@connecting
@filtering
@check
@watch
def nodes(json: bool, check: bool, watch: bool, **options: Any) -> None:
    """Ask each node itself: health, round trip, nodes it knows."""
    from aegis_cli._view import nodes as view

    place, chosen = place_of(options), filter_of(options)
    parts = ("node_id", "started_at", "topology_nodes", "calls", "feeds", "certificate_not_after")
    read = reads(own=OWN, of_all=parts, replies=True)
    answer(place, read, lambda seen: view.nodes(seen, chosen), json=json, check=check, watch=watch)


@mesh.command(
    epilog=examples(
        f"aegis mesh services {NODE}", f"aegis mesh services {NODE} --service orders/v1 --check"
    )
)
@connecting
@filtering
@check
@watch
def services(json: bool, check: bool, watch: bool, **options: Any) -> None:
    """Show who provides which service, and who is avoided.

    A caller avoids a provider that failed its calls (ejected), that it cannot reach, or that says
    itself that it is unhealthy.
    """
    from aegis_cli._view import services as view

    place, chosen = place_of(options), filter_of(options)
    read = reads(own=OWN, of_all=("pool",))
    answer(
        place, read, lambda seen: view.services(seen, chosen), json=json, check=check, watch=watch
    )


@mesh.command(
    epilog=examples(f"aegis mesh certs {NODE}", f"aegis mesh certs {NODE} --within 14d || mail ops")
)
@connecting
@filtering
@option(
    "--within",
    "AEGIS_WITHIN",
    f"Only certificates that end within this time; exit code {CHECK_FAILED} if there are any.",
    type=SpanType(),
    metavar="TIME",
)
def certs(json: bool, within: float | None, **options: Any) -> None:
    """Show the certificates of nodes and CAs, by what ends next."""
    from aegis_cli._view import certificates as view

    place, chosen = place_of(options), filter_of(options)
    answer(
        place,
        reads(),
        lambda seen: view.certificates(seen, chosen, within=within),
        json=json,
        check=within is not None,
    )
