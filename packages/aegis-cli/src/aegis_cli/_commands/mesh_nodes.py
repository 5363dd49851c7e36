"""`aegis mesh` commands about one or two nodes."""

from __future__ import annotations

from typing import Any

import click
from aegis_certs.cli import certificate_directory, examples, fail, option

from aegis_cli._commands.mesh import NODE, mesh, place_of
from aegis_cli._options import (
    CHECK_FAILED,
    SpanType,
    check,
    connecting,
    identity_name,
    mesh_name,
    node_address,
)

__all__ = ["mesh"]  # the group with these commands too


@mesh.command(
    epilog=examples(
        f"aegis mesh events {NODE} --since 1h",
        f"aegis mesh events {NODE} --follow --json | jq -c .kind",
    )
)
@connecting
@option(
    "--since",
    "AEGIS_SINCE",
    "Only events of this last time, such as 15m; by default all that the node keeps.",
    type=SpanType(),
    metavar="TIME",
)
@option("--follow", "AEGIS_FOLLOW", "Go on with further events until Ctrl-C.", is_flag=True)
def events(json: bool, since: float | None, follow: bool, **options: Any) -> None:
    """Show what changed in the mesh, as one node saw it.

    A node keeps its last 200 events. With --json each event is one line.
    """
    from aegis_cli._mesh.events import show_events
    from aegis_cli._run import run

    run(show_events(place_of(options), since=since, follow=follow, json=json))


@mesh.command(epilog=examples(f"aegis mesh why orders-2 {NODE}"))
@click.argument("node_id", metavar="ID")
@connecting
@check
def why(node_id: str, json: bool, check: bool, **options: Any) -> None:
    """Tell why a node has its status: who says so, since when.

    It also tells who watches the node, and its last changes. A verdict counts if its author watches
    the node and has not restarted since. A node has failed when more than half of its observers say
    so.
    """
    from aegis_certs import parse_worker_id

    from aegis_cli._mesh.one_node import explain
    from aegis_cli._output.show import show
    from aegis_cli._run import run

    parse_worker_id(node_id)
    answer = run(explain(place_of(options), node_id))
    show(answer, json=json)
    if check and answer.wrong:
        click.get_current_context().exit(CHECK_FAILED)


@mesh.command(epilog=examples(f"aegis mesh diff orders-1 orders-2 {NODE} --check"))
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@connecting
@check
def diff(a: str, b: str, json: bool, check: bool, **options: Any) -> None:
    """Show where the views of two nodes differ.

    It compares nodes, statuses, documents and policies. What differs for less than a second does
    not count: news may be on the way.
    """
    from aegis_cli._mesh.compare import compare
    from aegis_cli._output.show import show
    from aegis_cli._run import run

    answer = run(compare(place_of(options), a, b))
    show(answer, json=json)
    if check and answer.wrong:
        click.get_current_context().exit(CHECK_FAILED)


@mesh.command(epilog=examples(f"aegis mesh ping orders-1 {NODE} --count 10"))
@click.argument("node_id", metavar="ID")
@connecting
@option(
    "--count",
    "AEGIS_PING_COUNT",
    "How many pings to send.",
    type=click.IntRange(1, 1000),
    default=3,
    metavar="N",
)
def ping(node_id: str, json: bool, count: int, **options: Any) -> None:
    """Ping a node from here, with mutual TLS.

    The exit code is 8 if a ping was not answered.
    """
    from aegis_cli._mesh.one_node import send_pings
    from aegis_cli._output.show import show
    from aegis_cli._run import run

    answer = run(send_pings(place_of(options), node_id, count))
    show(answer, json=json)
    if answer.wrong:
        click.get_current_context().exit(CHECK_FAILED)


@mesh.command(
    epilog=examples(
        f"aegis mesh drain orders-3 {NODE}",
        f"aegis mesh drain orders-3 {NODE} --identity ops",
    )
)
@click.argument("node_id", metavar="ID")
@node_address
@certificate_directory("--cert-dir", "The directory of the CA, with its key, or of the identity.")
@identity_name
@mesh_name
def drain(node_id: str, node: str, cert_dir: str, identity: str | None, mesh: str) -> None:
    """Let a node leave the mesh, finish its calls, and end.

    It does from afar what SIGTERM does on the node's machine. Run this where the CA's key is: a
    running issuer signs the order. With --identity the node itself is asked; it obeys if a rule of
    its policy names this identity for the service aegis.mesh.v1.Operations. The order is for the
    present process of the node only: what starts later under this id serves.
    """
    from aegis_certs import parse_worker_id

    from aegis_cli._identity import client_identity
    from aegis_cli._mesh.authority import authority_files
    from aegis_cli._mesh.connecting import MeshPlace
    from aegis_cli._mesh.drain import drain as order_to_drain
    from aegis_cli._run import run

    parse_worker_id(node_id)
    files = None if identity else authority_files(cert_dir)
    place = MeshPlace(node, lambda: client_identity(cert_dir, identity), mesh)
    if run(order_to_drain(node_id, place, files)):
        click.echo(f"{node_id} has left the mesh; it finishes its calls and ends.")
        return
    why = "It has the order; look at its log."
    if files is not None:
        why = f"It drains once an issuer of {cert_dir} runs: `aegis node run --issuer`."
    fail(f"{node_id} has not left yet. {why}")


@mesh.command(
    epilog=examples(
        "aegis mesh forget orders-3 --node 127.0.0.1:50051",
        "aegis mesh forget 'orders-3#2' --node 10.0.0.5:50051",
    )
)
@click.argument("node_id", metavar="ID")
@node_address
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
    from aegis_cli._mesh.connecting import MeshPlace
    from aegis_cli._mesh.forget import forget as ask_to_forget
    from aegis_cli._run import run

    parse_worker_id(node_id)
    files = authority_files(cert_dir)
    place = MeshPlace(node, lambda: client_identity(cert_dir, None), mesh)
    if run(ask_to_forget(node_id, place, files)):
        click.echo(f"{node_id} is forgotten.")
    else:
        click.echo(
            f"{node_id} will be forgotten when an issuer of {cert_dir} runs; start one with "
            f"`aegis node run --issuer`.",
            err=True,
        )
