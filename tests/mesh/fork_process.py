"""A blocking script that forks while it has a node, a client and a pool.

It prints how large the stacks of its threads are, the outcome of every use in the child process,
and then the outcomes in the parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from collections.abc import Callable

import grpc
from aegis_core import Node, ServiceClientPool, ServiceInfo
from aegis_discovery import connect


def stack_sizes() -> dict[str, int]:
    """Returns the bytes of the stack of each thread; nothing where that cannot be asked."""
    try:
        get_attributes = ctypes.CDLL(None).pthread_getattr_np
    except AttributeError:
        return {}
    sizes = {}
    for thread in threading.enumerate():
        attributes, size = ctypes.create_string_buffer(256), ctypes.c_size_t()
        get_attributes(ctypes.c_ulong(thread.ident or 0), attributes)
        ctypes.CDLL(None).pthread_attr_getstacksize(attributes, ctypes.byref(size))
        sizes[thread.name] = size.value
    return sizes


def outcome_of(use: Callable[[], object]) -> str:
    try:
        use()
    except Exception as error:  # noqa: BLE001 - any error is the outcome
        return f"{type(error).__name__}: {error}"
    return "fine"


def register(server: grpc.Server) -> None:
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(lambda request, _: request)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))


def main() -> None:
    cert_dir = json.loads(sys.argv[1])["cert_dir"]
    services = [ServiceInfo("echo", "v1")]
    node = Node(
        "a", address="127.0.0.1:0", cert_dir=cert_dir, services=services, registrars=[register]
    )
    later = Node("b", address="127.0.0.1:0", cert_dir=cert_dir)
    node.start()
    address = node.address
    mesh = connect(address, node_id="c", cert_dir=cert_dir)
    pool = ServiceClientPool(node.topology, node.tls)
    say = mesh.pool.channel("echo", "v1").unary_unary("/t/Say")
    assert say(b"hi", timeout=10) == b"hi"

    print(json.dumps({"stacks": stack_sizes()}), flush=True)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        uses: dict[str, Callable[[], object]] = {
            "node.topology": lambda: node.topology,
            "node.pool": lambda: node.pool,
            "node.stats": node.stats,
            "node.start": node.start,
            "node.ping_peer": lambda: node.ping_peer("c"),
            "node.wait_for_termination": node.wait_for_termination,
            "node.stop": node.stop,
            "mesh.topology": lambda: mesh.topology,
            "mesh.pool": lambda: mesh.pool,
            "mesh.close": mesh.close,
            "pool.channel": lambda: pool.channel("echo", "v1"),
            "pool.get_conn": lambda: pool.get_conn("echo", "v1"),
            "pool.close": pool.close,
            "a stub": lambda: say(b"hi", timeout=1),
            "later.topology": lambda: later.topology,
        }
        os.write(write, json.dumps({name: outcome_of(use) for name, use in uses.items()}).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answers:
        print(json.dumps({"child": json.load(answers)}), flush=True)
    os.waitpid(child, 0)
    after = {
        "a stub": outcome_of(lambda: say(b"hi", timeout=10)),
        "node.stats": outcome_of(node.stats),
        "later.start": outcome_of(later.start),
        "later.stop": outcome_of(later.stop),
        "mesh.close": outcome_of(mesh.close),
        "pool.close": outcome_of(pool.close),
        "node.stop": outcome_of(node.stop),
    }
    print(json.dumps({"parent": after}), flush=True)


main()
