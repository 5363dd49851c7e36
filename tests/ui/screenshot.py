"""Makes the picture of the guide: `uv run python tests/ui/screenshot.py docs/_static/ui.png`."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from pathlib import Path

from aegis_cli._ui.page_server import PageServer
from chromium import Chromium
from simulated import SimulatedSource


async def main(path: Path) -> None:
    """A mesh of 200 nodes, of which two have failed, and a service whose calls fail."""
    logging.disable()  # the nodes of the simulation say a lot
    source = SimulatedSource(["eu-west", "us-east"], 100, failing=["ledger"])
    for node_id in ("eu-west-006", "us-east-015"):
        source.simulation.kill(node_id)
    server = PageServer("aegis", source, lambda _: None)
    address = await server.start(0)
    try:
        await asyncio.to_thread(take, address, path)
    finally:
        await server.close()


def take(address: str, path: Path) -> None:
    """Waits until the page has something to show."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folder as name, Chromium(Path(name)) as chromium:
        chromium.size(1180, 800, scale=0.85)
        chromium.open(address)
        chromium.until("document.querySelectorAll('.point .box.bad').length === 2")
        chromium.until("document.getElementById('window').textContent.includes('last')")
        chromium.picture(path)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
