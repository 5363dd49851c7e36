"""`aegis mesh` commands about calls, policies and the whole picture."""

from __future__ import annotations

from typing import Any

import click
from aegis_certs.cli import examples, option

from aegis_cli._commands.mesh import NODE, answer, filter_of, mesh, place_of, reads
from aegis_cli._options import SpanType, check, connecting, filtering, watch

PARTS = ("edges", "edges_left_out", "started_at")

over = option(
    "--over",
    "AEGIS_OVER",
    "Count the calls of this time from now on; by default all since each node started.",
    type=SpanType(),
    metavar="TIME",
)


@mesh.command(
    epilog=examples(
        f"aegis mesh top {NODE}",
        f"aegis mesh top {NODE} --watch",
        f"aegis mesh top {NODE} --service orders/v1 --over 10s --check",
    )
)
@connecting
@filtering
@over
@check
@watch
def top(over: float | None, **options: Any) -> None:
    """Show calls a second, success, p50 and p99 of each service.

    --watch shows the calls of each second. A call succeeds if it ends with OK. With --check a
    service is wrong if less than 99 % of its calls succeed.
    """
    _show("top", over, options)


@mesh.command(
    epilog=examples(f"aegis mesh edges {NODE}", f"aegis mesh edges {NODE} --service orders/v1")
)
@connecting
@filtering
@over
@check
@watch
def edges(over: float | None, **options: Any) -> None:
    """Show who calls whom: calls a second, success, latency.

    As callers count them, with each retry; the calls of plain clients as providers count them.
    """
    _show("edges", over, options)


def _show(what: str, over: float | None, options: dict[str, Any]) -> None:
    from aegis_cli._view.traffic import Traffic

    place, chosen = place_of(options), filter_of(options)
    traffic = Traffic(chosen, over=options["watch"] or over is not None)
    shown = getattr(traffic, what)
    answer(place, _reads_twice(shown, over), shown, **options)


def _reads_twice(shown: Any, over: float | None) -> Any:
    """Reads, and with `over` notes the counts first and waits so long."""
    read = reads(of_all=PARTS)

    async def read_twice(reader: Any) -> Any:
        import asyncio

        if over is not None:
            shown(await read(reader))
            await asyncio.sleep(over)
        return await read(reader)

    return read_twice


@mesh.command(epilog=examples(f"aegis mesh policies {NODE}", f"aegis mesh policies {NODE} --check"))
@connecting
@filtering
@check
def policies(json: bool, check: bool, **options: Any) -> None:
    """Show which policies decide at each node.

    It shows source, digest, sequence and the number of rules. A node that lacks the newest
    published policy is at the top. `aegis policy check` tells what a policy decides.
    """
    from aegis_cli._view import policies as view

    place, chosen = place_of(options), filter_of(options)
    read = reads(of_all=("policies",))
    answer(place, read, lambda seen: view.policies(seen, chosen), json=json, check=check)


@mesh.command(
    epilog=examples(
        f"aegis mesh graph {NODE}",
        f"aegis mesh graph {NODE} --format svg > mesh.svg",
        f"aegis mesh graph {NODE} --format dot | dot -Tpng > mesh.png",
    )
)
@connecting
@filtering
@option(
    "--format",
    "AEGIS_GRAPH_FORMAT",
    "The form of the picture.",
    parameter="form",
    type=click.Choice(["terminal", "svg", "mermaid", "dot"]),
    default="terminal",
)
def graph(json: bool, form: str, **options: Any) -> None:
    """Draw the mesh: regions, nodes, services, and who calls whom.

    Edges are as wide as their traffic since each node started, and red where calls fail.
    """
    from aegis_cli._view.graph import graph as draw

    place, chosen = place_of(options), filter_of(options)
    read = reads(own=("standings",), of_all=PARTS)
    answer(place, read, lambda seen: draw(seen, chosen, form), json=json)
