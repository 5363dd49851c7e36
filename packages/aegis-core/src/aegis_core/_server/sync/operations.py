"""The service Operations on `grpc.server`."""

from __future__ import annotations

from typing import Any

import grpc
from aegis_discovery.proto import operations_pb2_grpc

from aegis_core._server.operations import NodeOperations
from aegis_core._server.sync.calls import current_call
from aegis_core._server.sync.mesh_services import NodeLoop, refusals


class Operations(operations_pb2_grpc.OperationsServicer):
    """Serves `Drain`.

    Args:
        node: Answers it, on the node's event loop.
        loop: That loop.
    """

    def __init__(self, node: NodeOperations, loop: NodeLoop) -> None:
        self._node = node
        self._loop = loop

    def Drain(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the wire's name
        caller = current_call().caller
        with refusals(context):
            return self._loop.call(self._node.drain, request, caller)
