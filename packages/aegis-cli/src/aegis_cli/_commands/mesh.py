"""`aegis mesh`: looking at a mesh from outside."""

from __future__ import annotations

import click
from aegis_certs.cli import CommandGroup

from aegis_cli._exit_codes import exit_codes
from aegis_cli._options import cert_dir, examples, json_flag, mesh_name, option


@click.group(
    cls=CommandGroup,
    exit_codes=exit_codes,
    epilog=examples("aegis mesh status --node 127.0.0.1:50051"),
)
def mesh() -> None:
    """Look at a mesh."""


@mesh.command(
    epilog=examples(
        "aegis mesh status --node 127.0.0.1:50051",
        "aegis mesh status --node orders-1@10.0.0.7:50051 --identity ops",
        "aegis mesh status --node 127.0.0.1:50051 --watch",
        "aegis mesh status --node 127.0.0.1:50051 --json | jq '.nodes[].id'",
    )
)
@option(
    "--node",
    "AEGIS_NODE",
    "A node of the mesh; who it is follows from its certificate where no id is given.",
    required=True,
    metavar="[ID@]HOST:PORT",
)
@cert_dir("Directory of the CA's certificate, and of its key or the identity named.")
@option(
    "--identity",
    "AEGIS_IDENTITY",
    "Ask as this identity of the certificate directory; by default as a client-only one of an "
    "hour's life, which is made in memory where the CA's key is at hand.",
    metavar="NAME",
)
@mesh_name
@json_flag
@option("--watch", "AEGIS_WATCH", "Show it anew every second until Ctrl-C.", is_flag=True)
def status(
    node: str, cert_dir: str, identity: str | None, mesh: str, json: bool, watch: bool
) -> None:
    """Show the nodes of a mesh, and how they are.

    One node tells the topology; every node of it is then asked for its health and pinged.

    With --watch a terminal is drawn anew; a pipe gets table after table, or JSON line by line.
    """
    from aegis_cli._identity import asking_identity
    from aegis_cli._mesh.status_view import show_once, show_until_interrupted
    from aegis_cli._run import run

    tls = asking_identity(cert_dir, identity)
    show = show_until_interrupted if watch else show_once
    run(show(node, tls, mesh=mesh, json=json))
