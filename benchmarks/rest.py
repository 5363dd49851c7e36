"""What a node costs while nothing happens: CPU, wake-ups and memory, beside bare gRPC servers.

    uv run python benchmarks/rest.py

Each node is a process of its own with default certificates, and all are one mesh on this machine.
Bare `grpc.aio` servers with the same TLS run beside them, and all are measured in the same seconds:

- CPU: the share of one core, user and system, of all threads;
- wake-ups: how often a thread waited and was woken again (voluntary context switches);
- memory: private pages, which the process shares with no other one.

Python finds the bytecode of all modules, as it does where pip installed them, and each node finds a
certificate for its address. Other bare servers serve generated code, the health service of gRPC:
what a node takes over those is shown too, and is not judged.

`--kind blocking` measures the blocking node, beside bare servers of the blocking API.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from aegis_certs import CertificateAuthority
from harness import estimate, judge, parser_of, print_rows, with_bytecode

MAX_CPU, MAX_WAKE_UPS, MAX_ADDED_MEMORY = 0.4, 40.0, 6.0
"""Percent of a core; wake-ups a second; MB of private memory more than a bare server."""

AT_ONCE = 4
"""Nodes that start at the same time."""

BARE = 4
"""Bare servers; only the median counts."""

ROUND, SETTLE = 8.0, 8.0
"""Seconds of one round, and seconds before the first: after a start, more is going on."""

SERVERS = Path(__file__).with_name("rest_servers.py")
BARE_PEMS = ("bare-key", "bare-cert", "ca-cert")

PATIENCE = 120.0
"""Seconds that the nodes have to become one mesh."""


@dataclass(frozen=True)
class Usage:
    """What a process used: CPU seconds and wake-ups so far, and the MB that it holds now."""

    cpu: float
    wake_ups: int
    memory: float


class Child:
    """A server or a node in its own process, which ends with its standard input."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SERVERS), kind, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=with_bytecode(),
        )
        self.address = self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"a process ended with {self._process.wait()}")
        return line

    def alive(self) -> int:
        """Returns how many nodes this one sees alive."""
        assert self._process.stdin is not None
        print("alive", file=self._process.stdin, flush=True)
        return int(self._read())

    def usage(self) -> Usage:
        directory = Path("/proc") / str(self._process.pid)
        cpu = wake_ups = 0
        for task in (directory / "task").iterdir():
            # A thread that ends while it is read counts no more.
            try:
                cpu += int((task / "schedstat").read_text().split()[0])
                status = (task / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            wake_ups += int(found(r"^voluntary_ctxt_switches:\s+(\d+)", status))
        pages = (directory / "smaps_rollup").read_text()
        private = (found(rf"^Private_{kind}:\s+(\d+) kB", pages) for kind in ("Clean", "Dirty"))
        return Usage(cpu / 1e9, wake_ups, sum(map(int, private)) / 1000)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    assert match is not None, pattern
    return match[1]


@dataclass(frozen=True)
class Figures:
    """Of one kind of process: percent of a core, wake-ups a second and MB, one for each process."""

    cpu: Sequence[float]
    wake_ups: Sequence[float]
    memory: Sequence[float]


def observe(groups: Sequence[Sequence[Child]], seconds: float) -> list[Figures]:
    """Observes all processes for some seconds; returns the figures of each group."""
    children = [child for group in groups for child in group]
    began = {child: (time.monotonic(), child.usage()) for child in children}
    time.sleep(seconds)
    cpu, wake_ups, memory = {}, {}, {}
    for child in children:
        since, before = began[child]
        now, after = time.monotonic(), child.usage()
        cpu[child] = 100 * (after.cpu - before.cpu) / (now - since)
        wake_ups[child] = (after.wake_ups - before.wake_ups) / (now - since)
        memory[child] = after.memory
    return [
        Figures([cpu[c] for c in g], [wake_ups[c] for c in g], [memory[c] for c in g])
        for g in groups
    ]


def start_nodes(kind: str, ids: Sequence[str], directory: str, stack: ExitStack) -> list[Child]:
    """Starts nodes, and waits until all of them see each other alive."""

    def start(node_id: str, seeds: Sequence[str]) -> Child:
        return Child(kind, {"id": node_id, "cert_dir": directory, "seed_peers": [*seeds]})

    nodes = [start(ids[0], ())]
    stack.callback(nodes[0].kill)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        started = [threads.submit(start, node_id, [nodes[0].address]) for node_id in ids[1:]]
        for future in started:
            nodes.append(future.result())
            stack.callback(nodes[-1].kill)
    deadline = time.monotonic() + PATIENCE
    while any(node.alive() != len(ids) for node in nodes):
        if time.monotonic() > deadline:
            raise TimeoutError("the nodes did not become one mesh")
        time.sleep(0.5)
    return nodes


def measure(kind: str, size: int, seconds: float) -> list[Figures]:
    """Returns the figures of the nodes, of bare servers, and of those with generated code."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        ca = CertificateAuthority.create(directory)
        ids = [f"node-{number:03}" for number in range(size)]
        with ThreadPoolExecutor(2) as threads:  # an RSA key takes a while
            list(threads.map(partial(ca.issue, address="127.0.0.1:0"), [*ids, "bare"]))
        pems = [Path(directory, f"{name}.pem").read_text() for name in BARE_PEMS]
        bare: dict[bool, list[Child]] = {False: [], True: []}
        for generated, servers in bare.items():
            for _ in range(BARE):
                options = {"pems": pems, "generated": generated}
                servers.append(Child(f"bare-{kind}", options))
                stack.callback(servers[-1].kill)
        nodes = start_nodes(kind, ids, directory, stack)
        time.sleep(SETTLE)
        return observe((nodes, *bare.values()), seconds)


def report(kind: str, size: int, nodes: Figures, bare: Figures, generated: Figures) -> int:
    added, over_generated = (
        estimate([memory - statistics.median(figures.memory) for memory in nodes.memory])
        for figures in (bare, generated)
    )
    ratio = statistics.median(nodes.cpu) / max(statistics.median(bare.cpu), 1e-3)
    print(f"{size} nodes at rest ({kind}), and {BARE} bare servers; medians [95 % interval]")
    units = (("% of a core", ".2f"), ("wake-ups a second", ".1f"), ("MB private", ".1f"))
    named = ((nodes, "a node"), (bare, "a bare server"), (generated, "generated code"))
    for figures, name in named:
        shown = [figures.cpu, figures.wake_ups, figures.memory]
        print(
            f"  {name:14}",
            *(f"{estimate(v):{s}} {u} " for v, (u, s) in zip(shown, units, strict=True)),
        )
    print(f"  CPU of a node / of a bare server: {ratio:.0f}")
    print(f"  Memory of a node over a bare server with generated code: {over_generated:.1f} MB")
    rows = [
        judge(f"CPU of a node at rest, {kind}", estimate(nodes.cpu), MAX_CPU, ".2f", "%"),
        judge("wake-ups", estimate(nodes.wake_ups), MAX_WAKE_UPS, ".1f", "/s"),
        # Other processes change no byte of it.
        replace(
            judge("memory over a bare server", added, MAX_ADDED_MEMORY, ".1f", "MB"),
            depends_on_load=False,
        ),
    ]
    return print_rows(rows)


def main() -> int:
    parser = parser_of(__doc__, rounds=3, quick=1)
    parser.add_argument("--kind", choices=("aio", "blocking"), default="aio")
    parser.add_argument("--nodes", type=int, help="in the mesh (default 60; 16 for one round)")
    arguments = parser.parse_args()
    size = arguments.nodes or (60 if arguments.rounds > 1 else 16)
    return report(arguments.kind, size, *measure(arguments.kind, size, ROUND * arguments.rounds))


if __name__ == "__main__":
    sys.exit(main())
