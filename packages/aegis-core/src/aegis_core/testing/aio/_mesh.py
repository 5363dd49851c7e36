"""A mesh of asyncio nodes in one process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import aegis_discovery.aio
from aegis_certs import TLSConfig

from aegis_core._node.node import Node
from aegis_core.testing._authority import identity
from aegis_core.testing._settling import (
    CLIENT,
    PATIENCE,
    all_know,
    check_running,
    node_arguments,
    slow,
)


class LocalMesh:
    """A mesh in this process, for tests: real nodes, on free ports of loopback, with mutual TLS.

    It is an async context manager, which stops all nodes and closes all clients at its end.
    Identities are made on the fly; see `identity`.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._stack = AsyncExitStack()

    def identity(self, node_id: str) -> TLSConfig:
        """The identity of a node or client of this mesh."""
        return identity(node_id)

    async def start(self, node_id: str, **options: Any) -> Node:
        """Starts a node, and returns once all nodes of the mesh know each other.

        Args:
            node_id: Its node id.
            options: Those of `aegis_core.aio.Node`; by default it listens on a free port of
                loopback and joins the nodes that run already.

        Raises:
            TimeoutError: If the nodes do not know each other within 15 s.
        """
        node = Node(node_id, **node_arguments(node_id, self.nodes, options))
        await node.start()
        self.nodes.append(node)
        try:
            async with asyncio.timeout(PATIENCE):
                while not all_know(self.nodes):  # noqa: ASYNC110 - several views, no single event
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise slow(self.nodes) from None
        return node

    async def connect(self, node_id: str = CLIENT, **options: Any) -> aegis_discovery.aio.Mesh:
        """Connects a client, which is no node.

        The options are those of `aegis_discovery.aio.connect`.
        """
        options.setdefault("tls", identity(node_id))
        client = aegis_discovery.aio.connect(*(node.address for node in self.nodes), **options)
        return await self._stack.enter_async_context(client)

    async def stop(self, node: Node) -> None:
        """Stops a node: it leaves the mesh and ends its calls at once.

        Raises:
            ValueError: If it is no node of this mesh that runs.
        """
        check_running(node, self.nodes)
        self.nodes.remove(node)
        await node.stop(grace=0)

    async def close(self) -> None:
        """Closes all clients and stops all nodes."""
        await self._stack.aclose()
        while self.nodes:
            await self.nodes.pop().stop(grace=0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
