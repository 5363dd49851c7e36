"""A node that takes its settings from the environment or from a file."""

import logging

import grpc
from aegis_core import Node, caller_from_context


def greet(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Answers with the caller's id; a service of yours has generated code instead."""
    return f"Hello {caller_from_context(context).node_id}".encode()


def register(server: grpc.Server) -> None:
    """Adds the service to the node's server."""
    handlers = {"Greet": grpc.unary_unary_rpc_method_handler(greet)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Orders", handlers)])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    Node.from_env(registrars=[register]).run()
