"""Bad days without an attacker: seeds that do not serve, and a clock that was wrong for a while.

Part of `abuse.py`, which prints the rows.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, closing
from functools import partial
from typing import Any

import grpc
from aegis_certs import TLSConfig
from harness import Row
from workload import Child, answer, children, identities, plain_credentials, told

FIRST_SUCCESS = 10.0
AGREEMENT = 15.0
WRONG_FOR = 10.0
AHEAD = {"10 minutes": 600.0, "a day": 86_400.0}
WATCH = "aegis.mesh.v1.Mesh"
PATIENCE = 60.0


async def first_success() -> float:
    """Returns the seconds until a client with one good seed, the last of four, knows its node."""
    from aegis_core.aio import Node
    from aegis_discovery.aio import connect

    good, mute, garbage, client = identities("good", "mute", "garbage", "client")
    async with AsyncExitStack() as stack:
        silent = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
        seeds = [f"127.0.0.1:{silent.getsockname()[1]}"]
        for tls, says in ((mute, b""), (garbage, b"\xff" * 64)):
            seeds.append(await stack.enter_async_context(_BadSeed(tls, says)))
        node = await stack.enter_async_context(Node("good", address="127.0.0.1:0", tls=good))
        began = time.monotonic()
        mesh = await stack.enter_async_context(connect(*seeds, node.address, tls=client))
        while "good" not in mesh.topology.nodes:
            if time.monotonic() - began > PATIENCE:
                break
            await asyncio.sleep(0.01)
        return time.monotonic() - began


class _BadSeed:
    """A seed peer with a valid certificate, whose feeds say nothing, or garbage without an end."""

    def __init__(self, tls: TLSConfig, says: bytes) -> None:
        self._server = grpc.aio.server()
        self._says = says
        handler = grpc.unary_stream_rpc_method_handler(self._watch)
        generic = grpc.method_handlers_generic_handler(WATCH, {"Watch": handler})
        self._server.add_generic_rpc_handlers((generic,))
        self._port = self._server.add_secure_port("127.0.0.1:0", plain_credentials(tls))

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        while self._says:
            yield self._says
        await asyncio.Event().wait()
        yield b""

    async def __aenter__(self) -> str:
        await self._server.start()
        return f"127.0.0.1:{self._port}"

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)


def agreement(ahead: float) -> float:
    """Returns the seconds after a clock is right again until three nodes agree on new services.

    The clock of one node was ahead for ten seconds, and its record changed in them.
    """
    with ExitStack() as stack:
        nodes: list[Child] = []
        for tls in identities("a", "b", "c"):
            seeds = [nodes[0].started] if nodes else []
            nodes += stack.enter_context(
                children(partial(Child, "clock", seeds, tls, module=__file__))
            )
        wrong = nodes[1]
        _wait(nodes, set())
        wrong.ask(["ahead", ahead])
        time.sleep(WRONG_FOR / 2)
        wrong.ask(["provide", "during"])
        time.sleep(WRONG_FOR / 2)
        wrong.ask(["ahead", 0])
        began = time.monotonic()
        wrong.ask(["provide", "after"])
        nodes[2].ask(["provide", "from-c"])
        _wait(nodes, {"during", "after", "from-c"})
        return time.monotonic() - began


def _wait(nodes: list[Child], services: set[str]) -> None:
    """Waits until all nodes are alive everywhere, and these services are known everywhere."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        views = [node.ask(["view"]) for node in nodes]
        alive = all(view["alive"] == ["a", "b", "c"] for view in views)
        if alive and all(services <= set(view["services"]) for view in views):
            return
        time.sleep(0.05)


def serve_with_clock(tls: TLSConfig, seeds: list[str]) -> None:
    """Runs a node whose process has a clock that can be set."""
    now, ahead = time.time, 0.0
    time.time = lambda: now() + ahead  # before anything else imports it

    from aegis_core import Node, NodeStatus, ServiceInfo

    with Node(tls.node_id, address="127.0.0.1:0", tls=tls, seed_peers=seeds, grace=0) as node:
        answer(node.address)
        for line in sys.stdin:
            match json.loads(line):
                case ["ahead", seconds]:
                    ahead = seconds
                    answer("done")
                case ["provide", name]:
                    import dataclasses

                    own = node.topology.nodes[node.id]
                    services = (*own.services, ServiceInfo(name, "v1"))
                    node.topology.update_node(dataclasses.replace(own, services=services))
                    answer("done")
                case ["view"]:
                    known = node.topology.nodes.values()
                    alive = sorted(n.id for n in known if n.status is NodeStatus.ALIVE)
                    names = sorted({service.name for n in known for service in n.services})
                    answer({"alive": alive, "services": names})


def report_seeds(rounds: int) -> list[Row]:
    firsts = [asyncio.run(first_success()) for _ in range(rounds)]
    return [_row("one good seed among three bad ones: first success", firsts, FIRST_SUCCESS)]


def report_clocks(rounds: int) -> list[Row]:
    rows = []
    for name, ahead in AHEAD.items():
        times = [agreement(ahead) for _ in range(rounds)]
        rows.append(_row(f"a clock ahead by {name} for 10 s: agreement", times, AGREEMENT))
    return rows


def _row(what: str, seconds: list[float], limit: float) -> Row:
    slowest = max(seconds)
    print(f"{what} after {slowest:.1f} s", flush=True)
    return Row(what, f"{slowest:.1f} s", f"{limit:g} s", slowest <= limit, depends_on_load=True)


if __name__ == "__main__":
    serve_with_clock(*told())
