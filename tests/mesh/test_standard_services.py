"""What tools that know nothing of meshes find on a node's port: health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from aegis_core import FunctionHealthChecker, HealthStatus
from aegis_discovery.aio.transport import open_channel
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def open_to(identity: Any) -> AsyncIterator[Callable[[Any], grpc.aio.Channel]]:
    """Opens channels to nodes as a client that only has a certificate."""
    channels: list[grpc.aio.Channel] = []

    def open_(node: Any) -> grpc.aio.Channel:
        channels.append(open_channel(identity("client"), node.id, node.address))
        return channels[-1]

    yield open_
    await asyncio.gather(*(channel.close() for channel in channels))


class Switch:
    """A check that can be made to fail."""

    def __init__(self) -> None:
        self.broken = ""

    async def check(self) -> None:
        if self.broken:
            raise RuntimeError(self.broken)


@pytest.fixture
def ailing(start: Any, provider: Any) -> Callable[[Switch], Awaitable[Any]]:
    """Starts a node `a` whose health is that of a switch."""

    async def start_node(switch: Switch) -> Any:
        checkers = [FunctionHealthChecker("disk", switch.check)]
        return await start("a", health_checkers=checkers, health_interval=0.05, **provider("a"))

    return start_node


async def next_status(watching: Any) -> int:
    message = await asyncio.wait_for(watching.read(), 10)
    status: int = message.status
    return status


async def test_the_health_of_the_node_and_of_each_service_can_be_asked_for(
    ailing: Any, open_to: Any, until: Any
) -> None:
    switch = Switch()
    a = await ailing(switch)
    stub = health_pb2_grpc.HealthStub(open_to(a))

    async def check(service: str) -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        status: int = (await stub.Check(request, timeout=10)).status
        return status

    assert [await check(name) for name in ("", "test.Echo")] == [SERVING, SERVING]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check("no.Such")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    switch.broken = "disk full"
    await until(lambda: a.health.status is HealthStatus.UNHEALTHY)
    async with asyncio.timeout(10):  # the node knows a moment before its server does
        while [await check(name) for name in ("", "test.Echo")] != [NOT_SERVING, NOT_SERVING]:
            pass


async def test_changes_of_health_are_told_to_who_watches(ailing: Any, open_to: Any) -> None:
    switch = Switch()
    a = await ailing(switch)
    stub = health_pb2_grpc.HealthStub(open_to(a))
    watching = stub.Watch(health_pb2.HealthCheckRequest(service="test.Echo"), timeout=30)
    assert await next_status(watching) == SERVING
    switch.broken = "disk full"
    assert await next_status(watching) == NOT_SERVING
    switch.broken = ""
    assert await next_status(watching) == SERVING
    stopping = asyncio.create_task(a.stop(grace=0.1))
    assert await next_status(watching) == NOT_SERVING, "a node that leaves says so first"
    await stopping


async def test_the_meshs_own_health_says_why(ailing: Any, start: Any, until: Any) -> None:
    switch = Switch()
    a = await ailing(switch)
    b = await start("b", a)
    healthy = await b.get_peer_health("a")
    assert (healthy.node_id, healthy.status) == ("a", HealthStatus.HEALTHY)
    assert (healthy.message, healthy.error) == ("1 checks passed", "")
    switch.broken = "disk full"
    await until(lambda: b.topology.nodes["a"].health is HealthStatus.UNHEALTHY)
    ill = await b.get_peer_health("a")
    assert (ill.status, ill.error) == (HealthStatus.UNHEALTHY, "disk: disk full")
    assert ill.last_checked >= healthy.last_checked


async def test_an_unhealthy_provider_is_passed_over_while_another_is_left(
    ailing: Any, start: Any, until: Any, provider: Any, say: Any
) -> None:
    switch = Switch()
    a = await ailing(switch)
    b = await start("b", a, **provider("b"))
    c = await start("c", a)
    await until(lambda: len(c.topology.get_service_providers("echo", "v1")) == 2)
    switch.broken = "disk full"
    await until(lambda: c.topology.nodes["a"].health is HealthStatus.UNHEALTHY)
    channel = c.pool.channel("echo", "v1")
    assert {(await say(channel))[0] for _ in range(4)} == {"b"}
    await b.stop(grace=0)
    await until(lambda: "b" not in c.topology.nodes)
    assert (await say(channel))[0] == "a", "ill is better than nobody"


async def test_reflection_lists_the_users_services_and_the_meshs(
    start: Any, provider: Any, open_to: Any
) -> None:
    a = await start("a", **provider("a"))
    stub = reflection_pb2_grpc.ServerReflectionStub(open_to(a))

    async def requests() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    (answer,) = [answer async for answer in stub.ServerReflectionInfo(requests(), timeout=10)]
    assert sorted(service.name for service in answer.list_services_response.service) == [
        "aegis.MeshService",
        "aegis.mesh.v1.Introspection",
        "aegis.mesh.v1.Mesh",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "test.Echo",
    ]
