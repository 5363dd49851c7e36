"""The cost that a node adds to a unary call on the server, compared with a raw gRPC server.

    uv run python benchmarks/server.py

Both serve the same handler with the same mutual TLS. The node also identifies the caller, checks
its certificate, applies a policy and counts. The handler of a third, raw server reads the caller's
identity from gRPC and ignores it: that is the lowest cost that any mesh can add. The CPU time is
that of the servers; the caller is another process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_core import CallRule, Policy
from aegis_core.aio import Node
from harness import GATE, METHOD, Estimate, Row, estimate, judge, paired_rounds, print_rows

MAX_ADDED = 25
"""CPU us a call."""

POLICY = Policy(
    call=[
        CallRule(ids=["billing-*"], services=["shop.*"]),
        CallRule(ids=["caller"], services=["bench.Echo"], methods=["Echo"]),
    ]
)


def echo(request: bytes, context: Any) -> bytes:
    return request


async def echo_async(request: bytes, context: Any) -> bytes:
    return request


def echo_asking(request: bytes, context: Any) -> bytes:
    context.auth_context()
    return request


async def echo_async_asking(request: bytes, context: Any) -> bytes:
    context.auth_context()
    return request


def registrar(handler: Any) -> Callable[[Any], None]:
    service, method = METHOD.removeprefix("/").split("/")
    handlers: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(handler)}

    def register(server: Any) -> None:
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    return register


async def raw_server(tls: TLSConfig, register: Callable[[Any], None]) -> tuple[Any, str]:
    """Starts a plain server with the options of a node and as many threads."""
    server = grpc.aio.server(
        migration_thread_pool=ThreadPoolExecutor(16),
        options=(("grpc.so_reuseport", 0), ("grpc.http2.bdp_probe", 0)),
    )
    register(server)
    credentials = grpc.ssl_server_credentials(
        [(tls.private_key, tls.certificate_chain)], tls.trust_bundle, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    return server, f"127.0.0.1:{port}"


@contextmanager
def caller(tls: TLSConfig, targets: dict[str, str]) -> Iterator[dict[str, Callable[[int], object]]]:
    """Runs the caller's process; yields functions that make it call each server."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--caller"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    requests, replies = process.stdin, process.stdout
    pems = [tls.trust_bundle, tls.private_key, tls.certificate_chain]
    print(json.dumps([[pem.decode() for pem in pems], targets]), file=requests, flush=True)
    assert replies.readline() == "ready\n"

    def at(name: str) -> Callable[[int], object]:
        def run(calls: int) -> None:
            print(json.dumps([name, calls]), file=requests, flush=True)
            assert replies.readline() == "done\n"

        return run

    try:
        yield {name: at(name) for name in targets}
    finally:
        requests.close()
        process.wait()
        replies.close()


def call_on_request() -> None:
    """The caller's process: makes the calls that standard input requests, until it ends."""
    pems, targets = json.loads(sys.stdin.readline())
    credentials = grpc.ssl_channel_credentials(*(pem.encode() for pem in pems))
    options = [("grpc.ssl_target_name_override", "server")]
    stubs: dict[str, Any] = {
        name: grpc.secure_channel(address, credentials, options=options).unary_unary(METHOD)
        for name, address in targets.items()
    }
    for stub in stubs.values():
        stub(b"x", timeout=10)
    print("ready", flush=True)
    for line in sys.stdin:
        name, calls = json.loads(line)
        stub = stubs[name]
        for _ in range(calls):
            stub(b"x" * 64, timeout=10)
        print("done", flush=True)


async def compare(kind: str, handler: Any, asking: Any, **how_often: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        ca = CertificateAuthority.create(directory, key_type=KeyType.P256)
        server_tls, caller_tls = ca.issue_in_memory("server"), ca.issue_in_memory("caller")
    register = registrar(handler)
    raw, raw_address = await raw_server(server_tls, register)
    floor, floor_address = await raw_server(server_tls, registrar(asking))
    options: dict[str, Any] = {"tls": server_tls, "registrars": [register], "policy": POLICY}
    async with Node("server", address="127.0.0.1:0", grace=0, **options) as node:
        targets = {"raw": raw_address, "floor": floor_address, "node": node.address}

        def measure() -> dict[str, list[float]]:
            with caller(caller_tls, targets) as variants:
                return paired_rounds(variants, **how_often)

        taken = await asyncio.to_thread(measure)
    await raw.stop(0)
    await floor.stop(0)

    def added(name: str) -> Estimate:
        return estimate([one - raw for one, raw in zip(taken[name], taken["raw"], strict=True)])

    ratio = estimate([n / raw for n, raw in zip(taken["node"], taken["raw"], strict=True)])
    raw_cost, by_node = estimate(taken["raw"]), added("node")
    print(
        f"{kind:6} {raw_cost:6.1f}   {added('floor'):5.1f}   {by_node:5.1f}   {ratio:5.3f}",
        flush=True,
    )
    return [
        judge(f"added on the server by a node, {kind}", by_node, MAX_ADDED, ".1f", "us"),
        judge(f"the same, node / raw, {kind}", ratio, GATE, ".3f"),
    ]


def report(rounds: int = 120, calls: int = 100) -> list[Row]:
    print("a server, CPU us a call; median [95 % interval]")
    print("handler raw                    asking who calls     a node                ratio")
    rows = []
    for kind, *handlers in (("async", echo_async, echo_async_asking), ("sync", echo, echo_asking)):
        rows += asyncio.run(compare(kind, *handlers, rounds=rounds, calls=calls))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=120, help="paired rounds (default 120)")
    parser.add_argument("--calls", type=int, default=100, help="calls a round (default 100)")
    parser.add_argument("--caller", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.caller:
        call_on_request()
        return 0
    return print_rows(report(arguments.rounds, arguments.calls))


if __name__ == "__main__":
    sys.exit(main())
