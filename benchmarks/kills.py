"""Calls that fail while providers are killed one after the other, and start again elsewhere.

    uv run python benchmarks/kills.py [--ports new|same] [--api sync|aio] [--seconds 120]

Eight nodes provide a service, each in a process of its own. Every two seconds SIGKILL ends one of
them, and it is started again at once, under its id, at a new port or at its old one. Eight callers
of a client of their mesh call all the time, with the defaults of the pool.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
import grpc.aio
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from failures import Call, callers
from harness import Row, parser_of, print_rows
from workload import NAME, Child, answer, node_options, path, told

NODES, CALLERS = 8, 8
CALLER = "caller"
EVERY = 2.0
"""Seconds between two kills."""

PAUSE = 0.02
TIMEOUT = 10.0
PATIENCE = 60.0
MAX_FAILED = 0.0005


class Providers:
    """The nodes; one thread kills and restarts them."""

    def __init__(self, directory: str, *, is_aio: bool) -> None:
        ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
        self._is_aio = is_aio
        self._identities = {
            name: ca.issue_in_memory(name) for name in (f"node-{i}" for i in range(NODES))
        }
        self.caller = ca.issue_in_memory(CALLER)
        self.nodes: dict[str, Child] = {}
        self.kills = 0

    def start(self, node_id: str, address: str = "127.0.0.1:0") -> None:
        seeds = [node.started for other, node in self.nodes.copy().items() if other != node_id]
        settings = {"aio": self._is_aio, "address": address, "seed_peers": seeds}
        self.nodes[node_id] = Child("node", settings, self._identities[node_id], module=__file__)

    def start_all(self) -> None:
        for node_id in self._identities:
            self.start(node_id)

    @property
    def addresses(self) -> list[str]:
        return [node.started for node in self.nodes.values()]

    def kill_in_turn(self, seconds: float, *, new_ports: bool) -> None:
        """Kills a node every two seconds, one that runs; each is started again at once.

        On a slow machine it waits until half of them run.
        """
        deadline = time.monotonic() + seconds
        chosen = random.Random(1)
        with ThreadPoolExecutor(NODES) as threads:
            starting: list[Future[None]] = []
            for number in itertools.count(1):
                while len(self.nodes) < NODES // 2:
                    time.sleep(0.1)
                due = time.monotonic() + EVERY
                node_id = chosen.choice(list(self.nodes))
                old = self.nodes.pop(node_id)
                old.kill()
                self.kills = number
                address = "127.0.0.1:0" if new_ports else old.started
                starting.append(threads.submit(self.start, node_id, address))
                if due >= deadline:
                    break
                time.sleep(max(0.0, due - time.monotonic()))
            for start in starting:
                start.result()

    def stop(self) -> None:
        for node in self.nodes.values():
            node.kill()


@contextmanager
def providers(*, is_aio: bool) -> Iterator[Providers]:
    with tempfile.TemporaryDirectory() as directory:
        started = Providers(directory, is_aio=is_aio)
        try:
            started.start_all()
            yield started
        finally:
            started.stop()


class Variant(NamedTuple):
    """How the calls are made.

    Attributes:
        ports: Where a killed node starts again: `new` ports or the `same`.
        api: `sync` for threads, `aio` for tasks.
        work: Seconds that a call takes at its provider.
        retry: False if no call is retried: then those that are under way at a killed node fail.
        async_nodes: Whether the nodes are asyncio ones.
    """

    ports: str = "new"
    api: str = "sync"
    work: float = 0.005
    retry: bool | None = None
    async_nodes: bool = False

    def __str__(self) -> str:
        said = f"{self.ports} ports, {self.api}, calls of {self.work * 1000:g} ms"
        return said + (", no retries" if self.retry is False else "")

    @property
    def request(self) -> bytes:
        return str(self.work).encode()


class Outcome(NamedTuple):
    calls: list[Call]
    kills: int

    @property
    def failed(self) -> list[Call]:
        return [call for call in self.calls if call.failed]


def run(seconds: float, variant: Variant) -> Outcome:
    """Calls while nodes are killed, for this long."""
    with providers(is_aio=variant.async_nodes) as running:
        call = _call_with_tasks if variant.api == "aio" else _call_with_threads
        with call(running, variant) as calls:
            time.sleep(2)
            running.kill_in_turn(seconds, new_ports=variant.ports == "new")
            time.sleep(2)
        return Outcome(calls, running.kills)


@contextmanager
def _call_with_threads(running: Providers, variant: Variant) -> Iterator[list[Call]]:
    from aegis_discovery import connect

    with connect(*running.addresses, tls=running.caller) as mesh:
        _wait_for_providers(mesh.topology)
        channel: Any = mesh.pool.channel(NAME, "v1", retry=variant.retry)
        stub = channel.unary_unary(path("Sleep"))
        work = [lambda: stub(variant.request, timeout=TIMEOUT)] * CALLERS
        with callers(work, PAUSE) as calls:
            yield calls


@contextmanager
def _call_with_tasks(running: Providers, variant: Variant) -> Iterator[list[Call]]:
    from aegis_discovery.aio import connect

    calls: list[Call] = []
    over = threading.Event()
    ready = threading.Event()

    async def repeat(stub: Any) -> None:
        while not over.is_set():
            await asyncio.sleep(PAUSE)
            began = time.monotonic()
            code, details = grpc.StatusCode.OK, ""
            try:
                await stub(variant.request, timeout=TIMEOUT)
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or ""  # type: ignore[attr-defined]  # it is also a call
            calls.append(Call(began, time.monotonic() - began, code, details))

    async def run_all() -> None:
        async with connect(*running.addresses, tls=running.caller) as mesh:
            await asyncio.to_thread(_wait_for_providers, mesh.topology)
            channel: Any = mesh.pool.channel(NAME, "v1", retry=variant.retry)
            stub = channel.unary_unary(path("Sleep"))
            ready.set()
            await asyncio.gather(*(repeat(stub) for _ in range(CALLERS)))

    thread = threading.Thread(target=lambda: asyncio.run(run_all()))
    thread.start()
    try:
        if not ready.wait(PATIENCE):
            raise TimeoutError("the providers were not seen")
        yield calls
    finally:
        over.set()
        thread.join()


def _wait_for_providers(topology: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(topology.get_service_providers(NAME, "v1")) < NODES:
        if time.monotonic() > deadline:
            raise TimeoutError("the providers were not seen")
        time.sleep(0.1)


def describe(what: str, outcome: Outcome) -> None:
    """Prints how the calls ended."""
    slowest = max(call.took for call in outcome.calls)
    print(
        f"{what:45} {len(outcome.calls):7,} calls  {len(outcome.failed):4} failed  "
        f"{outcome.kills:3} kills  slowest {slowest:.2f} s",
        flush=True,
    )
    found = Counter((call.code.name, call.details) for call in outcome.failed)
    for (code, details), count in found.most_common():
        print(f"  {count} failed with {code}: {details}")


def row_of(what: str, outcome: Outcome) -> Row:
    share = len(outcome.failed) / len(outcome.calls)
    figure = f"{len(outcome.failed)} of {len(outcome.calls):,}"
    return Row(what, figure, f"{MAX_FAILED:.2%}", share <= MAX_FAILED)


def report(seconds: float, variants: Iterable[Variant]) -> list[Row]:
    rows = []
    for variant in variants:
        outcome = run(seconds, variant)
        describe(str(variant), outcome)
        rows.append(row_of(f"failed calls, {variant}", outcome))
    return rows


def serve(tls: TLSConfig, settings: dict[str, Any]) -> None:
    options = {**node_options(tls, settings["aio"]), "policy": None}
    options |= {key: settings[key] for key in ("address", "seed_peers")}
    if settings["aio"]:
        asyncio.run(serve_async(tls.node_id, options))
        return
    from aegis_core import Node

    with Node(tls.node_id, **options) as node:
        answer(node.address)
        sys.stdin.read()


async def serve_async(node_id: str, options: dict[str, Any]) -> None:
    from aegis_core.aio import Node

    async with Node(node_id, **options) as node:
        answer(node.address)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    if sys.argv[1:] == ["node"]:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        serve(*told())
        return
    parser = parser_of(__doc__, rounds=4, quick=1)  # of thirty seconds
    parser.add_argument("--ports", nargs="+", default=["new"], choices=["new", "same"])
    parser.add_argument("--api", nargs="+", default=["sync", "aio"], choices=["sync", "aio"])
    parser.add_argument("--work", nargs="+", type=float, default=[0.005, 0.05])
    parser.add_argument("--no-retry", action="store_const", const=False)
    parser.add_argument("--async-nodes", action="store_true")
    asked = parser.parse_args()
    chosen = itertools.product(asked.ports, asked.api, asked.work)
    variants = [Variant(*each, asked.no_retry, asked.async_nodes) for each in chosen]
    sys.exit(print_rows(report(30.0 * asked.rounds, variants)))


if __name__ == "__main__":
    main()
