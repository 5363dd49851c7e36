"""`aegis mesh`: a look at a mesh from outside, and what it is to forget."""

from __future__ import annotations

import click
from aegis_certs.cli import certificate_directory, examples, json_flag, option

from aegis_cli._group import group
from aegis_cli._options import identity_name, mesh_name


@group("aegis mesh status --node 127.0.0.1:50051")
def mesh() -> None:
    """Look at a mesh, and let it forget failed nodes."""


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
    "A node of the mesh; without an id, its certificate says which node it is.",
    metavar="[ID@]HOST:PORT",
)
@option(
    "--registry",
    "AEGIS_REGISTRY",
    "The registry of the mesh, in place of a node.",
    metavar="etcd://HOST:PORT,.../PREFIX",
)
@certificate_directory(
    "--cert-dir", "The directory of the CA's certificate, and of its key or the named identity."
)
@identity_name
@mesh_name
@json_flag
@option(
    "--workers",
    "AEGIS_SHOW_WORKERS",
    "Show each worker; by default those of one id are one line. JSON always has each.",
    is_flag=True,
)
@option("--watch", "AEGIS_WATCH", "Update it every second until Ctrl-C.", is_flag=True)
def status(
    node: str | None,
    registry: str | None,
    cert_dir: str,
    identity: str | None,
    mesh: str,
    json: bool,
    workers: bool,
    watch: bool,
) -> None:
    """Show the nodes of a mesh, and their status and health.

    The topology is read from one node, or from a registry; then each node of it is asked for its
    health and pinged. The line of several workers has the worst of their states, and the longest
    round trip.

    --watch updates the table on a terminal; a pipe gets one table after another, or one line of
    JSON after another.
    """
    from aegis_cli._identity import client_identity
    from aegis_cli._mesh.status_view import show_once, show_until_interrupted
    from aegis_cli._run import run

    if (node is None) is (registry is None):
        raise click.UsageError("name one node of the mesh by --node, or its --registry")
    tls = client_identity(cert_dir, identity)
    show = show_until_interrupted if watch else show_once
    run(show(node, tls, registry=registry, mesh=mesh, json=json, workers=workers))


@mesh.command(
    epilog=examples(
        "aegis mesh forget orders-3 --node 127.0.0.1:50051",
        "aegis mesh forget 'orders-3#2' --node 10.0.0.5:50051",
    )
)
@click.argument("node_id", metavar="ID")
@option(
    "--node",
    "AEGIS_NODE",
    "A node of the mesh that is alive.",
    required=True,
    metavar="[ID@]HOST:PORT",
)
@certificate_directory("--cert-dir", "The directory of the CA, with its key.")
@mesh_name
def forget(node_id: str, node: str, cert_dir: str, mesh: str) -> None:
    """Remove a failed node from all views of the mesh.

    A node that fails stays listed for a day, since it may return. Run this where the CA's key is: a
    running issuer tells the mesh to forget this life of the node. A node that is alive is not
    forgotten, and a later process under the same id is welcome.
    """
    from aegis_certs import parse_worker_id

    from aegis_cli._identity import client_identity
    from aegis_cli._mesh.authority import authority_files
    from aegis_cli._mesh.forget import forget as ask_to_forget
    from aegis_cli._run import run

    parse_worker_id(node_id)
    files = authority_files(cert_dir)
    tls = client_identity(cert_dir, None)
    if run(ask_to_forget(node_id, node, tls, files, mesh=mesh)):
        click.echo(f"{node_id} is forgotten.")
    else:
        click.echo(
            f"{node_id} will be forgotten when an issuer of {cert_dir} runs; start one with "
            f"`aegis node run --issuer`.",
            err=True,
        )
