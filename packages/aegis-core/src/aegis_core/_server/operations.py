"""Does what operators order from afar, whom the policy names. Pure."""

from __future__ import annotations

import logging

from aegis_certs import owner_of
from aegis_discovery.proto import operations_pb2

from aegis_core._access.caller import Caller
from aegis_core._server.mesh_protocol import LocalNode, RequestRefusedError

_log = logging.getLogger("aegis.node")

OPERATIONS = "aegis.mesh.v1.Operations"
"""The service, which only a rule of the policy that names it allows."""


class NodeOperations:
    """Answers the calls of the service Operations. The policy has allowed the caller."""

    def __init__(self, node: LocalNode) -> None:
        self._node = node

    def drain(
        self, request: operations_pb2.DrainRequest, caller: Caller
    ) -> operations_pb2.DrainResponse:
        """Begins to leave the mesh, and to finish all calls.

        Raises:
            RequestRefusedError: Another process is meant, or this one is a worker.
        """
        node_id = self._node.node_id
        if owner_of(node_id) != node_id:
            reason = f"{node_id} is a worker, which its supervisor would start again"
            raise RequestRefusedError("FAILED_PRECONDITION", reason)
        if request.instance != self._node.instance:
            reason = f"{node_id} is another process than the one that is to drain"
            raise RequestRefusedError("FAILED_PRECONDITION", reason)
        _log.warning("%s was ordered to drain by %s", node_id, caller.node_id)
        self._node.drain(f"an order of {caller.node_id} to drain")
        return operations_pb2.DrainResponse()
