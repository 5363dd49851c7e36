"""A mesh of blocking nodes in one process."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import aegis_discovery
from aegis_certs import TLSConfig

from aegis_core._node.sync_node import Node
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

    It is a context manager, which stops all nodes and closes all clients at its end. Identities are
    made on the fly; see `identity`.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._stack = ExitStack()

    def identity(self, node_id: str) -> TLSConfig:
        """The identity of a node or client of this mesh."""
        return identity(node_id)

    def start(self, node_id: str, **options: Any) -> Node:
        """Starts a node, and returns once all nodes of the mesh know each other.

        Args:
            node_id: Its node id.
            options: Those of `aegis_core.Node`; by default it listens on a free port of loopback
                and joins the nodes that run already.

        Raises:
            TimeoutError: If the nodes do not know each other within 15 s.
        """
        node = Node(node_id, **node_arguments(node_id, self.nodes, options))
        node.start()
        self.nodes.append(node)
        deadline = time.monotonic() + PATIENCE
        while not all_know(self.nodes):
            if time.monotonic() > deadline:
                raise slow(self.nodes)
            time.sleep(0.005)
        return node

    def connect(self, node_id: str = CLIENT, **options: Any) -> aegis_discovery.Mesh:
        """Connects a client, which is no node.

        The options are those of `aegis_discovery.connect`.
        """
        options.setdefault("tls", identity(node_id))
        client = aegis_discovery.connect(*(node.address for node in self.nodes), **options)
        return self._stack.enter_context(client)

    def stop(self, node: Node) -> None:
        """Stops a node: it leaves the mesh and ends its calls at once.

        Raises:
            ValueError: If it is no node of this mesh that runs.
        """
        check_running(node, self.nodes)
        self.nodes.remove(node)
        node.stop(grace=0)

    def close(self) -> None:
        """Closes all clients and stops all nodes."""
        self._stack.close()
        while self.nodes:
            self.nodes.pop().stop(grace=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
