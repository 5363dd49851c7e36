"""A blocking script that runs a node: options come as JSON, events go out as JSON lines."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import grpc
from aegis_core import Node, ServiceInfo, TopologyEvent, caller_from_context

_writing = threading.Lock()


def report(**fields: Any) -> None:
    with _writing:
        print(json.dumps({"at": time.monotonic(), **fields}), flush=True)


def report_event(event: TopologyEvent) -> None:
    report(
        event=f"{event.kind} {event.node.id}", status=event.node.status, address=event.node.address
    )


def report_topology(node: Node) -> None:
    nodes = node.topology.nodes.values()
    report(
        topology={n.id: n.status for n in nodes},
        services={n.id: [service.name for service in n.services] for n in nodes},
        providers=[n.id for n in node.topology.get_service_providers("echo", "v1")],
        digest=node.topology.digest.hex(),
        across=node.stats().feeds.across,
    )


def main() -> None:
    options = json.loads(sys.argv[1])
    node_id = options["id"]

    def say(request: bytes, context: grpc.ServicerContext) -> bytes:
        return f"{node_id} {caller_from_context(context).node_id}".encode()

    def count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    def join(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b"+".join(requests)

    async def chat(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"re: " + request

    def register(server: grpc.Server) -> None:
        handlers = {
            "Say": grpc.unary_unary_rpc_method_handler(say),
            "Count": grpc.unary_stream_rpc_method_handler(count),
            "Join": grpc.stream_unary_rpc_method_handler(join),
            "Chat": grpc.stream_stream_rpc_method_handler(chat),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Echo", handlers),)
        )

    node = Node(
        **{"address": "127.0.0.1:0", **options},
        services=[ServiceInfo("echo", "v1")],
        registrars=[register],
    )
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    node.start()
    node.topology.subscribe(report_event)
    report(ready=node.address)

    def handle_commands() -> None:
        for line in sys.stdin:
            match line.split():
                case ["topology"]:
                    report_topology(node)
                case ["provide", name]:
                    own = node.topology.nodes[node_id]
                    services = (*own.services, ServiceInfo(name, "v1"))
                    node.topology.update_node(replace(own, services=services))
        # The test has ended or was killed, so this process must end too.
        stopping.set()

    threading.Thread(target=handle_commands, daemon=True).start()
    while not stopping.wait(0.5):
        pass  # the system may give the signal to another thread, which does not wake this one
    node.stop()
    report(stopped=node_id)


main()
