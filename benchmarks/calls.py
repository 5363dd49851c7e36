"""The cost of `pool.channel` for a caller.

    uv run python benchmarks/calls.py

A unary call is compared with the same stub on raw gRPC channels. Both have the same TLS and options
and call the same providers in turn; the CPU time is the caller's.

`code of the pool` is what it adds where gRPC's multi-callables are replaced by ones that answer at
once, and `counts by edge` the part of that which counts calls. Within a real call the same code
takes several times as long, since the processor has done other work in between.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import grpc
import grpc.aio
from aegis_certs import TLSConfig
from aegis_discovery import NodeInfo, ServiceClientPool, Topology
from aegis_discovery._runtime.edges import FOLD_MASK, PeerEdges
from aegis_discovery.aio import ServiceClientPool as AioServiceClientPool
from aegis_discovery.transport._shared import (
    channel_options,  # so that both sides have the same options
)
from harness import (
    GATE,
    METHOD,
    SERVICE,
    Row,
    echo_servers,
    estimate,
    judge,
    paired_rounds,
    parser_of,
    print_rows,
)

REQUEST = b"x" * 64
MAX_ADDED, MAX_COUNTS = 10, 2
"""CPU us a call."""

TURN = 20
"""Calls of one side before the other one's turn."""

CODE_CALLS = 2000
"""Calls a round without gRPC."""


def raw_channels(module: Any, nodes: Sequence[NodeInfo], tls: TLSConfig) -> list[Any]:
    """Opens plain channels with the options of the pool's channels."""
    credentials = grpc.ssl_channel_credentials(
        tls.trust_bundle, tls.private_key, tls.certificate_chain
    )
    return [
        module.secure_channel(node.address, credentials, options=channel_options(node.id))
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


class AnsweredCall:
    """What gRPC returns of a call, answered already."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], object]] = []

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(callback)

    def __await__(self) -> Generator[Any, None, bytes]:
        yield from ()
        for callback in self._callbacks:
            callback(self)
        return REQUEST


def answered_sync(*_: Any, **__: Any) -> bytes:
    return REQUEST


def answered_aio(*_: Any, **__: Any) -> AnsweredCall:
    return AnsweredCall()


def code_rows(
    name: str, run: Callable[[Any, int], object], balanced: Any, answered: Any
) -> list[Row]:
    """Measures the pool's own code, with a function that answers at once in place of gRPC."""
    stub = balanced.unary_unary(METHOD)
    for endpoint in stub.router.service.view.endpoints:
        endpoint.routes[stub.key] = (answered, stub.edges[endpoint.node_id])

    variants = {
        "raw": lambda calls: run(answered, calls),
        "pool": lambda calls: run(stub, calls),
        "counts": lambda calls: count(stub.edges, endpoint.node_id, calls),
    }
    taken = paired_rounds(variants, rounds=40, calls=CODE_CALLS)
    code = [pool - raw for raw, pool in zip(taken["raw"], taken["pool"], strict=True)]
    return [
        judge(f"code of the pool, {name}", estimate(code), MAX_ADDED, ".1f", "us"),
        judge(f"of it, counts by edge, {name}", estimate(taken["counts"]), MAX_COUNTS, ".1f", "us"),
    ]


def count(edges: PeerEdges, provider: str, calls: int) -> None:
    """Does for each call what counts it."""
    began = time.monotonic()
    for _ in range(calls):
        edge = edges[provider]
        edge.started += 1
        edge.pending.append(time.monotonic() - began)
        if not edge.started & FOLD_MASK:
            edge.fold()


def judged(name: str, providers: int, taken: dict[str, list[float]]) -> list[Row]:
    pairs = list(zip(taken["raw"], taken["pool"], strict=True))
    added = estimate([pool - raw for raw, pool in pairs])
    ratio = estimate([pool / raw for raw, pool in pairs])
    raw = estimate(taken["raw"])
    print(f"{name:4} {providers:9}   {raw:6.1f}   {added:5.1f}   {ratio:5.3f}", flush=True)
    of = "1 provider" if providers == 1 else f"{providers} providers"
    return [
        judge(f"added by pool.channel, {name}, {of}", added, MAX_ADDED, ".1f", "us"),
        judge(f"the same, pool / raw, {name}, {of}", ratio, GATE, ".3f"),
    ]


def compare_sync(nodes: Sequence[NodeInfo], tls: TLSConfig, **how_often: int) -> list[Row]:
    def run(stub: Any, calls: int) -> None:
        for _ in range(calls):
            stub(REQUEST, timeout=10)

    with ExitStack() as stack:
        raw = [stack.enter_context(channel) for channel in raw_channels(grpc, nodes, tls)]
        pool = stack.enter_context(ServiceClientPool(topology_of(nodes), tls))
        balanced = pool.channel(SERVICE.name, SERVICE.version)
        variants = {"raw": call_sync(raw), "pool": call_sync([balanced])}
        rows = judged("sync", len(nodes), paired_rounds(variants, turn=TURN, **how_often))
        if len(nodes) == 1:
            rows += code_rows("sync", run, balanced, answered_sync)
    return rows


def compare_aio(nodes: Sequence[NodeInfo], tls: TLSConfig, **how_often: int) -> list[Row]:
    async def run(stub: Any, calls: int) -> None:
        for _ in range(calls):
            await stub(REQUEST, timeout=10)

    with asyncio.Runner() as loop:

        async def opened() -> tuple[list[grpc.aio.Channel], AioServiceClientPool]:
            return raw_channels(grpc.aio, nodes, tls), AioServiceClientPool(topology_of(nodes), tls)

        raw, pool = loop.run(opened())
        balanced = pool.channel(SERVICE.name, SERVICE.version)
        variants = {"raw": call_aio(loop, raw), "pool": call_aio(loop, [balanced])}
        rows = judged("aio", len(nodes), paired_rounds(variants, turn=TURN, **how_often))
        if len(nodes) == 1:
            rows += code_rows("aio", lambda *what: loop.run(run(*what)), balanced, answered_aio)
        loop.run(pool.close())
        for channel in raw:
            loop.run(channel.close())
    return rows


def topology_of(nodes: Sequence[NodeInfo]) -> Topology:
    topology = Topology()
    for node in nodes:
        topology.add_node(node)
    return topology


def report(rounds: int = 120, calls: int = 200) -> list[Row]:
    print("unary calls, CPU us each; median [95 % interval]")
    print("     providers   raw                      added                 ratio")
    rows = []
    with echo_servers(3) as (nodes, tls):
        for compare in (compare_sync, compare_aio):
            for some in (nodes[:1], nodes):
                rows += compare(some, tls, rounds=rounds, calls=calls)
    return rows


def main() -> None:
    parser = parser_of(__doc__, rounds=120, quick=30)
    parser.add_argument("--calls", type=int, default=200, help="calls a round (default 200)")
    arguments = parser.parse_args()
    sys.exit(print_rows(report(arguments.rounds, arguments.calls)))


if __name__ == "__main__":
    main()
