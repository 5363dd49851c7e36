from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc
import pytest
from aegis_certs import TLSConfig
from aegis_core import (
    AddressInUseError,
    ConfigError,
    FunctionHealthChecker,
    HealthStatus,
    NodeIdInUseError,
    NodeStateError,
    NodeStatus,
    PeerInfo,
    PeerNotFoundError,
    ServiceInfo,
    TopologyEvent,
    caller_from_context,
)
from aegis_core.aio import Node
from aegis_discovery import DEFAULT_MESH, ConnectError, Topology
from aegis_discovery import aio as discovery_aio
from aegis_discovery.aio.feed import follow
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.feed import FeedReader, ReceiveResult
from aegis_discovery.records import RecordVerifier

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]
StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start(identity: MakeIdentity) -> AsyncIterator[StartNode]:
    """Starts nodes, and stops them at the end."""
    async with AsyncExitStack() as stack:

        async def start_node(node_id: str, *seeds: Node, **options: Any) -> Node:
            options.setdefault("address", "127.0.0.1:0")
            options.setdefault("tls", identity(node_id))
            options.setdefault("seed_peers", [seed.address for seed in seeds])
            node = Node(node_id, grace=0.5, **options)
            await stack.enter_async_context(node)
            return node

        yield start_node


async def kill(node: Node) -> None:
    """Ends a node that says goodbye to nobody."""
    running = node._running
    assert running is not None
    running.state.on_failure(RuntimeError("killed"))
    with pytest.raises(RuntimeError, match="killed"):
        await node.wait_for_termination()


def agree(*nodes: Node) -> bool:
    """Returns whether these nodes, and no others, are one mesh with one view of the topology."""
    views = {(node.topology.version, node.topology.digest) for node in nodes}
    return len(views) == 1 and list(nodes[0].topology.nodes) == sorted(node.id for node in nodes)


async def echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    return request + b" from " + caller_from_context(context).node_id.encode()


def register_echo(server: grpc.aio.Server) -> None:
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Echo", {"Echo": handler}),)
    )


ECHO: dict[str, Any] = {"services": [ServiceInfo("echo", "v1")], "registrars": [register_echo]}


async def call_echo(pool: discovery_aio.ServiceClientPool) -> bytes:
    method = pool.channel("echo", "v1").unary_unary("/test.Echo/Echo")
    answer: bytes = await method(b"hello", timeout=5)
    return answer


async def test_three_nodes_that_join_through_one_seed_peer_have_the_same_topology(
    start: StartNode, until: Until
) -> None:
    a = await start("a")
    b = await start("b", a)
    c = await start("c", a)
    await until(lambda: agree(a, b, c))
    assert a.topology.nodes["c"].address == c.address
    assert {node.status for node in a.topology.nodes.values()} == {NodeStatus.ALIVE}


async def test_a_node_that_joined_knows_the_mesh_when_its_start_returns(start: StartNode) -> None:
    a = await start("a")
    b = await start("b", a)
    assert list(b.topology.nodes) == ["a", "b"]


async def test_a_node_that_leaves_is_removed_at_once_and_is_not_suspected(
    start: StartNode, until: Until
) -> None:
    a = await start("a")
    b = await start("b", a)
    c = await start("c", a)
    await until(lambda: agree(a, b, c))
    await until(lambda: b.server.watchers == {"a", "c"})
    events: list[str] = []
    a.topology.subscribe(lambda event: events.append(f"{event.kind} {event.node.id}"))
    await b.stop()
    await until(lambda: agree(a, c))
    assert events == ["left b"]


async def test_a_feed_opened_while_a_node_leaves_says_that_it_left(
    start: StartNode, identity: MakeIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core._server.base.DRAIN_SILENCE", 1.0)
    a = await start("a")
    leaving = asyncio.Event()
    a.topology.subscribe(lambda _: leaving.set())
    topology, tls = Topology(), identity("b")
    verifier = RecordVerifier(tls.bundle, mesh=DEFAULT_MESH, trust_domain=tls.trust_domain)
    reader = FeedReader(topology, verifier, trusts_statuses=True)
    channel = open_channel(tls, "a", a.address)
    await channel.channel_ready()
    stopping = asyncio.create_task(a.stop(grace=1.0))
    await leaving.wait()
    received: list[ReceiveResult] = []
    request = reader.request(DEFAULT_MESH, source="a")
    await follow(channel, reader, request, source="a", on_message=received.append)
    assert [message.complete for message in received] == [True]
    assert topology.nodes == {}
    record = topology.get_record("a")
    assert record is not None, "a tombstone"
    await stopping
    await channel.close()


async def test_a_node_that_leaves_before_it_was_watched_is_removed_too(
    start: StartNode, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start("a")
    monkeypatch.setattr("aegis_core._membership.membership.Membership.watched", frozenset())
    b = await start("b", seed_peers=[], join_timeout=0)
    b.add_peer(PeerInfo("a", a.address))
    await b.sync_topology("a")
    assert list(a.topology.nodes) == ["a", "b"]
    await b.stop()
    assert list(a.topology.nodes) == ["a"]


def serves(node: Node) -> bool:
    with contextlib.suppress(NodeStateError):
        return bool(node.topology.nodes)
    return False


async def test_a_node_that_is_still_joining_serves_no_client(
    start: StartNode, identity: MakeIdentity, until: Until
) -> None:
    peer = await start("peer")
    peer_port = peer.address
    await peer.stop()
    joining = Node(
        "a", address="127.0.0.1:0", tls=identity("a"), seed_peers=[f"peer@{peer_port}"],
        join_timeout=60,
    )  # fmt: skip
    task = asyncio.create_task(joining.start())
    try:
        await until(lambda: serves(joining))
        with pytest.raises(ConnectError, match="still joining"):
            await discovery_aio.connect(joining.address, tls=identity("c"), timeout=1)
    finally:
        task.cancel()
        await joining.stop(grace=0)


async def test_calls_go_to_providers_and_carry_the_identity_of_the_caller(
    start: StartNode, until: Until
) -> None:
    a = await start("a", **ECHO)
    b = await start("b", a)
    assert await call_echo(b.pool) == b"hello from b"
    async with await discovery_aio.connect(a.address, tls=b.tls) as mesh:
        assert await call_echo(mesh.pool) == b"hello from b"
        assert list(mesh.topology.nodes) == ["a", "b"]


async def test_sync_handlers_serve_in_the_same_server(start: StartNode) -> None:
    def sync_echo(request: bytes, context: grpc.ServicerContext) -> bytes:
        return b"sync " + caller_from_context(context).node_id.encode()

    def register(server: grpc.aio.Server) -> None:
        handler = grpc.unary_unary_rpc_method_handler(sync_echo)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Echo", {"Echo": handler}),)
        )

    a = await start("a", services=ECHO["services"], registrars=[register])
    b = await start("b", a)
    assert await call_echo(b.pool) == b"sync b"


async def test_a_client_switches_to_another_node_when_its_node_leaves(
    start: StartNode, until: Until, identity: MakeIdentity
) -> None:
    a = await start("a")
    b = await start("b", a)
    async with await discovery_aio.connect(a.address, tls=identity("client")) as mesh:
        await a.stop()
        await until(lambda: list(mesh.topology.nodes) == ["b"])
        c = await start("c", b)
        await until(lambda: "c" in mesh.topology.nodes)
        assert "client" not in c.topology.nodes


async def test_a_restarted_node_replaces_its_entry_at_its_new_address(
    start: StartNode, until: Until
) -> None:
    a = await start("a")
    first = await start("b", a)
    await until(lambda: agree(a, first))
    await first.stop()
    second = await start("b", a)
    await until(lambda: agree(a, second))
    assert a.topology.nodes["b"].address == second.address


async def test_a_second_process_under_an_id_does_not_start_and_harms_nobody(
    start: StartNode, until: Until
) -> None:
    a = await start("a")
    first = await start("b", a)
    await until(lambda: agree(a, first))
    seen: list[TopologyEvent] = []
    a.topology.subscribe(seen.append)
    for seed in (a, first):
        with pytest.raises(NodeIdInUseError, match=f"b is in use by .* at {first.address}"):
            await start("b", seed)
    assert seen == []
    assert first.failure is None
    assert agree(a, first)
    assert a.topology.nodes["b"].address == first.address


async def test_a_process_that_was_killed_is_replaced_at_once(
    start: StartNode, until: Until
) -> None:
    a = await start("a")
    first = await start("b", a)
    await until(lambda: agree(a, first))
    await kill(first)
    second = await start("b", a)
    await until(lambda: agree(a, second))
    assert a.topology.nodes["b"].address == second.address


async def test_a_process_that_does_not_answer_is_replaced(
    start: StartNode, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core._peers.manager.HOLDER_TIMEOUT", 0.2)
    a = await start("a")
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        address = f"127.0.0.1:{frozen.getsockname()[1]}"
        first = await start("b", a, advertise=address)
        await until(lambda: agree(a, first))
        await kill(first)
        second = await start("b", a)
        await until(lambda: agree(a, second))
        assert a.topology.nodes["b"].address == second.address


async def test_of_two_processes_under_an_id_that_meet_later_the_younger_one_stops(
    start: StartNode, until: Until
) -> None:
    a = await start("a")
    first = await start("b", a)
    await until(lambda: agree(a, first))
    second = await start("b")
    second.add_peer(PeerInfo("a", a.address))
    with pytest.raises(NodeIdInUseError, match=f"b is in use by .* at {first.address}"):
        await asyncio.wait_for(second.wait_for_termination(), 10)
    await until(lambda: agree(a, first))
    assert first.failure is None
    assert a.topology.nodes["b"].address == first.address


async def test_a_port_in_use_is_a_clear_error(start: StartNode) -> None:
    a = await start("a")
    with pytest.raises(AddressInUseError, match="address already in use"):
        await start("b", address=a.address)


async def test_a_node_starts_without_its_seed_peer_and_joins_when_that_starts(
    start: StartNode, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    probe = await start("a")
    address = probe.address
    await probe.stop()
    with caplog.at_level(logging.WARNING, "aegis"):
        b = await start("b", seed_peers=[address])
    assert "b has not joined yet" in caplog.text
    a = await start("a", address=address)
    await until(lambda: agree(a, b))


async def test_the_seed_peers_may_include_the_node_itself(start: StartNode, until: Until) -> None:
    probe = await start("a")
    address = probe.address
    await probe.stop()
    a = await start("a", address=address, seed_peers=[address])
    b = await start("b", seed_peers=[address])
    await until(lambda: agree(a, b))


async def test_single_peers_are_called_by_id(start: StartNode, until: Until) -> None:
    a, b = await start("a"), await start("b", type="cache", name="Bee")
    a.add_peer(PeerInfo("b", b.address))
    assert await a.ping_peer("b") > 0
    assert (await a.get_peer_health("b")).status is HealthStatus.HEALTHY
    info = await a.get_peer_node_info("b")
    assert (info.id, info.name, info.type, info.address) == ("b", "Bee", "cache", b.address)
    with pytest.raises(PeerNotFoundError, match="no peer 'c' is known"):
        await a.ping_peer("c")
    await until(lambda: agree(a, b))


async def test_a_sync_with_a_peer_adds_both_nodes_to_both_topologies(start: StartNode) -> None:
    a, b = await start("a"), await start("b")
    a.add_peer(PeerInfo("b", b.address))
    await a.sync_topology("b")
    assert list(a.topology.nodes) == list(b.topology.nodes) == ["a", "b"]
    report = await a.sync_topology_with_all_peers()
    assert report.synced == ("b",)


async def test_a_sync_with_all_peers_reports_those_that_did_not_answer(start: StartNode) -> None:
    a, b = await start("a"), await start("b")
    a.add_peer(PeerInfo("b", b.address))
    a.add_peer(PeerInfo("gone", "127.0.0.1:1"))
    report = await a.sync_topology_with_all_peers()
    assert report.synced == ("b",)
    assert list(report.failed) == ["gone"]


async def test_health_checks_reach_the_topology(start: StartNode, until: Until) -> None:
    broken = asyncio.Event()

    async def check() -> None:
        if broken.is_set():
            raise RuntimeError("disk full")

    a = await start(
        "a", health_checkers=[FunctionHealthChecker("disk", check)], health_interval=0.05
    )
    b = await start("b", a)
    assert b.topology.nodes["a"].health is HealthStatus.HEALTHY
    broken.set()
    await until(lambda: b.topology.nodes["a"].health is HealthStatus.UNHEALTHY)
    health = await b.get_peer_health("a")
    assert (health.status, health.error) == (HealthStatus.UNHEALTHY, "disk: disk full")


async def test_nodes_of_another_mesh_are_refused(
    start: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    a = await start("a", mesh="one")
    b = await start("b", a, mesh="two", join_timeout=0.5)
    assert list(a.topology.nodes) == ["a"]
    assert list(b.topology.nodes) == ["b"]
    assert "this is mesh 'one', not 'two'" in caplog.text


async def test_a_node_can_be_started_only_once(start: StartNode, identity: MakeIdentity) -> None:
    node = Node("a", address="127.0.0.1:0", tls=identity("a"))
    with pytest.raises(NodeStateError, match="was not started"):
        _ = node.address
    async with node:
        assert repr(node) == f"<Node a {node.address}>"
        with pytest.raises(NodeStateError, match="was started before"):
            await node.start()
    await node.stop()
    await node.wait_for_termination()
    with pytest.raises(NodeStateError, match="is not running"):
        _ = node.topology


async def test_a_certificate_of_another_id_is_refused(identity: MakeIdentity) -> None:
    with pytest.raises(ConfigError, match="the certificate is b's, this node is a"):
        await Node("a", address="127.0.0.1:0", tls=identity("b")).start()


async def test_no_task_is_left_when_a_node_has_stopped(start: StartNode, until: Until) -> None:
    before = asyncio.all_tasks()
    a = await start("a")
    b = await start("b", a)
    await until(lambda: agree(a, b))
    await b.stop()
    await a.stop()
    left = {task for task in asyncio.all_tasks() - before if "aegis" in task.get_name()}
    assert left == set()


async def test_stop_is_bounded_while_a_stream_is_open(start: StartNode) -> None:
    async def forever(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield request
        await asyncio.Event().wait()

    def register(server: grpc.aio.Server) -> None:
        handler = grpc.unary_stream_rpc_method_handler(forever)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Echo", {"Forever": handler}),)
        )

    a = await start("a", services=ECHO["services"], registrars=[register])
    b = await start("b", a)
    call = b.pool.channel("echo", "v1").unary_stream("/test.Echo/Forever")(b"x")
    assert await call.read() == b"x"
    await asyncio.wait_for(a.stop(grace=0.2), 10)


async def test_an_update_of_the_own_record_reaches_other_nodes(
    start: StartNode, until: Until
) -> None:
    a = await start("a")
    b = await start("b", a)
    a.topology.update_node(replace(a.topology.nodes["a"], services=(ServiceInfo("new", "v2"),)))
    await until(lambda: b.topology.get_service_providers("new", "v2"))
