"""The effect on callers of providers that die, stop, freeze or are slow; each is a real process.

    uv run python benchmarks/failures.py

The topology does not change, so only the pool's own outlier detection is measured.
"""

from __future__ import annotations

import math
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from aegis_discovery import (
    Balancer,
    EndpointState,
    LeastRequests,
    RoundRobin,
    ServiceClientPool,
    Topology,
)
from harness import METHOD, SERVICE, EchoProcess, Row, echo_processes, parser_of, print_rows, within

CALLERS = 16
DEADLINE = 0.5
FROZEN = 10.0
EJECTED_AFTER = 1.0
LENIENCY = 0.1
"""Seconds that the ejection may take longer: it happens at the next call and is polled."""

MAX_RATIO = 0.5


@dataclass(frozen=True)
class Call:
    began: float
    took: float
    code: grpc.StatusCode
    details: str = ""

    @property
    def failed(self) -> bool:
        return self.code is not grpc.StatusCode.OK


@contextmanager
def callers(work: Sequence[Callable[[], object]], pause: float) -> Iterator[list[Call]]:
    """Runs one thread for each function, which calls it again and again; yields the calls."""
    calls: list[Call] = []
    over = threading.Event()

    def run(call: Callable[[], object]) -> None:
        while not over.wait(pause):
            began = time.monotonic()
            code, details = grpc.StatusCode.OK, ""
            try:
                call()
            except grpc.RpcError as error:
                code, details = error.code(), error.details() or ""
            calls.append(Call(began, time.monotonic() - began, code, details))

    with ThreadPoolExecutor(len(work)) as threads:
        jobs = [threads.submit(run, call) for call in work]
        try:
            yield calls
        finally:
            over.set()
            for job in jobs:
                job.result()


def echoes(pool: ServiceClientPool, timeout: float) -> list[Callable[[], object]]:
    channel: Any = pool.channel(SERVICE.name, SERVICE.version)
    stub = channel.unary_unary(METHOD)
    return [lambda: stub(b"x", timeout=timeout)] * CALLERS


def topology_of(providers: list[EchoProcess]) -> Topology:
    topology = Topology()
    for provider in providers:
        topology.add_node(provider.info)
    return topology


def kill(provider: EchoProcess, _: ServiceClientPool) -> float:
    provider.kill()
    return math.nan


def stop(provider: EchoProcess, _: ServiceClientPool) -> float:
    provider.stop()
    return math.nan


def freeze(provider: EchoProcess, pool: ServiceClientPool) -> float:
    """Freezes a provider for a while; returns when it was ejected (`time.monotonic`)."""
    thaw_at = time.monotonic() + FROZEN
    provider.freeze()
    ejected_at = math.inf
    while (now := time.monotonic()) < thaw_at:
        if ejected_at == math.inf and is_ejected(provider, pool):
            ejected_at = now
        time.sleep(0.01)
    provider.thaw()
    return ejected_at


def is_ejected(provider: EchoProcess, pool: ServiceClientPool) -> bool:
    (service,) = pool.stats().services
    return (provider.info.id, EndpointState.EJECTED) in {
        (endpoint.node_id, endpoint.state) for endpoint in service.endpoints
    }


def count_failures(
    what: str, harm: Callable[[EchoProcess, ServiceClientPool], float]
) -> tuple[int, int, float]:
    """Returns the failed calls, those after the ejection, and the seconds to the ejection."""
    with (
        echo_processes(3) as (providers, tls),
        ServiceClientPool(topology_of(providers), tls) as pool,
    ):
        with callers(echoes(pool, DEADLINE), 0.02) as calls:
            time.sleep(2)
            at = time.monotonic()
            ejected_at = harm(providers[0], pool)
            time.sleep(3)
        (service,) = pool.stats().services
    failed = [call for call in calls if call.failed]
    later = [call for call in failed if call.began > ejected_at]
    after = "" if math.isnan(ejected_at) else f"{ejected_at - at:8.2f}   {len(later):11}"
    print(
        f"{what:22} {len(calls):6}   {len(failed):6}   {service.retries:7}   "
        f"{service.ejections:9}   {after}".rstrip(),
        flush=True,
    )
    return len(failed), len(later), ejected_at - at


def p99(balancer: Callable[[], Balancer], rounds: int) -> float:
    """Returns the 99th percentile in ms while one of three providers is ten times slower.

    Each provider has one worker, so that concurrent calls queue.
    """
    found = []
    for _ in range(rounds):
        with (
            echo_processes(3, delays=(0.02, 0.002, 0.002), workers=1) as (providers, tls),
            ServiceClientPool(
                topology_of(providers), tls, balancers={SERVICE.name: balancer}
            ) as pool,
            callers(echoes(pool, 10), 0.001) as calls,
        ):
            time.sleep(4)
        began = min(call.began for call in calls) + 1  # the first second warms up
        took = [call.took for call in calls if call.began > began]
        found.append(statistics.quantiles(took, n=100)[98] * 1e3)
    return statistics.median(found)


def report(rounds: int = 3) -> list[Row]:
    print(f"{CALLERS} callers with deadlines of {DEADLINE:g} s; one of three providers is ...")
    print("                        calls   failed   retries   ejections   after, s   failed then")
    killed, _, _ = count_failures("killed (SIGKILL)", kill)
    stopped, _, _ = count_failures("stopped (SIGTERM)", stop)
    _, frozen, took = count_failures(f"frozen for {FROZEN:g} s", freeze)
    turns, least = p99(RoundRobin, rounds), p99(LeastRequests, rounds)
    ratio = least / turns
    print("p99 with one of three providers 10 times slower, ms")
    print("round robin   least outstanding   ratio")
    print(f"{turns:11.1f}   {least:17.1f}   {ratio:5.2f}", flush=True)
    longest = f"{EJECTED_AFTER:g} s + {LENIENCY:g} s"
    is_soon = within(took, EJECTED_AFTER + LENIENCY)
    one, slow = "failed calls, one of three providers", "p99 with a slow one, least outstanding"
    return [
        Row(f"{one} killed", f"{killed}", "0", killed == 0),
        Row(f"{one} stopped", f"{stopped}", "0", stopped == 0),
        Row(f"{one} frozen, after its ejection", f"{frozen}", "0", frozen == 0),
        Row("until it was ejected", f"{took:.2f} s", longest, is_soon),
        Row(f"{slow} / round robin", f"{ratio:.2f}", f"{MAX_RATIO:.2f}", within(ratio, MAX_RATIO)),
    ]


def main() -> None:
    parser = parser_of(__doc__, rounds=3, quick=1)  # of the p99
    sys.exit(print_rows(report(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
