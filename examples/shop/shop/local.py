"""Starts the whole shop on this machine, with one command: `uv run shop`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import urllib.request
from asyncio.subprocess import PIPE, STDOUT, Process
from contextlib import suppress
from pathlib import Path

from aegis_certs import CertificateAuthority, KeyType

POLICY = Path(__file__).with_name("policy.toml")
NODES = {
    "catalog-1": "catalog",
    "catalog-2": "catalog",
    "payments-1": "payments",
    "orders-1": "orders",
}
"""The nodes, and the service of each. They start in this order, and end in the reverse one."""

START_TIMEOUT = 30.0
"""Seconds in which the shop must be open."""

STOP_TIMEOUT = 20.0
"""Seconds in which a process must leave the mesh and end; then it is killed."""


class ShopError(Exception):
    """The shop cannot open; the message says why."""


class Shop:
    """The processes of the shop.

    Args:
        port: The port of the gateway. The nodes have those that follow, and their metrics those
            from ten later on.
        directory: Where the CA is; each process makes its identity there.
    """

    def __init__(self, port: int, directory: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.addresses = {
            node_id: f"127.0.0.1:{port + number}" for number, node_id in enumerate(NODES, 1)
        }
        self._port = port
        self._directory = directory
        self._processes: dict[str, Process] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._is_stopping = False

    def pid(self, name: str) -> int:
        """The process of a node."""
        return self._processes[name].pid

    async def start(self) -> None:
        """Starts all processes; returns when the gateway finds a provider of each service.

        Raises:
            ShopError: If it does not within 30 seconds, or a process ends.
        """
        for number, (node_id, service) in enumerate(NODES.items(), 1):
            await self._spawn(
                node_id,
                *("-m", f"shop.{service}"),
                AEGIS_ADDRESS=self.addresses[node_id],
                AEGIS_SERVICES=f"{service}/v1",
                AEGIS_METRICS=str(self._port + 10 + number),
                AEGIS_POLICY=str(POLICY),
            )
        await self._spawn(
            "gateway", *("-m", "uvicorn", "shop.gateway:app", "--port", str(self._port))
        )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not await asyncio.to_thread(self._is_open):
                    for name, process in self._processes.items():
                        if process.returncode is not None:
                            raise ShopError(f"{name} has {_how(process)}; its lines above say why")
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise ShopError(f"the shop is not open after {START_TIMEOUT:g} s") from None

    async def stop(self) -> None:
        """Ends one process after the other, each when the callers of its service have ended."""
        self._is_stopping = True
        for process in reversed(self._processes.values()):
            if process.returncode is None:
                process.terminate()
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_TIMEOUT):
                        await process.wait()
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*self._watchers)

    async def _spawn(self, name: str, *arguments: str, **settings: str) -> None:
        """Starts a process in a session of its own, which Ctrl-C does not reach."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("AEGIS_")}
        settings |= {
            "AEGIS_NODE_ID": name,
            "OTEL_SERVICE_NAME": name,
            "AEGIS_CERT_DIR": str(self._directory),
            "AEGIS_JOIN": " ".join(list(self.addresses.values())[:2]),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            env=own | settings,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
        self._processes[name] = process
        self._watchers.append(asyncio.create_task(self._watch(name, process)))

    async def _watch(self, name: str, process: Process) -> None:
        """Prints what a process writes, and that it ended."""
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        async for line in process.stdout:
            print(f"{name:10} | {line.decode(errors='replace').rstrip()}", flush=True)
        await process.wait()
        if not self._is_stopping:
            print(f"{name:10} | has {_how(process)}; the shop goes on without it", flush=True)

    def _is_open(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=2):  # noqa: S310 - ours
                return True
        except OSError:
            return False


def _how(process: Process) -> str:
    code = process.returncode or 0
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


async def run(port: int, directory: Path) -> None:
    """Opens the shop, until SIGTERM or Ctrl-C."""
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    CertificateAuthority.create(directory, key_type=KeyType.P256)
    shop = Shop(port, directory)
    try:
        starting = asyncio.create_task(shop.start())
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            print(_greeting(shop, directory), flush=True)
            await waiting
        starting.cancel()
    finally:
        await shop.stop()


def _greeting(shop: Shop, directory: Path) -> str:
    return f"""
The shop is open. Buy something:

  curl {shop.url}/products
  curl {shop.url}/orders --json '{{"sku": "tea", "quantity": 2, "card": "4111"}}'

In another terminal, look at the mesh:

  export AEGIS_NODE={shop.addresses["catalog-2"]} AEGIS_CERT_DIR={directory}
  aegis mesh status

Kill a catalog, buy again and look again:

  kill -9 {shop.pid("catalog-1")}

Ctrl-C closes the shop.
"""


def main() -> None:
    """Runs the command `shop`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--port", type=int, default=8000, help="of the gateway; it and the next 15 must be free"
    )
    port = parser.parse_args().port
    with tempfile.TemporaryDirectory(prefix="shop-") as directory:
        try:
            asyncio.run(run(port, Path(directory)))
        except ShopError as error:
            sys.exit(f"The shop cannot open: {error}.")


if __name__ == "__main__":
    main()
