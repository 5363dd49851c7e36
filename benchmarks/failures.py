"""What callers notice of providers that die, stop, freeze or are slow. Each is a real process.

    uv run python benchmarks/failures.py

The topology is not told of anything: what is shown is what the pool finds out by itself.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from aegis_discovery import Balancer, LeastRequests, RoundRobin, ServiceClientPool, Topology
from harness import METHOD, SERVICE, EchoProcess, echo_processes

CALLERS = 16
DEADLINE = 0.5
EJECTED_AFTER = 1.0


@dataclass(frozen=True)
class Call:
    """One call: when it began, how long it took, and how it ended."""

    began: float
    took: float
    code: grpc.StatusCode


@contextmanager
def callers(
    channel: grpc.Channel, timeout: float, pause: float, count: int = CALLERS
) -> Iterator[list[Call]]:
    """Runs callers, each with one call after another, and gathers their calls."""
    stub = channel.unary_unary(METHOD)
    calls: list[Call] = []
    over = threading.Event()

    def work() -> None:
        while not over.wait(pause):
            began = time.monotonic()
            code = grpc.StatusCode.OK
            try:
                stub(b"x", timeout=timeout)
            except grpc.RpcError as error:
                code = error.code()
            calls.append(Call(began, time.monotonic() - began, code))

    with ThreadPoolExecutor(count) as threads:
        jobs = [threads.submit(work) for _ in range(count)]
        try:
            yield calls
        finally:
            over.set()
            for job in jobs:
                job.result()


def topology_of(providers: list[EchoProcess]) -> Topology:
    topology = Topology()
    for provider in providers:
        topology.add_node(provider.info)
    return topology


def freeze(provider: EchoProcess) -> None:
    provider.freeze()
    time.sleep(10)
    provider.thaw()


def count_failures(what: str, target: str, harm: Callable[[EchoProcess], None]) -> None:
    with (
        echo_processes(3) as (providers, tls),
        ServiceClientPool(topology_of(providers), tls) as pool,
    ):
        with callers(pool.channel(SERVICE.name, SERVICE.version), DEADLINE, 0.02) as calls:
            time.sleep(2)
            at = time.monotonic()
            harm(providers[0])
            time.sleep(3)
        (service,) = pool.stats().services
    failed = [call for call in calls if call.code is not grpc.StatusCode.OK]
    later = [call for call in failed if call.began > at + EJECTED_AFTER]
    print(
        f"{what:22} {len(calls):6}   {target:>12}   {len(failed):6}   {len(later):9}   "
        f"{service.retries:7}   {service.ejections:9}",
        flush=True,
    )


def p99(balancer: Callable[[], Balancer], rounds: int) -> float:
    """Returns the 99th percentile in ms where one of three providers is ten times slower.

    Each provider has one worker, so that calls queue where there are too many.
    """
    found = []
    for _ in range(rounds):
        with (
            echo_processes(3, delays=(0.02, 0.002, 0.002), workers=1) as (providers, tls),
            ServiceClientPool(
                topology_of(providers), tls, balancers={SERVICE.name: balancer}
            ) as pool,
            callers(pool.channel(SERVICE.name, SERVICE.version), 10, 0.001) as calls,
        ):
            time.sleep(4)
        began = min(call.began for call in calls) + 1  # the first second warms up
        took = [call.took for call in calls if call.began > began]
        found.append(statistics.quantiles(took, n=100)[98] * 1e3)
    return statistics.median(found)


def report(rounds: int = 3) -> None:
    print(f"{CALLERS} callers with deadlines of {DEADLINE:g} s; one of three providers is ...")
    print("                        calls         target   failed   after 1 s   retries   ejections")
    count_failures("killed (SIGKILL)", "0", lambda provider: provider.kill())
    count_failures("stopped", "0", lambda provider: provider.stop())
    count_failures("frozen for 10 s", "0 after 1 s", freeze)
    print()
    turns, least = p99(RoundRobin, rounds), p99(LeastRequests, rounds)
    print("p99 with one of three providers 10 times slower, ms")
    print("round robin   least requests   ratio   target")
    print(f"{turns:11.1f}   {least:14.1f}   {least / turns:5.2f}   at most 0.50")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the p99 (default 3)")
    report(parser.parse_args().rounds)


if __name__ == "__main__":
    main()
