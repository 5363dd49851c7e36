"""The blocking node in programs without an event loop."""

from __future__ import annotations

import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from aegis_certs import TLSConfig
from aegis_core import Node, NodeInfo, ServiceInfo, caller_from_context
from aegis_discovery import connect

ECHO = ServiceInfo("echo", "v1")


def serve_echo(node_id: str) -> Callable[[Any], None]:
    def say(request: bytes, context: grpc.ServicerContext) -> bytes:
        return f"{node_id} {caller_from_context(context).node_id} {request.decode()}".encode()

    def count(request: bytes, context: grpc.ServicerContext) -> Any:
        return (str(number).encode() for number in range(int(request)))

    def register(server: Any) -> None:
        handlers = {
            "Say": grpc.unary_unary_rpc_method_handler(say),
            "Count": grpc.unary_stream_rpc_method_handler(count),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Echo", handlers),)
        )

    return register


def node(identity: Callable[[str], TLSConfig], node_id: str, **options: Any) -> Node:
    return Node(
        node_id,
        address="127.0.0.1:0",
        tls=identity(node_id),
        services=[ECHO],
        registrars=[serve_echo(node_id)],
        grace=0.2,
        **options,
    )


def test_a_web_server_with_a_thread_per_request_calls_through_one_node(
    identity: Callable[[str], TLSConfig],
) -> None:
    with node(identity, "a") as a, node(identity, "b", seed_peers=[a.address]) as b:

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                method = b.pool.channel("echo", "v1").unary_unary("/test.Echo/Say")
                body = method(self.path.strip("/").encode(), timeout=10)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
            threading.Thread(target=web.serve_forever, daemon=True).start()

            def visit(number: int) -> list[str]:
                url = f"http://127.0.0.1:{web.server_port}/{number}"
                with urllib.request.urlopen(url, timeout=20) as answer:
                    return answer.read().decode().split()  # type: ignore[no-any-return]

            with ThreadPoolExecutor(8) as visitors:
                answers = list(visitors.map(visit, range(60)))
            web.shutdown()
    assert [int(number) for _, _, number in answers] == list(range(60))
    assert {caller for _, caller, _ in answers} == {"b"}
    assert Counter(provider for provider, _, _ in answers) == {"a": 30, "b": 30}


def test_handlers_can_call_services_through_their_own_node(
    identity: Callable[[str], TLSConfig],
) -> None:
    nodes: list[Node] = []

    def relay(request: bytes, context: grpc.ServicerContext) -> bytes:
        method = nodes[0].pool.channel("echo", "v1").unary_unary("/test.Echo/Say")
        answer: bytes = method(request, timeout=10)
        return answer

    def register(server: Any) -> None:
        handlers = {"Relay": grpc.unary_unary_rpc_method_handler(relay)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Relay", handlers),)
        )

    front = Node(
        "front",
        address="127.0.0.1:0",
        tls=identity("front"),
        services=[ServiceInfo("relay", "v1")],
        registrars=[register],
        grace=0.2,
    )
    with front, node(identity, "back", seed_peers=[front.address]) as back:
        nodes.append(front)
        changed = threading.Event()
        front.topology.subscribe(lambda _: changed.set())
        while not front.topology.get_service_providers("echo", "v1"):
            assert changed.wait(15)
            changed.clear()
        with connect(back.address, tls=identity("client")) as mesh:
            method = mesh.pool.channel("relay", "v1").unary_unary("/test.Relay/Relay")
            with ThreadPoolExecutor(8) as threads:
                answers = list(threads.map(lambda _: method(b"hi", timeout=10), range(24)))
    assert set(answers) == {b"back front hi"}


def test_streams_work_and_events_arrive_in_order(identity: Callable[[str], TLSConfig]) -> None:
    events: list[str] = []
    gone = threading.Event()

    def on_event(event: Any) -> None:
        events.append(f"{event.kind} {event.node.id}")
        if events[-1] == "left b":
            gone.set()

    with node(identity, "a") as a:
        a.topology.subscribe(on_event)
        with node(identity, "b", seed_peers=[a.address]) as b:
            counted = b.pool.channel("echo", "v1").unary_stream("/test.Echo/Count")(b"3")
            assert list(counted) == [b"0", b"1", b"2"]
            assert isinstance(a.topology.nodes["b"], NodeInfo)
        assert gone.wait(15)
    assert events[:2] == ["joined b", "left b"]
