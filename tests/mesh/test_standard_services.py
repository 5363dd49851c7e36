"""Standard gRPC tools can use the health and reflection services of a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from aegis_core import FunctionHealthChecker, HealthStatus
from aegis_discovery.aio.transport import open_channel
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

pytestmark = [
    pytest.mark.usefixtures("server"),
    pytest.mark.parametrize("server", ["aio", "blocking"], indirect=True),
]


@pytest.fixture
async def open_to(identity: Any) -> AsyncIterator[Callable[[Any], grpc.aio.Channel]]:
    """Opens channels to nodes as a client that has only a certificate."""
    channels: list[grpc.aio.Channel] = []

    def open_(node: Any) -> grpc.aio.Channel:
        channels.append(open_channel(identity("client"), node.id, node.address))
        return channels[-1]

    yield open_
    await asyncio.gather(*(channel.close() for channel in channels))


class Switch:
    """A health check that fails while `broken` is set."""

    def __init__(self) -> None:
        self.broken = ""

    async def check(self) -> None:
        if self.broken:
            raise RuntimeError(self.broken)


@pytest.fixture
def start_checked(start: Any, provider: Any) -> Callable[[Switch], Awaitable[Any]]:
    """Starts a node `a` with a switch as its only health check."""

    async def start_node(switch: Switch) -> Any:
        checkers = [FunctionHealthChecker("disk", switch.check)]
        return await start("a", health_checkers=checkers, health_interval=0.05, **provider("a"))

    return start_node


async def next_status(watching: Any) -> int:
    message = await asyncio.wait_for(watching.read(), 10)
    status: int = message.status
    return status


async def test_the_health_service_reports_the_node_and_each_service(
    start_checked: Any, open_to: Any, until: Any
) -> None:
    switch = Switch()
    a = await start_checked(switch)
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
    async with asyncio.timeout(10):  # the health service follows the node with a short delay
        while [await check(name) for name in ("", "test.Echo")] != [NOT_SERVING, NOT_SERVING]:
            pass


async def test_a_health_watch_reports_changes(start_checked: Any, open_to: Any) -> None:
    switch = Switch()
    a = await start_checked(switch)
    stub = health_pb2_grpc.HealthStub(open_to(a))
    watching = stub.Watch(health_pb2.HealthCheckRequest(service="test.Echo"), timeout=30)
    assert await next_status(watching) == SERVING
    switch.broken = "disk full"
    assert await next_status(watching) == NOT_SERVING
    switch.broken = ""
    assert await next_status(watching) == SERVING
    stopping = asyncio.create_task(a.stop(grace=0.1))
    assert await next_status(watching) == NOT_SERVING, "a node that stops becomes NOT_SERVING first"
    await stopping


async def test_the_health_call_of_the_mesh_reports_the_reason(
    start_checked: Any, start: Any, until: Any
) -> None:
    switch = Switch()
    a = await start_checked(switch)
    b = await start("b", a)
    healthy = await b.get_peer_health("a")
    assert (healthy.node_id, healthy.status) == ("a", HealthStatus.HEALTHY)
    assert (healthy.message, healthy.error) == ("1 checks passed", "")
    switch.broken = "disk full"
    await until(lambda: b.topology.nodes["a"].health is HealthStatus.UNHEALTHY)
    unhealthy = await b.get_peer_health("a")
    assert (unhealthy.status, unhealthy.error) == (HealthStatus.UNHEALTHY, "disk: disk full")
    assert unhealthy.last_checked >= healthy.last_checked


async def test_an_unhealthy_provider_is_called_only_if_no_other_is_left(
    start_checked: Any, start: Any, until: Any, provider: Any, say: Any
) -> None:
    switch = Switch()
    a = await start_checked(switch)
    b = await start("b", a, **provider("b"))
    c = await start("c", a)
    await until(lambda: len(c.topology.get_service_providers("echo", "v1")) == 2)
    switch.broken = "disk full"
    await until(lambda: c.topology.nodes["a"].health is HealthStatus.UNHEALTHY)
    channel = c.pool.channel("echo", "v1")
    assert {(await say(channel))[0] for _ in range(4)} == {"b"}
    await b.stop(grace=0)
    await until(lambda: "b" not in c.topology.nodes)
    assert (await say(channel))[0] == "a", "an unhealthy provider is better than none"


async def reflect(channel: Any, version: str, **request: str) -> Any:
    """Sends one request to the reflection service, whose versions have the same messages."""

    async def requests() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(**request)

    method = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = [answer async for answer in method(requests(), timeout=10)]
    return answer


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services_of_the_user_and_of_the_mesh(
    start: Any, provider: Any, open_to: Any, version: str
) -> None:
    a = await start("a", **provider("a"))
    answer = await reflect(open_to(a), version, list_services="")
    assert sorted(service.name for service in answer.list_services_response.service) == [
        "aegis.MeshService",
        "aegis.mesh.v1.Introspection",
        "aegis.mesh.v1.Mesh",
        "aegis.mesh.v1.Operations",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "test.Echo",
    ]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_describes_each_service_of_the_mesh(
    start: Any, open_to: Any, version: str
) -> None:
    channel = open_to(await start("a"))
    listed = (await reflect(channel, version, list_services="")).list_services_response.service
    for service in listed:
        answer = await reflect(channel, version, file_containing_symbol=service.name)
        (file,) = map(
            descriptor_pb2.FileDescriptorProto.FromString,
            answer.file_descriptor_response.file_descriptor_proto[:1],
        )
        assert service.name in [f"{file.package}.{described.name}" for described in file.service]
        again = await reflect(channel, version, file_by_filename=file.name)
        assert again.file_descriptor_response == answer.file_descriptor_response
    missing = await reflect(channel, version, file_containing_symbol="grpc.reflection.v1.Nothing")
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
