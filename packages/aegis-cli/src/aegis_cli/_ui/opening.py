"""`aegis ui`: serves the page until Ctrl-C or SIGTERM, and opens it in a browser."""

from __future__ import annotations

import os
import sys
import threading

import click
from aegis_certs.cli import show_json

from aegis_cli._mesh.connecting import MeshPlace
from aegis_cli._mesh.live import until_stopped
from aegis_cli._ui.page_server import PageServer
from aegis_cli._ui.watching import MeshSource


async def show_page(place: MeshPlace, port: int, *, opens: bool, json: bool) -> None:
    """Serves the page of a mesh until it is interrupted.

    Args:
        place: The mesh.
        port: The port; 0 takes a free one.
        opens: Whether to open it in a browser, if there is one.
        json: Whether to print the address for machines.
    """
    server = PageServer(place.mesh, MeshSource(place), _note)
    with until_stopped():
        try:
            address = await server.start(port)
            if json:
                show_json({"address": address}, indent=None)
            else:
                # A line of its own fits into 80 columns, so that terminals know where it ends.
                click.echo(f"The mesh is at this address, for one browser:\n{address}")
                click.echo("Ctrl-C ends the page.")
            sys.stdout.flush()
            if opens and has_browser():
                # Some browsers return when they end; nobody waits for them here.
                threading.Thread(target=_open, args=(address,), daemon=True).start()
            await server.run()
        finally:
            await server.close()


def _note(text: str) -> None:
    click.echo(text, err=True)


def has_browser() -> bool:
    """Whether a browser can show itself; one that runs in this terminal would take it over."""
    if sys.platform in ("win32", "darwin") or os.environ.get("BROWSER"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(address: str) -> None:
    import webbrowser  # only this command needs it

    if not webbrowser.open(address):
        _note("No browser could be opened: open the address yourself.")
