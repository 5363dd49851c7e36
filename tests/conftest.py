"""Shared by the cross-package tests: nodes on loopback and a service that they can provide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from typing import Any, TypeVar

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import ServiceInfo, caller_from_context
from aegis_core.aio import Node
from aegis_discovery.proto import aegis_pb2_grpc

StartNode = Callable[..., Awaitable[Node]]
T = TypeVar("T")


def keep(
    request: pytest.FixtureRequest,
    key: pytest.StashKey[T],
    make: Callable[[], AbstractContextManager[T]],
) -> T:
    """Makes something once for the tests of a directory, and ends it after the last of them.

    Processes that last for the session would use the CPU during all later tests.
    """
    directory = request.node.getparent(pytest.Directory)
    if key not in directory.stash:
        made = ExitStack()
        directory.stash[key] = made.enter_context(make())

        def end() -> None:
            del directory.stash[key]
            made.close()

        directory.addfinalizer(end)
    kept: T = directory.stash[key]
    return kept


@pytest.fixture
async def start(identity: Callable[[str], TLSConfig]) -> AsyncIterator[StartNode]:
    """Starts nodes with other nodes as their seed peers; stops them all at the end."""
    nodes: list[Node] = []

    async def start_node(node_id: str, *seeds: Node, **options: Any) -> Node:
        options.setdefault("address", "127.0.0.1:0")
        options.setdefault("seed_peers", [seed.address for seed in seeds])
        if not {"tls", "tls_options", "cert_dir"} & options.keys():
            options["tls"] = identity(node_id)
        node = Node(node_id, **options)
        await node.start()
        nodes.append(node)
        return node

    yield start_node
    await asyncio.gather(*(node.stop(grace=0) for node in nodes))


@pytest.fixture(scope="session")
def agree() -> Callable[..., bool]:
    """Tells whether these nodes have equal topologies that list exactly them."""

    def agreed(*nodes: Any) -> bool:
        views = {(node.topology.version, node.topology.digest) for node in nodes}
        ids = sorted(node.id for node in nodes)
        return len(views) == 1 and list(nodes[0].topology.nodes) == ids

    return agreed


@asynccontextmanager
async def serving(
    tls: TLSConfig, servicer: aegis_pb2_grpc.MeshServiceServicer
) -> AsyncIterator[str]:
    """Runs a server of the unsigned protocol with any identity; yields its address."""
    server = grpc.aio.server()
    aegis_pb2_grpc.add_MeshServiceServicer_to_server(servicer, server)
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([(tls.private_key, tls.certificate_chain)], tls.trust_bundle),
    )
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Echo:
    """A service with async handlers for all four kinds of calls."""

    def __init__(self) -> None:
        self.node_id = ""

    def __call__(self, server: Any) -> None:
        """Registers the service, as `add_..._to_server` of generated code does."""
        handlers = {
            "Say": grpc.unary_unary_rpc_method_handler(self.say),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Join": grpc.stream_unary_rpc_method_handler(self.join),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Echo", handlers),)
        )

    async def say(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        caller = caller_from_context(context).node_id
        return f"{self.node_id} {caller} {context.peer()} {request.decode()}".encode()

    async def count(
        self, request: bytes, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    async def join(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> bytes:
        return b"+".join([request async for request in requests])

    async def chat(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"re: " + request

    async def hang(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await asyncio.Event().wait()
        return request


@pytest.fixture
def provider() -> Callable[..., dict[str, Any]]:
    """Makes the options of a node that provides `echo/v1` and the given services."""

    def options(node_id: str, *services: ServiceInfo) -> dict[str, Any]:
        echo = Echo()
        echo.node_id = node_id
        return {"services": [ServiceInfo("echo", "v1"), *services], "registrars": [echo]}

    return options


@pytest.fixture(scope="session")
def say() -> Callable[..., Awaitable[list[str]]]:
    """Calls `Say` on a channel; returns provider, caller, address of the caller, and the words."""

    async def call(channel: grpc.aio.Channel, words: str = "hi") -> list[str]:
        answer: bytes = await channel.unary_unary("/test.Echo/Say")(words.encode(), timeout=10)
        return answer.decode().split(" ", 3)

    return call
