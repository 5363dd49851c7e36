"""The pools of clients and nodes follow their options, blocking and in asyncio."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from aegis_core import Node, PoolOptions
from aegis_discovery import LeastRequests, ServiceConfigError, connect
from aegis_discovery import aio as discovery_aio

SAY = "/test.Echo/Say"
NEAR = {"region": "eu", "zone": "eu-1a"}
FAR = {"region": "eu", "zone": "eu-1b"}


class RecordingInterceptor(grpc.UnaryUnaryClientInterceptor):
    """Records the methods of blocking calls."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.methods.append(details.method)
        return continuation(details, request)


class AioRecordingInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """Records the methods of asyncio calls."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        method = details.method
        self.methods.append(method if isinstance(method, str) else method.decode())
        return await continuation(details, request)


class Counting(LeastRequests):
    """Counts its picks over all services and pools of a test."""

    picks: list[int]

    def pick(self, endpoints: Any) -> Any:
        self.picks.append(1)
        return super().pick(endpoints)


@pytest.fixture
def counting() -> type[Counting]:
    return type("Counted", (Counting,), {"picks": []})


def test_blocking_pools_follow_their_options(
    identity: Any, provider: Callable[..., dict[str, Any]], counting: type[Counting]
) -> None:
    recording = RecordingInterceptor()
    options = PoolOptions(balancers={"echo": counting}, interceptors=[recording])

    def node(node_id: str, *seeds: str, **more: Any) -> Node:
        tls = identity(node_id)
        return Node(node_id, address="127.0.0.1:0", tls=tls, seed_peers=seeds, grace=0, **more)

    with (
        node("far", **provider("far"), **FAR) as far,
        node("near", far.address, **provider("near"), **NEAR) as near,
        node("caller", near.address, pool_options=options, **NEAR) as caller,
        connect(near.address, tls=identity("client"), pool_options=options, **NEAR) as mesh,
    ):
        deadline = time.monotonic() + 10
        for pool, topology in ((caller.pool, caller.topology), (mesh.pool, mesh.topology)):
            while len(topology.get_service_providers("echo", "v1")) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            call = pool.channel("echo", "v1").unary_unary(SAY)
            assert {call(b"hi", timeout=10).split()[0] for _ in range(4)} == {b"near"}
    assert len(counting.picks) == 8
    assert recording.methods == [SAY] * 8


async def test_asyncio_pools_follow_their_options(
    start: Any,
    provider: Callable[..., dict[str, Any]],
    say: Any,
    identity: Any,
    until: Any,
    counting: type[Counting],
) -> None:
    recording = AioRecordingInterceptor()
    options = PoolOptions(balancers={"echo": counting}, interceptors=[recording])
    far = await start("far", **provider("far"), **FAR)
    near = await start("near", far, **provider("near"), **NEAR)
    caller = await start("caller", near, pool_options=options, **NEAR)
    client = {"tls": identity("client"), "pool_options": options, **NEAR}
    async with await discovery_aio.connect(near.address, **client) as mesh:
        for pool, topology in ((caller.pool, caller.topology), (mesh.pool, mesh.topology)):
            await until(lambda t=topology: len(t.get_service_providers("echo", "v1")) == 2)
            answers = [await say(pool.channel("echo", "v1")) for _ in range(4)]
            assert {answer[0] for answer in answers} == {"near"}
    await caller.ping_peer("near")
    assert len(counting.picks) == 8
    assert recording.methods == [SAY] * 8, (
        "the calls of the mesh itself do not pass through the interceptor"
    )


async def test_a_pool_with_interceptors_uses_a_new_identity_of_its_node(
    start: Any, provider: Callable[..., dict[str, Any]], say: Any, ca: Any, until: Any
) -> None:
    b = await start("b", tls=ca.issue_in_memory("b"), **provider("b"))
    first, second = ca.issue_in_memory("a"), ca.issue_in_memory("a")
    a = await start(
        "a", b, tls=first, pool_options=PoolOptions(interceptors=[AioRecordingInterceptor()])
    )
    await until(lambda: a.topology.get_service_providers("echo", "v1"))
    channel = a.pool.channel("echo", "v1")
    port = (await say(channel))[2]
    a.change_identity(second)
    answer = await say(channel)
    assert answer[:2] == ["b", "a"]
    assert answer[2] != port, "over a new connection"


def test_an_unsupported_service_config_is_refused_by_the_options() -> None:
    with pytest.raises(ServiceConfigError, match="loadBalancingConfig"):
        PoolOptions(service_config={"loadBalancingConfig": []})
