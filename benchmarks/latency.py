"""The median latency of a call at 200 calls a second, through the mesh and on plain gRPC.

    uv run python benchmarks/latency.py

Both ends count: a client of the mesh (`connect`) that calls a node through `pool.channel`, against
a plain channel with the same options to a plain server. Blocking clients call blocking servers,
async ones async servers. Each client and each server is a process of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import grpc
import grpc.aio
from aegis_certs import TLSConfig
from harness import GATE, Row, alternate, estimate, judge, parser_of, print_rows, ratios
from workload import CALLER, NAME, SERVER, SMALL, Child, answer, children, identities, path, told

RATE = 200
CALLS = 100
"""Calls in a round."""


def p50(client: Child) -> float:
    """Returns the median latency of a round, in ms."""
    return statistics.median(client.ask(CALLS)) * 1e3


def compare(is_aio: bool, rounds: int) -> Row:
    server_tls, caller_tls = identities(SERVER, CALLER)
    sides = {"plain": False, "mesh": True}
    with ExitStack() as stack:
        runs: dict[str, Callable[[], float]] = {}
        for side, is_mesh in sides.items():
            start = partial(Child, "serve", [is_mesh, is_aio], server_tls)
            (server,) = stack.enter_context(children(start))
            settings = [server.started, is_mesh, is_aio]
            start = partial(Child, "call", settings, caller_tls, module=__file__)
            runs[side] = partial(p50, *stack.enter_context(children(start)))
        taken = alternate(runs, rounds=rounds)
    kind = "async" if is_aio else "blocking"
    ratio = ratios(taken["mesh"], taken["plain"])
    plain, mesh = estimate(taken["plain"]), estimate(taken["mesh"])
    print(f"{kind:8}  {plain:.3f}   {mesh:.3f}   {ratio:.3f}", flush=True)
    return judge(f"p50 at {RATE} calls a second, mesh / plain gRPC, {kind}", ratio, GATE, ".3f")


def report(rounds: int = 30) -> list[Row]:
    print(f"p50 of calls at {RATE} a second, ms; median of rounds [95 % interval]")
    print("          plain gRPC             through the mesh       ratio")
    return [compare(is_aio, rounds) for is_aio in (False, True)]


def plain_channel(module: Any, address: str, tls: TLSConfig) -> Any:
    from aegis_discovery.transport._shared import channel_options  # so that both have the same

    credentials = grpc.ssl_channel_credentials(
        tls.trust_bundle, tls.private_key, tls.certificate_chain
    )
    return module.secure_channel(address, credentials, options=channel_options(SERVER))


def call_blocking(tls: TLSConfig, address: str, is_mesh: bool) -> None:
    with ExitStack() as stack:
        if is_mesh:
            from aegis_discovery import connect

            mesh = stack.enter_context(connect(address, tls=tls))
            channel: Any = mesh.pool.channel(NAME, "v1")
        else:
            channel = stack.enter_context(plain_channel(grpc, address, tls))
        stub = channel.unary_unary(path("Echo"), _registered_method=True)
        stub(SMALL, timeout=10)
        answer("ready")
        for line in sys.stdin:
            taken, due = [], time.perf_counter()
            for _ in range(int(line)):
                due += 1 / RATE
                time.sleep(max(0.0, due - time.perf_counter()))
                began = time.perf_counter()
                stub(SMALL, timeout=10)
                taken.append(time.perf_counter() - began)
            answer(taken)


async def call_async(tls: TLSConfig, address: str, is_mesh: bool) -> None:
    async def call(stub: Any) -> float:
        began = time.perf_counter()
        await stub(SMALL, timeout=10)
        return time.perf_counter() - began

    async def serve(channel: Any) -> None:
        stub = channel.unary_unary(path("Echo"), _registered_method=True)
        await stub(SMALL, timeout=10)
        answer("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            calls, due = [], time.perf_counter()
            for _ in range(int(line)):
                due += 1 / RATE
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                calls.append(asyncio.create_task(call(stub)))
            answer(await asyncio.gather(*calls))

    if is_mesh:
        from aegis_discovery.aio import connect

        async with connect(address, tls=tls) as mesh:
            await serve(mesh.pool.channel(NAME, "v1"))
    else:
        async with plain_channel(grpc.aio, address, tls) as channel:
            await serve(channel)


def main() -> int:
    if sys.argv[1:] == ["call"]:
        tls, (address, is_mesh, is_aio) = told()
        if is_aio:
            asyncio.run(call_async(tls, address, is_mesh))
        else:
            call_blocking(tls, address, is_mesh)
        return 0
    return print_rows(report(parser_of(__doc__, rounds=30, quick=8).parse_args().rounds))


if __name__ == "__main__":
    sys.exit(main())
