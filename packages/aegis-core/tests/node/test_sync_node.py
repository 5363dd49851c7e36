from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import (
    AddressInUseError,
    HealthStatus,
    Node,
    NodeStateError,
    PeerInfo,
    ServiceInfo,
    aio,
    caller_from_context,
)
from aegis_discovery import connect

MakeIdentity = Callable[[str], TLSConfig]


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request + b" from " + caller_from_context(context).node_id.encode()


def register_echo(server: grpc.Server) -> None:
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Echo", {"Echo": handler}),)
    )


def provider(identity: MakeIdentity, node_id: str, **options: object) -> Node:
    return Node(
        node_id,
        address="127.0.0.1:0",
        tls=identity(node_id),
        services=[ServiceInfo("echo", "v1")],
        registrars=[register_echo],
        **options,
    )


def test_blocking_code_serves_joins_and_calls(identity: MakeIdentity) -> None:
    with provider(identity, "a") as a, provider(identity, "b", seed_peers=[a.address]) as b:
        assert list(b.topology.nodes) == ["a", "b"]
        method = b.pool.channel("echo", "v1").unary_unary("/test.Echo/Echo")
        assert {method(b"hi", timeout=5) for _ in range(4)} == {b"hi from b"}
        assert a.server.services == ("test.Echo",)
        assert b.ping_peer("a") > 0
        assert b.get_peer_health("a").status is HealthStatus.HEALTHY
        assert b.get_peer_node_info("a").address == a.address
        assert b.sync_topology_with_all_peers().synced == ("a",)
        b.add_peer(PeerInfo("c", "127.0.0.1:9"))
        assert list(b.peers.added) == ["a", "c"]
        b.remove_peer("c")


def test_many_threads_share_one_client(identity: MakeIdentity) -> None:
    with (
        provider(identity, "a") as a,
        connect(a.address, tls=identity("client")) as mesh,
        ThreadPoolExecutor(8) as threads,
    ):
        method = mesh.pool.channel("echo", "v1").unary_unary("/test.Echo/Echo")
        answers = list(threads.map(lambda _: method(b"hi", timeout=10), range(200)))
        assert answers == [b"hi from client"] * 200
        assert mesh.get_certificate("a") == a.tls.certificate


def other_threads() -> list[threading.Thread]:
    """Without the one that notices growth: it ends once the process has worked for a while."""
    return [thread for thread in threading.enumerate() if thread.name != "aegis-growth"]


def test_a_failed_start_leaves_no_thread_behind(identity: MakeIdentity) -> None:
    before = len(other_threads())
    with provider(identity, "a") as a:
        taken = Node("b", address=a.address, tls=identity("b"))
        with pytest.raises(AddressInUseError):
            taken.start()
    assert not [t for t in threading.enumerate() if t.name == "aegis-b"]
    assert len(other_threads()) <= before + 2, "gRPC keeps its own threads"


def test_a_node_waits_until_it_is_stopped(identity: MakeIdentity) -> None:
    node = provider(identity, "a")
    node.start()
    timer = threading.Timer(0.2, node.stop)
    timer.start()
    node.wait_for_termination()
    timer.join()
    node.stop()
    with pytest.raises(NodeStateError):
        _ = node.topology


def test_both_faces_of_a_node_take_the_same_options() -> None:
    blocking = inspect.signature(Node)
    assert blocking == inspect.signature(aio.Node)
    taken = blocking.parameters
    assert taken["id"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert taken["grace"].default == 5.0
    documented = inspect.getdoc(aio.Node) or ""
    assert [name for name in taken if f"\n    {name}: " not in documented] == []


@pytest.mark.parametrize("name", ["add_peer", "ping_peer", "sync_topology_with_all_peers"])
def test_peer_operations_of_both_nodes_are_described_as_those_of_the_peer_manager(
    name: str,
) -> None:
    operation = getattr(aio.PeerManager, name)
    for face in (aio.Node, Node):
        delegate = getattr(face, name)
        assert inspect.signature(delegate) == inspect.signature(operation)
    assert getattr(aio.Node, name).__doc__ == operation.__doc__
    is_coroutine = inspect.iscoroutinefunction
    assert is_coroutine(getattr(aio.Node, name)) == is_coroutine(operation)
    assert not is_coroutine(getattr(Node, name))
