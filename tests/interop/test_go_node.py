"""A Go-shaped node and Python nodes are one mesh."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from aegis_core import HealthStatus, NodeStatus, PeerInfo, ServiceInfo


@pytest.fixture
def mesh(start: Any, until: Any, agree: Any) -> Any:
    """Starts three nodes of which the first provides `py`."""

    async def make() -> list[Any]:
        a = await start("a", services=[ServiceInfo("py", "v1")])
        nodes = [a, await start("b", a), await start("c", a)]
        await until(lambda: agree(*nodes))
        return nodes

    return make


def peer(node: Any) -> PeerInfo:
    return PeerInfo(node.id, node.address)


def seen_alive(node: Any, *nodes: Any) -> bool:
    """Tells whether these nodes know a node, all the same, and hold it for alive."""
    known = [n.topology.get_node(node.id) for n in nodes]
    return all(known) and {k.status for k in known} == {NodeStatus.ALIVE}


async def heard(until: Any, go: Any) -> None:
    """Waits until an answer that it gives from now on was taken in."""
    asked = len(go.asked)
    await until(lambda: len(go.asked) > asked + 1)


async def test_it_is_pinged_and_asked_like_any_other_peer(start: Any, start_go: Any) -> None:
    a, go = await start("a"), await start_go("go-1")
    a.add_peer(peer(go))
    assert await a.ping_peer("go-1") > 0
    assert (await a.get_peer_health("go-1")).status is HealthStatus.HEALTHY
    info = await a.get_peer_node_info("go-1")
    assert (info.id, info.type, info.address) == ("go-1", "generic", go.address)


async def test_it_pings_and_asks_a_python_node(start: Any, start_go: Any) -> None:
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


async def test_one_node_that_adds_it_makes_it_known_to_all_with_its_services(
    mesh: Any, start_go: Any, until: Any
) -> None:
    a, b, c = await mesh()
    go = await start_go("go-1", "echo")
    b.add_peer(peer(go))
    await until(lambda: seen_alive(go, a, b, c))
    for node in (a, b, c):
        (found,) = node.topology.get_service_providers("echo", "v1")
        assert (found.id, found.address, found.vouched_by) == ("go-1", go.address, "b")
    await until(lambda: a.topology.digest == b.topology.digest == c.topology.digest)


async def test_once_it_is_known_it_learns_of_all_python_nodes_by_one_sync(
    mesh: Any, start_go: Any, until: Any
) -> None:
    a, b, c = await mesh()
    go = await start_go("go-1", "echo")
    a.add_peer(peer(go))
    await until(lambda: seen_alive(go, a, b, c))
    assert await go.sync(c)
    assert sorted(go.nodes) == ["a", "b", "c", "go-1"]
    assert go.providers("py") == ["a"]
    assert go.providers("echo") == ["go-1"]
    assert go.nodes["a"].address == a.address


async def test_a_sync_by_hand_takes_over_what_it_knows(start: Any, start_go: Any) -> None:
    a, go = await start("a"), await start_go("go-1", "echo")
    a.add_peer(peer(go))
    await a.sync_topology("go-1")
    assert list(a.topology.nodes) == ["a", "go-1"]
    assert (await a.sync_topology_with_all_peers()).synced == ("go-1",)


async def test_it_can_be_the_seed_peer_of_nodes_that_find_each_other_through_it(
    start: Any, start_go: Any, until: Any
) -> None:
    go = await start_go("go-1")
    a = await start("a", seed_peers=[go.address])
    await until(lambda: seen_alive(go, a))
    await go.sync(a)
    b = await start("b", seed_peers=[go.address])
    await until(lambda: a.topology.digest == b.topology.digest and len(b.topology.nodes) == 3)
    assert a.topology.nodes["b"].vouched_by is None
    assert b.topology.nodes["a"].vouched_by is None


async def test_equal_versions_of_different_topologies_come_together(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1")
    go.version = a.topology.version
    a.add_peer(peer(go))
    await until(lambda: seen_alive(go, a))
    go.version = a.topology.version
    assert await go.sync(a)
    assert sorted(go.nodes) == ["a", "go-1"]
    go.put("go-1", go.address, "new")
    go.version = a.topology.version
    await until(lambda: a.topology.get_service_providers("new", "v1"))


async def test_it_is_answered_with_a_higher_version_only_when_there_is_news(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1")
    a.add_peer(peer(go))
    await until(lambda: seen_alive(go, a))
    assert await go.sync(a)
    await heard(until, go)
    assert not await go.sync(a), "it was seen to hold all of this"
    a.topology.update_node(a.topology.nodes["a"])
    assert await go.sync(a)


async def test_it_is_given_again_what_it_lost_under_a_version_of_its_own(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1")
    a.add_peer(peer(go))
    await until(lambda: seen_alive(go, a))
    assert await go.sync(a)
    for _ in range(2):
        go.drop("a")
        go.version += 1000
        await heard(until, go)
        assert await go.sync(a)
        assert sorted(go.nodes) == ["a", "go-1"]
    await heard(until, go)
    assert not await go.sync(a)


async def test_its_own_changes_reach_every_node(mesh: Any, start_go: Any, until: Any) -> None:
    a, b, c = await mesh()
    go = await start_go("go-1", "echo")
    a.add_peer(peer(go))
    await until(lambda: seen_alive(go, a, b, c))
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


async def test_its_times_arrive_unchanged(start: Any, start_go: Any, until: Any) -> None:
    a, go = await start("a"), await start_go("go-1")
    go.put("go-1", go.address, joined_at=1_600_000_000, updated_at=1_700_000_000)
    a.add_peer(peer(go))
    b = await start("b", a)
    await until(lambda: seen_alive(go, a, b))
    for node in (a, b):
        known = node.topology.nodes["go-1"]
        assert known.joined_at.timestamp() == 1_600_000_000
        assert known.updated_at.timestamp() == 1_700_000_000


async def test_its_disappearance_is_noticed_and_so_is_its_return(
    mesh: Any, start_go: Any, until: Any
) -> None:
    nodes = await mesh()
    go = await start_go("go-1", "echo")
    nodes[0].add_peer(peer(go))
    await until(lambda: seen_alive(go, *nodes))
    await go.stop()
    for node in nodes:
        await until(lambda n=node: n.topology.nodes["go-1"].status is NodeStatus.FAILED)
        assert node.topology.get_service_providers("echo", "v1") == ()
    await go.start(go.address)
    await until(lambda: seen_alive(go, *nodes))


async def test_it_can_come_back_at_another_address(mesh: Any, start_go: Any, until: Any) -> None:
    nodes = await mesh()
    go = await start_go("go-1", "echo")
    nodes[0].add_peer(peer(go))
    await until(lambda: seen_alive(go, *nodes))
    await go.stop()
    again = await start_go("go-1", "echo")
    nodes[0].add_peer(peer(again))
    for node in nodes:
        await until(lambda n=node: n.topology.nodes["go-1"].address == again.address)
    await until(lambda: seen_alive(again, *nodes))


async def test_removing_it_as_a_peer_takes_it_out_of_the_topology(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1")
    b = await start("b", a)
    # Its neighbour polls it as well, and would go on to vouch for it.
    a.add_peer(peer(go))
    await until(lambda: seen_alive(go, a, b))
    await go.stop()
    a.remove_peer("go-1")
    await until(lambda: "go-1" not in a.topology.nodes and "go-1" not in b.topology.nodes)


async def test_two_of_them_at_two_nodes_are_both_known_to_all(
    mesh: Any, start_go: Any, until: Any
) -> None:
    a, b, c = await mesh()
    one, two = await start_go("go-1", "x"), await start_go("go-2", "x")
    a.add_peer(peer(one))
    c.add_peer(peer(two))
    await until(lambda: seen_alive(one, a, b, c) and seen_alive(two, a, b, c))
    for node in (a, b, c):
        ids = [found.id for found in node.topology.get_service_providers("x", "v1")]
        assert ids == ["go-1", "go-2"]
    await one.sync(b)
    await two.sync(b)
    assert sorted(one.nodes) == sorted(two.nodes) == ["a", "b", "c", "go-1", "go-2"]


async def test_a_first_sync_does_not_make_it_forget_itself(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1", "echo")
    # From now on a means to ask it; it is faster, and a's version is the higher one.
    a.topology.advance_version_past(50)
    a.add_peer(peer(go))
    assert await go.sync(a)
    assert go.providers("echo") == ["go-1"]


async def test_a_sync_before_anybody_added_it_does_not_make_it_forget_itself(
    mesh: Any, start_go: Any, until: Any
) -> None:
    a, b, c = await mesh()
    go = await start_go("go-1", "echo")
    for node in (a, b, c):
        node.topology.advance_version_past(50)
        assert not await go.sync(node)
        answer = await go.call("SyncTopology", node.id, node.address, version=0)
        assert answer.version <= 0
        assert [known.id for known in answer.nodes] == ["a", "b", "c"], "it may still look"
    assert go.providers("echo") == ["go-1"]
    a.add_peer(peer(go))
    for node in (a, b, c):
        await until(lambda node=node: node.topology.get_service_providers("echo", "v1"))
    assert await go.sync(c)
    assert sorted(go.nodes) == ["a", "b", "c", "go-1"]
    assert go.providers("echo") == ["go-1"]


async def test_a_sync_after_it_was_removed_does_not_make_it_forget_itself(
    start: Any, start_go: Any, until: Any
) -> None:
    a, go = await start("a"), await start_go("go-1", "echo")
    a.add_peer(peer(go))
    await until(lambda: seen_alive(go, a))
    a.remove_peer("go-1")
    await until(lambda: "go-1" not in a.topology.nodes)
    assert not await go.sync(a)
    a.add_peer(peer(go))
    await until(lambda: a.topology.get_service_providers("echo", "v1"))


async def test_its_services_are_kept_when_its_own_list_has_lost_it(
    mesh: Any, start_go: Any, until: Any
) -> None:
    a, b, c = await mesh()
    go = await start_go("go-1", "echo")
    a.add_peer(peer(go))
    await until(lambda: seen_alive(go, a, b, c))
    go.drop("go-1")
    asked = len(go.asked)
    await until(lambda: len(go.asked) > asked + 6)
    for node in (a, b, c):
        assert [n.id for n in node.topology.get_service_providers("echo", "v1")] == ["go-1"]
    await go.sync(b)
    assert go.providers("echo") == ["go-1"]


async def test_calls_reach_its_services(
    start: Any, start_go: Any, until: Any, provider: Any, say: Any
) -> None:
    (echo,) = provider("go-1")["registrars"]
    a, go = await start("a"), await start_go("go-1", "echo", registrars=[echo])
    a.add_peer(peer(go))
    await until(lambda: seen_alive(go, a))
    assert (await say(a.pool.channel("echo", "v1")))[:2] == ["go-1", "a"]


async def test_it_calls_a_python_provider_by_its_ip_as_the_tls_name(
    start: Any, start_go: Any, provider: Any, say: Any, ca: Any
) -> None:
    # As it is without any option: the certificate is made for the address that is listened on.
    a = await start("own-ip", cert_dir=ca.directory, **provider("own-ip"))
    go = await start_go("go-1")
    async with go.channel(a.address, "127.0.0.1") as channel:
        assert (await say(channel))[:2] == ["own-ip", "go-1"]


async def test_no_python_node_passes_for_localhost(
    start: Any, start_go: Any, provider: Any, say: Any, ca: Any
) -> None:
    own = ca.issue_in_memory("own-ip", address="127.0.0.1:0")
    a = await start("own-ip", tls=own, **provider("own-ip"))
    go = await start_go("go-1")
    async with go.channel(a.address, "localhost") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await say(channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
