"""`aegis demo`: a mesh at work."""

from __future__ import annotations

import click
from aegis_certs.cli import examples, json_flag, option


@click.command(
    epilog=examples(
        "aegis demo",
        "aegis demo --keep",
        "aegis demo --json | jq .calls",
        notes="Exit codes: 0 everything worked, 1 something did not, 130 interrupted.",
    )
)
@json_flag
@option(
    "--keep",
    "AEGIS_KEEP",
    "Leave the mesh running until Ctrl-C, to look at it from another terminal.",
    is_flag=True,
)
def demo(json: bool, keep: bool) -> None:
    """See three processes become one mesh.

    The demo creates a CA and identities, starts three nodes on this machine, calls a service of
    two of them from the third and from a client, kills one of the two meanwhile, and shows the
    results.

    It takes about ten seconds and leaves nothing behind, however it ends.
    """
    from aegis_cli._run import run
    from aegis_cli.demo._steps import run_demo

    run(run_demo(json=json, keep=keep))
