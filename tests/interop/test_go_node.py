"""A node of the Go implementation and Python nodes form one mesh."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import grpc
import pytest
from aegis_core import HealthStatus, NodeStatus, PeerInfo, ServiceInfo


@pytest.fixture
def mesh(start: Any, until: Any, agree: Any) -> Any:
    """Starts three nodes; the first provides `py`."""

    async def make() -> list[Any]:
        a = await start("a", services=[ServiceInfo("py", "v1")])
        nodes = [a, await start("b", a), await start("c", a)]
        await until(lambda: agree(*nodes))
        return nodes

    return make


def peer(node: Any) -> PeerInfo:
    return PeerInfo(node.id, node.address)


def is_alive_everywhere(node: Any, *nodes: Any) -> bool:
    """Tells whether all these nodes have a node in their topology, alive."""
    known = [n.topology.get_node(node.id) for n in nodes]
    return all(known) and {k.status for k in known} == {NodeStatus.ALIVE}


async def add_peer(until: Any, node: Any, go: Any, *, known_to: list[Any]) -> None:
    """Adds a Go node as a peer of one node and waits until all these nodes see it alive."""
    node.add_peer(peer(go))
    await until(lambda: is_alive_everywhere(go, *known_to))


async def wait_for_polls(until: Any, go: Any) -> None:
    """Waits until it was polled twice more, so that one new response was processed."""
    asked = len(go.sync_senders)
    await until(lambda: len(go.sync_senders) > asked + 1)


async def test_a_python_node_can_make_all_peer_calls_to_a_go_node(
    start: Any, start_go: Any
) -> None:
    a, go = await start("a"), await start_go("go-1")
    a.add_peer(peer(go))
    assert await a.ping_peer("go-1") > 0
    assert (await a.get_peer_health("go-1")).status is HealthStatus.HEALTHY
    info = await a.get_peer_node_info("go-1")
    assert (info.id, info.type, info.address) == ("go-1", "generic", go.address)


async def test_a_go_node_can_make_all_peer_calls_to_a_python_node(
    start: Any, start_go: Any
) -> None:
    a, go = await start("a", services=[ServiceInfo("py", "v1")]), await start_go("go-1")
    pong = await go.call("Ping", "a", a.address)
    assert (pong.receiver_id, pong.success) == ("a", True)
    health = await go.call("GetHealth", "a", a.address)
    assert (health.node_id, health.status) == ("a", "healthy")
    info = await go.call("GetNodeInfo", "a", a.address)
    assert (info.id, info.address, info.health.status) == ("a", a.address, "healthy")
    topology = await go.call("GetTopology", "a", a.address)
    assert [node.id for node in topology.nodes] == ["a"]
    assert [service.name for service in topology.nodes[0].services] == ["py"]


async def test_a_go_node_that_one_node_adds_is_known_to_all_with_its_services(
    mesh: Any, start_go: Any, until: Any
) -> None:
    a, b, c = await mesh()
    go = await start_go("go-1", "echo")
    await add_peer(until, b, go, known_to=[a, b, c])
    for node in (a, b, c):
        (found,) = node.topology.get_service_providers("echo", "v1")
        assert (found.id, found.address, found.vouched_by) == ("go-1", go.address, "b")
    await until(lambda: a.topology.digest == b.topology.digest == c.topology.digest)


async def test_a_known_go_node_learns_all_python_nodes_in_one_sync(
    mesh: Any, start_go: Any, until: Any
) -> None:
    a, b, c = await mesh()
    go = await start_go("go-1", "echo")
    await add_peer(until, a, go, known_to=[a, b, c])
    assert await go.sync(c)
    assert sorted(go.nodes) == ["a", "b", "c", "go-1"]
    assert go.providers("py") == ["a"]
    assert go.providers("echo") == ["go-1"]
    assert go.nodes["a"].address == a.address


async def test_a_sync_with_a_go_node_adds_its_nodes(start: Any, start_go: Any) -> None:
    a, go = await start("a"), await start_go("go-1", "echo")
    a.add_peer(peer(go))
    await a.sync_topology("go-1")
    assert list(a.topology.nodes) == ["a", "go-1"]
    assert (await a.sync_topology_with_all_peers()).synced == ("go-1",)


async def test_python_nodes_find_each_other_through_a_go_node_as_seed_peer(
    start: Any, start_go: Any, until: Any
) -> None:
    go = await start_go("go-1")
    a = await start("a", seed_peers=[go.address])
    await until(lambda: is_alive_everywhere(go, a))
    await go.sync(a)
    b = await start("b", seed_peers=[go.address])
    await until(lambda: a.topology.digest == b.topology.digest and len(b.topology.nodes) == 3)
    assert a.topology.nodes["b"].vouched_by is None
    assert b.topology.nodes["a"].vouched_by is None


async def test_different_topologies_with_equal_versions_are_merged(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1")
    go.version = a.topology.version
    await add_peer(until, a, go, known_to=[a])
    go.version = a.topology.version
    assert await go.sync(a)
    assert sorted(go.nodes) == ["a", "go-1"]
    go.put("go-1", go.address, "new")
    go.version = a.topology.version
    await until(lambda: a.topology.get_service_providers("new", "v1"))


async def test_a_go_node_gets_a_higher_version_only_after_a_change(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1")
    await add_peer(until, a, go, known_to=[a])
    assert await go.sync(a)
    await wait_for_polls(until, go)
    assert not await go.sync(a), "its own topology showed that it has all of this"
    a.topology.update_node(a.topology.nodes["a"])
    assert await go.sync(a)


async def test_a_go_node_gets_back_what_it_lost_although_its_own_version_was_higher(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1")
    await add_peer(until, a, go, known_to=[a])
    assert await go.sync(a)
    for _ in range(2):
        go.drop("a")
        go.version += 1000
        await wait_for_polls(until, go)
        assert await go.sync(a)
        assert sorted(go.nodes) == ["a", "go-1"]
    await wait_for_polls(until, go)
    assert not await go.sync(a)


async def test_changes_of_a_go_node_reach_every_node(mesh: Any, start_go: Any, until: Any) -> None:
    a, b, c = await mesh()
    go = await start_go("go-1", "echo")
    await add_peer(until, a, go, known_to=[a, b, c])
    go.put("go-1", go.address, "echo", "more")
    go.put("go-2", "127.0.0.1:9", "far")
    for node in (a, b, c):
        await until(lambda node=node: node.topology.get_service_providers("more", "v1"))
        await until(lambda node=node: "go-2" in node.topology.nodes)
    go.put("go-1", go.address, "more")
    go.drop("go-2")
    for node in (a, b, c):
        await until(lambda node=node: not node.topology.get_service_providers("echo", "v1"))
        await until(lambda node=node: "go-2" not in node.topology.nodes)


async def test_the_times_of_a_go_node_arrive_unchanged(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1")
    go.put("go-1", go.address, joined_at=1_600_000_000, updated_at=1_700_000_000)
    a.add_peer(peer(go))
    b = await start("b", a)
    await until(lambda: is_alive_everywhere(go, a, b))
    for node in (a, b):
        known = node.topology.nodes["go-1"]
        assert known.joined_at.timestamp() == 1_600_000_000
        assert known.updated_at.timestamp() == 1_700_000_000


async def test_the_failure_and_the_return_of_a_go_node_are_detected(
    mesh: Any, start_go: Any, until: Any
) -> None:
    nodes = await mesh()
    go = await start_go("go-1", "echo")
    await add_peer(until, nodes[0], go, known_to=nodes)
    await go.stop()
    for node in nodes:
        await until(lambda n=node: n.topology.nodes["go-1"].status is NodeStatus.FAILED)
        assert node.topology.get_service_providers("echo", "v1") == ()
    await go.start(go.address)
    await until(lambda: is_alive_everywhere(go, *nodes))


async def test_a_go_node_can_return_at_another_address(
    mesh: Any, start_go: Any, until: Any
) -> None:
    nodes = await mesh()
    go = await start_go("go-1", "echo")
    await add_peer(until, nodes[0], go, known_to=nodes)
    await go.stop()
    again = await start_go("go-1", "echo")
    nodes[0].add_peer(peer(again))
    for node in nodes:
        await until(lambda n=node: n.topology.nodes["go-1"].address == again.address)
    await until(lambda: is_alive_everywhere(again, *nodes))


async def test_a_go_node_can_return_elsewhere_with_its_old_address_in_its_list(
    mesh: Any, start_go: Any, until: Any
) -> None:
    nodes = await mesh()
    go = await start_go("go-1", "echo")
    await add_peer(until, nodes[0], go, known_to=nodes)
    await go.stop()
    again = await start_go("go-1", "echo")
    again.nodes["go-1"].address = go.address
    assert not await again.sync(nodes[1]), "no node knows its new address yet"
    assert again.nodes["go-1"].address == go.address
    nodes[0].add_peer(peer(again))
    for node in nodes:
        await until(lambda n=node: n.topology.nodes["go-1"].address == again.address)
    await until(lambda: is_alive_everywhere(again, *nodes))
    assert again.providers("echo") == ["go-1"]
    assert await again.sync(nodes[2])
    assert again.nodes["go-1"].address == again.address


async def test_the_health_of_a_go_node_reaches_every_node(
    mesh: Any, start_go: Any, until: Any
) -> None:
    nodes = await mesh()
    go = await start_go("go-1", "echo")
    nodes[0].add_peer(peer(go))
    for health in ("healthy", "unhealthy", "healthy", "odd"):
        go.health = health
        told = HealthStatus("unknown" if health == "odd" else health)
        for node in nodes:
            await until(
                lambda n=node, h=told: (
                    (known := n.topology.get_node("go-1")) is not None and known.health is h
                )
            )


async def test_a_go_node_gets_no_failed_nodes_until_they_are_alive_again(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go, far = await start("a"), await start_go("go-1", "echo"), await start_go("far", "echo")
    a.add_peer(peer(go))
    a.add_peer(peer(far))
    await until(lambda: is_alive_everywhere(go, a) and is_alive_everywhere(far, a))
    assert await go.sync(a)
    assert go.providers("echo") == ["far", "go-1"]
    await wait_for_polls(until, go)
    await far.stop()
    await until(lambda: a.topology.nodes["far"].status is NodeStatus.FAILED)
    assert await go.sync(a)
    assert go.providers("echo") == ["go-1"]
    read = await go.call("GetTopology", "a", a.address)
    assert sorted(node.id for node in read.nodes) == ["a", "go-1"]
    await wait_for_polls(until, go)
    assert not await go.sync(a), "it was seen to hold all of this"
    await far.start(far.address)
    await until(lambda: is_alive_everywhere(far, a))
    assert await go.sync(a)
    assert go.providers("echo") == ["far", "go-1"]


async def test_a_failed_go_node_is_still_in_its_own_answer(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1", "echo")
    await add_peer(until, a, go, known_to=[a])
    await go.stop()
    await until(lambda: a.topology.nodes["go-1"].status is NodeStatus.FAILED)
    await go.sync(a)
    assert go.providers("echo") == ["go-1"]


async def test_removing_a_stopped_go_node_as_a_peer_removes_it_from_the_topology(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1")
    b = await start("b", a)
    # b polls it too, and would continue to vouch for it.
    await add_peer(until, a, go, known_to=[a, b])
    await go.stop()
    a.remove_peer("go-1")
    await until(lambda: "go-1" not in a.topology.nodes and "go-1" not in b.topology.nodes)


async def test_two_go_nodes_added_at_two_nodes_are_known_to_all(
    mesh: Any, start_go: Any, until: Any
) -> None:
    a, b, c = await mesh()
    one, two = await start_go("go-1", "x"), await start_go("go-2", "x")
    a.add_peer(peer(one))
    c.add_peer(peer(two))
    await until(lambda: is_alive_everywhere(one, a, b, c) and is_alive_everywhere(two, a, b, c))
    for node in (a, b, c):
        ids = [found.id for found in node.topology.get_service_providers("x", "v1")]
        assert ids == ["go-1", "go-2"]
    await one.sync(b)
    await two.sync(b)
    assert sorted(one.nodes) == sorted(two.nodes) == ["a", "b", "c", "go-1", "go-2"]


async def test_a_go_node_keeps_itself_in_its_first_sync(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1", "echo")
    # The node a will poll it, but it syncs first, and the version of a is higher.
    a.topology.advance_version_past(50)
    a.add_peer(peer(go))
    assert await go.sync(a)
    assert go.providers("echo") == ["go-1"]


async def test_a_go_node_that_syncs_before_it_is_added_keeps_itself(
    mesh: Any, start_go: Any, until: Any
) -> None:
    a, b, c = await mesh()
    go = await start_go("go-1", "echo")
    for node in (a, b, c):
        node.topology.advance_version_past(50)
        assert not await go.sync(node)
        answer = await go.call("SyncTopology", node.id, node.address, version=0)
        assert answer.version <= 0
        assert [known.id for known in answer.nodes] == ["a", "b", "c"], (
            "it can still read the nodes"
        )
    assert go.providers("echo") == ["go-1"]
    a.add_peer(peer(go))
    for node in (a, b, c):
        await until(lambda node=node: node.topology.get_service_providers("echo", "v1"))
    assert await go.sync(c)
    assert sorted(go.nodes) == ["a", "b", "c", "go-1"]
    assert go.providers("echo") == ["go-1"]


async def test_a_go_node_that_syncs_after_it_was_removed_keeps_itself(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1", "echo")
    await add_peer(until, a, go, known_to=[a])
    a.remove_peer("go-1")
    await until(lambda: "go-1" not in a.topology.nodes)
    assert not await go.sync(a)
    a.add_peer(peer(go))
    await until(lambda: a.topology.get_service_providers("echo", "v1"))


async def test_the_services_of_a_go_node_stay_although_its_own_list_has_lost_it(
    mesh: Any, start_go: Any, until: Any
) -> None:
    a, b, c = await mesh()
    go = await start_go("go-1", "echo")
    await add_peer(until, a, go, known_to=[a, b, c])
    go.drop("go-1")
    asked = len(go.sync_senders)
    await until(lambda: len(go.sync_senders) > asked + 6)
    for node in (a, b, c):
        assert [n.id for n in node.topology.get_service_providers("echo", "v1")] == ["go-1"]
    await go.sync(b)
    assert go.providers("echo") == ["go-1"]


async def test_calls_reach_the_services_of_a_go_node(
    start: Any, start_go: Any, until: Any, provider: Any, say: Any
) -> None:
    (echo,) = provider("go-1")["registrars"]
    a, go = await start("a"), await start_go("go-1", "echo", registrars=[echo])
    await add_peer(until, a, go, known_to=[a])
    assert (await say(a.pool.channel("echo", "v1")))[:2] == ["go-1", "a"]


async def test_a_go_node_calls_a_python_provider_with_its_id_and_not_its_address_as_tls_name(
    start: Any, start_go: Any, provider: Any, say: Any, ca: Any
) -> None:
    # Without options, the certificate of a node contains the IP on which it listens.
    a = await start("own-ip", cert_dir=ca.directory, **provider("own-ip"))
    go = await start_go("go-1")
    # gRPC for Python drops the port of such a name, Go and OpenSSL do not.
    context = ssl.create_default_context(cadata=go.credentials.ca.decode())
    host, _, port = a.address.rpartition(":")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for '127\.0\.0\.1:"):
        await asyncio.open_connection(host, int(port), ssl=context, server_hostname=a.address)
    async with go.channel(a.address, "own-ip") as channel:
        assert (await say(channel))[:2] == ["own-ip", "go-1"]


async def test_the_certificate_of_a_python_node_is_not_valid_for_localhost(
    start: Any, start_go: Any, provider: Any, say: Any, ca: Any
) -> None:
    own = ca.issue_in_memory("own-ip", address="127.0.0.1:0")
    a = await start("own-ip", tls=own, **provider("own-ip"))
    go = await start_go("go-1")
    async with go.channel(a.address, "localhost") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say(channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_go_node_that_restarts_with_other_services_never_adopts_its_older_entry(
    mesh: Any, start_go: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = await mesh()
    go = await start_go("go-1", "echo")
    await add_peer(until, a, go, known_to=[a, b, c])
    assert await go.sync(a)
    monkeypatch.setattr("aegis_core._peers.session.POLL_INTERVAL", 3600)
    await go.stop()
    restarted = await start_go("go-1", "new", address=go.address)
    assert not await restarted.sync(b), "it was not polled yet"
    assert restarted.providers("new") == ["go-1"]
    await restarted.sync(a)
    assert restarted.providers("new") == ["go-1"]
    assert restarted.providers("py") == ["a"]
    await until(lambda: b.topology.get_service_providers("new", "v1"))
    assert await restarted.sync(b) or restarted.version >= b.topology.version
    assert restarted.providers("new") == ["go-1"]
