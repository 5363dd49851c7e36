"""`aegis ui`: the mesh in a browser."""

from __future__ import annotations

from typing import Any

import click
from aegis_certs.cli import examples, option

from aegis_cli._commands.mesh import NODE, place_of
from aegis_cli._options import connecting


@click.command(
    epilog=examples(
        f"aegis ui {NODE}",
        f"aegis ui {NODE} --port 7070 --no-open",
        "ssh -L 7070:127.0.0.1:7070 ops.example aegis ui --port 7070 --no-open",
    )
)
@connecting
@option(
    "--port",
    "AEGIS_UI_PORT",
    "The port of the page on this machine's loopback interface; by default a free one.",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
)
@option("--no-open", "AEGIS_UI_NO_OPEN", "Print the address, and open no browser.", is_flag=True)
def ui(json: bool, port: int, no_open: bool, **options: Any) -> None:
    """Show the mesh in a browser, live.

    It has a picture, services, calls, nodes, events and certificates. The page is on loopback,
    until Ctrl-C. Its address has a token that is good for the first browser that opens it. The page
    changes nothing.
    """
    from aegis_cli._run import run
    from aegis_cli._ui.opening import show_page

    place = place_of(options)
    run(show_page(place, port, opens=not no_open, json=json))
