"""What every registry does: the feed, which is built in, and etcd."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aegis_certs import KeyType
from aegis_core import FunctionHealthChecker, HealthStatus
from aegis_core import Node as BlockingNode
from aegis_discovery import (
    EventKind,
    NodeIdInUseError,
    NodeStatus,
    NoProvidersError,
    ServiceInfo,
)
from aegis_discovery import connect as blocking_connect
from aegis_discovery.aio import connect
from aegis_discovery.documents import DocumentKind


def knows(topology: Any, *node_ids: str) -> bool:
    return list(topology.nodes) == sorted(node_ids)


async def test_everybody_learns_everybody_also_who_comes_late(mesh_in, identity, until, provider):
    a = await mesh_in.start("a", **provider("a"), region="eu", zone="eu-1")
    b = await mesh_in.start("b", **provider("b"))
    seeds, options = mesh_in.client_arguments()
    async with connect(*seeds, tls=identity("client"), **options) as client:
        c = await mesh_in.start("c")
        for topology in (a.topology, b.topology, c.topology, client.topology):
            await until(lambda seen=topology: knows(seen, "a", "b", "c"))
            node = topology.get_node("a")
            assert (node.region, node.zone, node.status) == ("eu", "eu-1", NodeStatus.ALIVE)
            assert node.provides("echo", "v1")
        assert client.topology.digest == a.topology.digest


async def test_a_change_of_a_node_reaches_everybody(mesh_in, identity, until):
    state = {"is_well": True}
    checker = FunctionHealthChecker("disk", lambda: state["is_well"])
    await mesh_in.start("a", health_checkers=[checker], health_interval=0.05)
    b = await mesh_in.start("b")
    seeds, options = mesh_in.client_arguments()
    async with connect(*seeds, tls=identity("client"), **options) as client:
        for is_well, health in ((False, HealthStatus.UNHEALTHY), (True, HealthStatus.HEALTHY)):
            state["is_well"] = is_well
            for topology in (b.topology, client.topology):
                await until(lambda seen=topology, h=health: seen.get_node("a").health is h)


async def test_a_stop_is_a_leave_at_once(mesh_in, identity, until):
    a, b = await mesh_in.start("a"), await mesh_in.start("b")
    seeds, options = mesh_in.client_arguments()
    async with connect(*seeds, tls=identity("client"), **options) as client:
        await until(lambda: knows(client.topology, "a", "b") and knows(a.topology, "a", "b"))
        kinds: list[EventKind] = []
        client.topology.subscribe(lambda event: kinds.append(event.kind))
        await b.stop(grace=0)
        await until(lambda: knows(client.topology, "a") and knows(a.topology, "a"))
        assert kinds == [EventKind.LEFT]


async def test_a_node_that_returns_is_welcome(mesh_in, until):
    a, b = await mesh_in.start("a"), await mesh_in.start("b")
    await until(lambda: knows(a.topology, "a", "b"))
    await b.stop(grace=0)
    await until(lambda: knows(a.topology, "a"))
    await mesh_in.start("b")
    await until(lambda: knows(a.topology, "a", "b"))


async def test_calls_reach_providers_and_drain(mesh_in, identity, until, provider, say):
    a = await mesh_in.start("a", **provider("a"))
    b = await mesh_in.start("b", **provider("b"))
    seeds, options = mesh_in.client_arguments()
    async with connect(*seeds, tls=identity("client"), **options) as client:
        channel = client.pool.channel("echo", "v1")
        assert {(await say(channel))[0] for _ in range(20)} == {"a", "b"}
        stopping = asyncio.create_task(b.stop(grace=5))
        answers = [(await say(channel))[0] for _ in range(50)]
        await stopping
        assert (await say(channel))[0] == "a"
        assert set(answers) <= {"a", "b"}
    assert a.failure is None


async def test_calls_go_to_the_callers_region_and_stay_there_where_a_service_does(
    mesh_in, identity, until, provider, say
):
    local = ServiceInfo("local", "v1", scope="region")
    for region in ("eu", "us"):
        await mesh_in.start(region, **provider(region, local), region=region, zone="1")
    seeds, options = mesh_in.client_arguments()
    for region, answers in (("eu", {"eu"}), ("us", {"us"}), ("EU", {"eu", "us"})):
        tls = identity("client")
        async with connect(*seeds, tls=tls, region=region, zone="1", **options) as client:
            await until(lambda seen=client.topology: knows(seen, "eu", "us"))
            channel = client.pool.channel("echo", "v1")
            assert {(await say(channel))[0] for _ in range(6)} == answers
            local_channel = client.pool.channel("local", "v1")
            if region in answers:
                assert {(await say(local_channel))[0] for _ in range(6)} == answers
                continue
            with pytest.raises(NoProvidersError) as caught:
                await say(local_channel)
            assert caught.value.regions == ("eu", "us")


async def test_a_client_of_some_services_knows_only_their_providers(
    mesh_in, identity, until, provider
):
    await mesh_in.start("a", **provider("a"))
    await mesh_in.start("b")
    seeds, options = mesh_in.client_arguments()
    services = [ServiceInfo("echo", "")]
    async with connect(*seeds, tls=identity("client"), services=services, **options) as client:
        assert knows(client.topology, "a")
        c = await mesh_in.start("c", **provider("c"))
        await until(lambda: knows(client.topology, "a", "c"))
        await c.stop(grace=0)
        await until(lambda: knows(client.topology, "a"))


async def test_a_mesh_of_another_name_is_another_mesh(mesh_in, identity):
    await mesh_in.start("a")
    if mesh_in.etcd is None:
        pytest.skip("a node refuses a feed of another mesh; see the tests of feeds")
    async with connect(registry=mesh_in.etcd.url, tls=identity("client"), mesh="x") as client:
        assert knows(client.topology)


async def test_a_second_process_with_an_id_stops_and_the_first_is_not_harmed(mesh_in, until):
    a, b = await mesh_in.start("a"), await mesh_in.start("b")
    await until(lambda: knows(a.topology, "a", "b") and knows(b.topology, "a", "b"))
    with pytest.raises(NodeIdInUseError):
        await mesh_in.start("b")
    assert b.failure is None
    assert a.topology.get_record("b").instance == b.topology.get_record("b").instance


async def test_documents_of_the_ca_reach_everybody(mesh_in, cert_dir, ca, identity, until):
    ca.issue("issuer-1", key_type=KeyType.P256)
    issuer = await mesh_in.start("issuer-1", cert_dir=cert_dir, issuer=True, rotate="manual")
    a = await mesh_in.start("a")
    seeds, options = mesh_in.client_arguments()
    async with connect(*seeds, tls=identity("client"), **options) as client:
        for documents in (a._parts.state.documents, client.documents):
            await until(lambda held=documents: held.get(DocumentKind.ISSUERS) is not None)
        late = await mesh_in.start("late")
        held = late._parts.state.documents
        assert held.get(DocumentKind.ISSUERS) is not None
    assert issuer.failure is None


async def test_a_revoked_node_is_gone_everywhere(mesh_in, cert_dir, ca, until):
    ca.issue("issuer-1", key_type=KeyType.P256)
    await mesh_in.start("issuer-1", cert_dir=cert_dir, issuer=True, rotate="manual")
    victim = f"victim-of-{mesh_in.name}"
    a = await mesh_in.start("a")
    node = await mesh_in.start(victim, tls=ca.issue_in_memory(victim))
    await until(lambda: knows(a.topology, "a", "issuer-1", victim))
    await asyncio.to_thread(ca.revoke, victim)
    await until(lambda: knows(a.topology, "a", "issuer-1"))
    assert node.failure is None  # it runs, and nobody listens


async def test_the_blocking_api_is_the_same(mesh_in, identity, until, provider):
    a = await mesh_in.start("a", **provider("a"))

    def work() -> None:
        node = BlockingNode("b", address="127.0.0.1:0", tls=identity("b"), **mesh_in.node_options())
        seeds, options = mesh_in.client_arguments()
        with node, blocking_connect(*seeds, tls=identity("client"), **options) as client:
            method = client.pool.channel("echo", "v1").unary_unary("/test.Echo/Say")
            assert method(b"x", timeout=5, wait_for_ready=True).startswith(b"a client")

    await asyncio.to_thread(work)
    await until(lambda: knows(a.topology, "a"))
