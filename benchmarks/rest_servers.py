"""The processes that `rest.py` measures; each imports only what it needs itself."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any


async def run_bare(pems: Sequence[str], *, generated: bool) -> None:
    """Runs a bare server of the asyncio API; with generated code, it serves its health."""
    import grpc.aio

    server = grpc.aio.server()
    if generated:
        from grpc_health.v1 import health, health_pb2_grpc

        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", credentials(pems))
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def run_bare_blocking(pems: Sequence[str], *, generated: bool) -> None:
    """Runs a bare server of the blocking API; with generated code, it serves its health."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    server = grpc.server(ThreadPoolExecutor(32))
    if generated:
        from grpc_health.v1 import health, health_pb2_grpc

        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", credentials(pems))
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


def credentials(pems: Sequence[str]) -> Any:
    import grpc

    key, chain, bundle = (pem.encode() for pem in pems)
    return grpc.ssl_server_credentials([(key, chain)], bundle, require_client_auth=True)


async def run_node(options: dict[str, Any]) -> None:
    from aegis_core import ServiceInfo
    from aegis_core.aio import Node

    async with Node(
        **options, address="127.0.0.1:0", services=[ServiceInfo("echo", "v1")], grace=0
    ) as node:
        print(node.address, flush=True)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async for _ in reader:
            print(count_alive(node), flush=True)


def run_blocking_node(options: dict[str, Any]) -> None:
    from aegis_core import Node, ServiceInfo

    node = Node(**options, address="127.0.0.1:0", services=[ServiceInfo("echo", "v1")], grace=0)

    def answer() -> None:
        for _ in sys.stdin:
            print(count_alive(node), flush=True)

    def ready() -> None:
        print(node.address, flush=True)
        threading.Thread(target=answer, daemon=True).start()

    node.run(on_ready=ready)


def count_alive(node: Any) -> int:
    return sum(other.status == "alive" for other in node.topology.nodes.values())


def main() -> None:
    logging.basicConfig(level=logging.ERROR)  # that nodes fail at the end is no news
    options = json.loads(sys.argv[2])
    match sys.argv[1]:
        case "bare-aio":
            asyncio.run(run_bare(**options))
        case "bare-blocking":
            run_bare_blocking(**options)
        case "aio":
            asyncio.run(run_node(options))
        case "blocking":
            run_blocking_node(options)


if __name__ == "__main__":
    main()
