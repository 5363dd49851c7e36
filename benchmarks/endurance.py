"""The slope of memory of nodes and clients that work for ten minutes.

    uv run python benchmarks/endurance.py [--rounds MINUTES]

A blocking and an asyncio node provide a service with unary calls, downloads and uploads. A blocking
and an asyncio client, each in a process of its own, call them all the time, and a third node
restarts every ten seconds at a new port. Printed is what the resident memory of each process gained
an hour, by a line through the samples after the first third, and how many calls failed: an upload
cannot be repeated, so one may that reaches a node which has just left.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from aegis_certs import CertificateAuthority, KeyType
from harness import Row, parser_of, print_rows
from workload import CHUNK, NAME, SMALL, Child, answer, children, node_options, path, told

CALLERS, PAUSE, TIMEOUT = 4, 0.1, 10.0
CHURN = 10.0
"""Seconds between two restarts of the third node."""

SAMPLE = 2.0
"""Seconds between two samples."""

MAX_SLOPE = 6.0
"""MB an hour: a process that gains more needs a restart within weeks."""


def resident(process: Child) -> float:
    """Returns the resident memory of a process, in MB."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the process has ended")


def measure(minutes: float) -> tuple[dict[str, list[tuple[float, float]]], int, int]:
    """Returns samples (seconds, MB) of each process, and how many calls were made and failed."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
        nodes: dict[str, Child] = {}

        def start(role: str, name: str, settings: dict[str, Any]) -> Child:
            begin = partial(Child, role, settings, ca.issue_in_memory(name), module=__file__)
            (child,) = stack.enter_context(children(begin))
            return child

        for name, is_aio in (("blocking-node", False), ("async-node", True)):
            seeds = [node.started for node in nodes.values()]
            nodes[name] = start("node", name, {"aio": is_aio, "seeds": seeds})
        seeds = [node.started for node in nodes.values()]
        watched = dict(nodes)
        for name, is_aio in (("blocking-client", False), ("async-client", True)):
            watched[name] = start("client", name, {"aio": is_aio, "seeds": seeds})
        over = threading.Event()
        restarting = partial(Child, "node", {"aio": True, "seeds": seeds}, module=__file__)
        tls = ca.issue_in_memory("third-node")

        def churn() -> None:
            while not over.is_set():
                node = restarting(tls)
                over.wait(CHURN)
                node.stop()

        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in watched}
        thread = threading.Thread(target=churn)
        thread.start()
        try:
            began = time.monotonic()
            while (now := time.monotonic() - began) < 60 * minutes:
                for name, process in watched.items():
                    samples[name].append((now, resident(process)))
                time.sleep(SAMPLE)
        finally:
            over.set()
            thread.join()
        counts = [watched[f"{kind}-client"].ask("count") for kind in ("blocking", "async")]
        return samples, sum(calls for calls, _ in counts), sum(failed for _, failed in counts)


def row_of(name: str, samples: list[tuple[float, float]]) -> Row:
    settled = samples[len(samples) // 3 :]
    slope = statistics.linear_regression(*zip(*settled, strict=True)).slope * 3600
    figure = f"{slope:+.1f} MB/h, at {settled[-1][1]:.0f} MB"
    return Row(f"memory of the {name}", figure, f"{MAX_SLOPE:g} MB/h", slope <= MAX_SLOPE)


def report(minutes: float) -> list[Row]:
    samples, calls, failed = measure(minutes)
    print(f"{calls:,} calls in {minutes:g} minutes, {failed} failed")
    for name, found in samples.items():
        every = max(1, len(found) // 10)
        print(f"  {name:16}", *(f"{megabytes:6.1f}" for _, megabytes in found[::every]))
    return [row_of(name, found) for name, found in samples.items()]


# The processes


def uploads() -> Iterator[bytes]:
    return itertools.repeat(CHUNK, 4)


async def async_uploads() -> Any:
    for chunk in uploads():
        yield chunk


def call_blocking(settings: dict[str, Any], tls: Any) -> None:
    from aegis_discovery import connect

    calls, failures = itertools.count(), itertools.count()

    def repeat(channel: Any) -> None:
        unary = channel.unary_unary(path("Echo"))
        download = channel.unary_stream(path("Download"))
        upload = channel.stream_unary(path("Upload"))
        while not over.wait(PAUSE):
            try:
                unary(SMALL, timeout=TIMEOUT)
                list(download(b"5", timeout=TIMEOUT))
                upload(uploads(), timeout=TIMEOUT)
            except grpc.RpcError as error:
                print(f"failed: {error}", file=sys.stderr)
                next(failures)
            next(calls)

    over = threading.Event()
    with connect(*settings["seeds"], tls=tls) as mesh, ThreadPoolExecutor(CALLERS) as threads:
        channel = mesh.pool.channel(NAME, "v1")
        running = [threads.submit(repeat, channel) for _ in range(CALLERS)]
        answer("ready")
        for _ in sys.stdin:
            answer([3 * next(calls), next(failures)])
        over.set()
        for each in running:
            each.result()


async def call_async(settings: dict[str, Any], tls: Any) -> None:
    from aegis_discovery.aio import connect

    calls, failures = itertools.count(), itertools.count()

    async def repeat(channel: Any) -> None:
        unary = channel.unary_unary(path("Echo"))
        download = channel.unary_stream(path("Download"))
        upload = channel.stream_unary(path("Upload"))
        while True:
            await asyncio.sleep(PAUSE)
            try:
                await unary(SMALL, timeout=TIMEOUT)
                async for _ in download(b"5", timeout=TIMEOUT):
                    pass
                await upload(async_uploads(), timeout=TIMEOUT)
            except grpc.RpcError as error:
                print(f"failed: {error}", file=sys.stderr)
                next(failures)
            next(calls)

    async with connect(*settings["seeds"], tls=tls) as mesh:
        channel = mesh.pool.channel(NAME, "v1")
        running = [asyncio.create_task(repeat(channel)) for _ in range(CALLERS)]
        answer("ready")
        while await asyncio.to_thread(sys.stdin.readline):
            answer([3 * next(calls), next(failures)])
        for task in running:
            task.cancel()
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                raise RuntimeError("a caller failed") from outcome


def options_of(settings: dict[str, Any], tls: Any) -> dict[str, Any]:
    own = {"policy": None, "seed_peers": settings["seeds"], "grace": 5.0}
    return {**node_options(tls, settings["aio"]), **own}


def serve_blocking(settings: dict[str, Any], tls: Any) -> None:
    from aegis_core import Node

    with Node(tls.node_id, **options_of(settings, tls)) as node:
        answer(node.address)
        sys.stdin.read()


async def serve_async(settings: dict[str, Any], tls: Any) -> None:
    from aegis_core.aio import Node

    async with Node(tls.node_id, **options_of(settings, tls)) as node:
        answer(node.address)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    if sys.argv[1:] in (["node"], ["client"]):
        tls, settings = told()
        blocking, coroutine = {
            "node": (serve_blocking, serve_async),
            "client": (call_blocking, call_async),
        }[sys.argv[1]]
        if settings["aio"]:
            asyncio.run(coroutine(settings, tls))
        else:
            blocking(settings, tls)
        return
    arguments = parser_of(__doc__, rounds=10, quick=2).parse_args()  # minutes
    sys.exit(print_rows(report(arguments.rounds)))


if __name__ == "__main__":
    main()
