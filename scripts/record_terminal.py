"""Draws the picture of a terminal that the README and the site show.

It starts a small mesh, calls its services, kills one node, and runs `aegis` in a terminal of its
own. The picture is what that terminal shows. `--check` does the same, draws nothing, and fails if
the commands print something else than the picture, apart from numbers.
"""

from __future__ import annotations

import argparse
import difflib
import html
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fcntl import ioctl
from itertools import count
from pathlib import Path
from typing import Any

import grpc
from aegis_certs import CertificateAuthority, KeyType
from aegis_core import Node, NodeStatus, ServiceInfo
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "_static" / "terminal.svg"
COMMANDS = ("aegis mesh status", "aegis mesh top --over 2s")
COLUMNS = 64
SECONDS = 30.0
PROVIDERS = 2
MASK = re.compile(r"\b[0-9a-f]{12}\b|digest \w+|\d[\d.:-]*")

# Like the template of rich, but it loads no fonts from elsewhere and says what it shows.
TEMPLATE = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" role="img"
  xmlns="http://www.w3.org/2000/svg">
<title>A terminal with the commands aegis mesh status and top</title>
<desc>DESCRIPTION</desc>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas,
  "DejaVu Sans Mono", monospace; font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""

# Run in a process of its own, which is killed. Arguments: the directory, the node to join.
VICTIM = """
import sys

from record_terminal import registrar
from aegis_core import Node, ServiceInfo

Node("payments-2", address="127.0.0.1:0", cert_dir=sys.argv[1], seed_peers=[sys.argv[2]],
     region="eu", zone="b", services=[ServiceInfo("payments", "v1")],
     registrars=[registrar("shop.Payments", "Pay", lambda request, context: request)]).run()
"""


def registrar(service: str, method: str, behaviour: Any) -> Any:
    """Returns what adds a service with one method to a server."""
    handler: Any = grpc.unary_unary_rpc_method_handler(behaviour)
    handlers = grpc.method_handlers_generic_handler(service, {method: handler})
    return lambda server: server.add_generic_rpc_handlers((handlers,))


def wait_until(condition: Any, what: str) -> None:
    """Waits for a condition.

    Raises:
        SystemExit: If it does not come true in time.
    """
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"the picture cannot be drawn: {what} took more than {SECONDS:g} s")
        time.sleep(0.02)


def _has_failed(observer: Node, node_id: str) -> bool:
    node = observer.topology.get_node(node_id)
    return node is not None and node.status is NodeStatus.FAILED


@contextmanager
def shop(directory: Path) -> Iterator[str]:
    """Runs a mesh under load, in which a node was killed; yields the address of a node."""
    CertificateAuthority.create(directory, key_type=KeyType.P256)
    numbers = count(1)

    def pay(request: bytes, context: grpc.ServicerContext) -> bytes:
        if next(numbers) % 50 == 0:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the card has expired")
        return request

    with ExitStack() as nodes:

        def start(node_id: str, service: str, zone: str, register: Any) -> Node:
            node = Node(
                node_id,
                address="127.0.0.1:0",
                cert_dir=directory,
                seed_peers=[first.address] if first else [],
                region="eu",
                zone=zone,
                services=[ServiceInfo(service, "v1")],
                registrars=[register],
            )
            return nodes.enter_context(node)

        payments: dict[str, Any] = {}
        first: Node | None = None
        first = start("payments-1", "payments", "a", registrar("shop.Payments", "Pay", pay))
        victim = subprocess.Popen(
            [sys.executable, "-c", VICTIM, directory, first.address], cwd=Path(__file__).parent
        )
        nodes.callback(victim.wait)
        nodes.callback(victim.kill)

        gate = registrar("shop.Shop", "Browse", lambda request, context: request)
        shop_1 = start("shop-1", "shop", "a", gate)
        for node_id in ("orders-1", "orders-2"):

            def order(request: bytes, _: Any, node_id: str = node_id) -> bytes:
                try:
                    return bytes(payments[node_id](request, timeout=SECONDS))
                except grpc.RpcError:
                    return b"not paid"

            node = start(node_id, "orders", "a", registrar("shop.Orders", "Order", order))
            channel = node.pool.channel("payments", "v1")
            payments[node_id] = channel.unary_unary("/shop.Payments/Pay")
        wait_until(
            lambda: all(
                len(shop_1.topology.get_service_providers(name, "v1")) == PROVIDERS
                for name in ("orders", "payments")
            ),
            "the start of the mesh",
        )
        victim.kill()
        over = threading.Event()
        call: Any = shop_1.pool.channel("orders", "v1").unary_unary("/shop.Orders/Order")

        def browse() -> None:
            while not over.wait(0.005):
                call(b"", timeout=SECONDS)

        callers = [threading.Thread(target=browse) for _ in range(2)]
        for caller in callers:
            caller.start()
        try:
            wait_until(lambda: _has_failed(first, "payments-2"), "the failure of a node")
            yield first.address
        finally:
            over.set()
            for caller in callers:
                caller.join()


def shown(command: str, environment: dict[str, str]) -> str:
    """Returns what a command prints in a terminal, with its colours.

    Raises:
        SystemExit: If it fails.
    """
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    program = [sys.executable, "-m", "aegis_cli", *command.split()[1:]]
    process = subprocess.Popen(
        program, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 65536):
            output += part
    except OSError:
        pass  # how Linux reports that the terminal's last program has ended
    finally:
        os.close(ours)
    text = output.decode().replace("\r\n", "\n")
    if process.wait(SECONDS):
        raise SystemExit(f"{command} failed:\n{text}")
    return text


def record() -> Text:
    """Runs the commands on a mesh; returns what the terminal shows."""
    with tempfile.TemporaryDirectory() as folder, shop(Path(folder) / "certs") as address:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")}
        for name in ("NO_COLOR", "COLUMNS"):
            environment.pop(name, None)
        environment |= {
            "AEGIS_NODE": address,
            "AEGIS_CERT_DIR": str(Path(folder) / "certs"),
            "TERM": "xterm-256color",
        }
        # Each of the four other nodes gives its verdict, and the table names three.
        wait_until(lambda: " +1" in shown(COMMANDS[0], environment), "the last verdict")
        parts = []
        for command in COMMANDS:
            parts.append(Text.assemble(("$ ", "bold green"), (command, "bold")))
            output = Text.from_ansi(shown(command, environment))
            output.rstrip()
            parts += [output, Text()]
        return Text("\n").join(parts[:-1])


def draw(transcript: Text) -> str:
    """Returns the picture."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=COLUMNS, record=True, file=nowhere, force_terminal=True)
        console.print(transcript)
        svg = console.export_svg(title="a mesh", code_format=TEMPLATE, unique_id="aegis")
    lines = "\n".join(line.rstrip() for line in transcript.plain.splitlines())
    return svg.replace("DESCRIPTION", html.escape(lines))


def words(text: str) -> list[str]:
    """Returns the lines of a text, without numbers and widths of columns."""
    return [" ".join(MASK.sub("0", line).split()) for line in text.splitlines()]


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="draw nothing; fail if it is stale")
    check = parser.parse_args().check
    # The node that is killed is no surprise.
    logging.getLogger("aegis").setLevel(logging.CRITICAL)
    if not check:
        PICTURE.write_text(draw(record()))
        print(f"{PICTURE.relative_to(ROOT)}: written")
        return 0
    found = re.search(r"<desc>(.*?)</desc>", PICTURE.read_text(), re.DOTALL)
    before, after = words(html.unescape(found[1]) if found else ""), words(record().plain)
    if before != after:
        print("\n".join(difflib.unified_diff(before, after, "the picture", "now", lineterm="")))
        print(f"{PICTURE.relative_to(ROOT)} is out of date; run scripts/record_terminal.py")
        return 1
    print("the picture of a terminal is up to date")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
