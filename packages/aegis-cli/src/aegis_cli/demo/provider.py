"""The service that the demo calls: an ordinary gRPC service whose replies name the caller."""

from __future__ import annotations

import grpc
from aegis_core import caller_from_context
from aegis_discovery import ServiceInfo

from aegis_cli.demo import greeter_pb2, greeter_pb2_grpc

SERVICE = ServiceInfo("greeter", "v1")


class Greeter(greeter_pb2_grpc.GreeterServicer):
    """The greeter of one node."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id

    def Hello(  # noqa: N802 - the method's name on the wire
        self, request: greeter_pb2.HelloRequest, context: grpc.ServicerContext
    ) -> greeter_pb2.HelloReply:
        """Replies with the caller from the certificate, not from the request."""
        caller = caller_from_context(context)
        return greeter_pb2.HelloReply(
            greeting=f"Hello {request.name}", provider=self._node_id, caller=caller.node_id
        )
