"""What `pool.channel` costs a caller, and what it spares it.

    uv run python benchmarks/calls.py

A unary call is compared with the same stub on raw channels of gRPC. Both have the same TLS and call
the same providers in turn; the CPU time is the caller's. Then come the picks (`picks.py`), calls to
providers in trouble (`failures.py`) and what the import costs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import failures
import grpc
import grpc.aio
import picks
from aegis_certs import TLSConfig
from aegis_discovery import NodeInfo, ServiceClientPool, Topology
from aegis_discovery.aio import ServiceClientPool as AioServiceClientPool
from harness import METHOD, SERVICE, echo_servers, estimate, paired_rounds

REQUEST = b"x" * 64
GATE = 1.10
"""The ratio that no call may exceed: more than noise can explain."""


def raw_channels(module: Any, nodes: Sequence[NodeInfo], tls: TLSConfig) -> list[Any]:
    """Opens what one would open by hand, with the same check of the server's name."""
    credentials = grpc.ssl_channel_credentials(
        tls.trust_bundle, tls.private_key, tls.certificate_chain
    )
    return [
        module.secure_channel(
            node.address, credentials, options=[("grpc.ssl_target_name_override", node.id)]
        )
        for node in nodes
    ]


def stubs_in_turn(channels: Sequence[Any]) -> Iterator[Any]:
    return itertools.cycle(
        [channel.unary_unary(METHOD, _registered_method=True) for channel in channels]
    )


def call_sync(channels: Sequence[grpc.Channel]) -> Callable[[int], object]:
    stubs = stubs_in_turn(channels)

    def run(calls: int) -> None:
        for stub in itertools.islice(stubs, calls):
            stub(REQUEST, timeout=10)

    return run


def call_aio(loop: asyncio.Runner, channels: Sequence[grpc.aio.Channel]) -> Callable[[int], object]:
    stubs = stubs_in_turn(channels)

    async def run(calls: int) -> None:
        for stub in itertools.islice(stubs, calls):
            await stub(REQUEST, timeout=10)

    return lambda calls: loop.run(run(calls))


def report(name: str, providers: int, taken: dict[str, list[float]]) -> None:
    pairs = list(zip(taken["raw"], taken["pool"], strict=True))
    added = estimate([pool - raw for raw, pool in pairs])
    ratio = estimate([pool / raw for raw, pool in pairs])
    raw = estimate(taken["raw"])
    gate = "ok" if ratio.low <= GATE else "MISSED"
    print(f"{name:4} {providers:9}   {raw:6.1f}   {added:5.1f}   {ratio:5.3f}   {gate}", flush=True)


def compare_sync(nodes: Sequence[NodeInfo], tls: TLSConfig, **how_often: int) -> None:
    with ExitStack() as stack:
        raw = [stack.enter_context(channel) for channel in raw_channels(grpc, nodes, tls)]
        pool = stack.enter_context(ServiceClientPool(topology_of(nodes), tls))
        balanced = pool.channel(SERVICE.name, SERVICE.version)
        variants = {"raw": call_sync(raw), "pool": call_sync([balanced])}
        report("sync", len(nodes), paired_rounds(variants, **how_often))


def compare_aio(nodes: Sequence[NodeInfo], tls: TLSConfig, **how_often: int) -> None:
    with asyncio.Runner() as loop:

        async def opened() -> tuple[list[grpc.aio.Channel], AioServiceClientPool]:
            return raw_channels(grpc.aio, nodes, tls), AioServiceClientPool(topology_of(nodes), tls)

        raw, pool = loop.run(opened())
        balanced = pool.channel(SERVICE.name, SERVICE.version)
        variants = {"raw": call_aio(loop, raw), "pool": call_aio(loop, [balanced])}
        report("aio", len(nodes), paired_rounds(variants, **how_often))
        loop.run(pool.close())
        for channel in raw:
            loop.run(channel.close())


def topology_of(nodes: Sequence[NodeInfo]) -> Topology:
    topology = Topology()
    for node in nodes:
        topology.add_node(node)
    return topology


def import_cpu(statement: str) -> float:
    """Returns the CPU ms that a new process spends on an import."""
    clock = "time.process_time()"
    code = f"import time; began = {clock}; {statement}; print({clock} - began)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout) * 1e3


def compare_imports(rounds: int = 11) -> None:
    print("CPU over `import grpc`, ms; median [95 % interval]")
    for statement, target in (
        ("import grpc, aegis_discovery", "target: at most 100"),
        ("import grpc; from aegis_discovery import ServiceClientPool", ""),
        ("import grpc; from aegis_discovery import connect", ""),
    ):
        pairs = [(import_cpu("import grpc"), import_cpu(statement)) for _ in range(rounds)]
        added = estimate([ours - grpc_alone for grpc_alone, ours in pairs])
        print(f"{statement:60} {added:5.1f}   {target}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=120, help="paired rounds (default 120)")
    parser.add_argument("--calls", type=int, default=100, help="calls a round (default 100)")
    arguments = parser.parse_args()
    how_often = {"rounds": arguments.rounds, "calls": arguments.calls}
    print("unary calls, CPU us each; median [95 % interval]")
    print(f"target: at most 10 us added; gate: a ratio of {GATE:.2f}")
    print("     providers   raw                      added                 ratio")
    with echo_servers(3) as (nodes, tls):
        for compare in (compare_sync, compare_aio):
            for some in (nodes[:1], nodes):
                compare(some, tls, **how_often)
    for following in (picks.report, failures.report, compare_imports):
        print()
        following()


if __name__ == "__main__":
    main()
