"""Rows S17 to S20: calls to services."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_core import ServiceInfo
from aegis_discovery import ServiceClientPool
from aegis_discovery import aio as discovery_aio

OTHER = ServiceInfo("other", "v1")


@pytest.fixture
async def providers(
    start: Any, until: Any, agree: Any, provider: Any
) -> Callable[[], Awaitable[list[Any]]]:
    """Starts a caller `x` and three providers of `echo`; the last also provides `other`."""

    async def make() -> list[Any]:
        x = await start("x")
        nodes = [
            x,
            await start("a", x, **provider("a")),
            await start("b", x, **provider("b")),
            await start("c", x, **provider("c", OTHER)),
        ]
        await until(lambda: agree(*nodes))
        return nodes

    return make


async def test_s17_calls_take_the_providers_in_turn(providers: Any, say: Any) -> None:
    x, *_ = await providers()
    channel = x.pool.channel("echo", "v1")
    answered = [(await say(channel))[0] for _ in range(9)]
    assert sorted(answered[:3]) == ["a", "b", "c"]
    assert answered == answered[:3] * 3


async def test_s17_each_service_has_its_own_rotation(providers: Any, say: Any) -> None:
    x, *_ = await providers()
    echo, other = x.pool.channel("echo", "v1"), x.pool.channel("other", "v1")
    answered = []
    for _ in range(3):
        answered.append((await say(echo))[0])
        assert (await say(other))[0] == "c"
    assert sorted(answered) == ["a", "b", "c"]


async def test_s17_get_conn_returns_the_connection_of_the_next_provider(
    providers: Any, say: Any
) -> None:
    x, *_ = await providers()
    answered = []
    for _ in range(6):
        channel = x.pool.get_conn("echo", "v1")
        answered += [(await say(channel))[0] for _ in range(2)]
    assert answered[::2] == answered[1::2], "one connection reaches one provider"
    assert Counter(answered) == {"a": 4, "b": 4, "c": 4}


async def test_s17_many_threads_share_one_rotation(providers: Any) -> None:
    x, *_ = await providers()

    def calls() -> Counter[str]:
        with ServiceClientPool(x, x.tls) as pool, ThreadPoolExecutor(8) as threads:
            method = pool.channel("echo", "v1").unary_unary("/test.Echo/Say")
            answers = threads.map(lambda _: method(b"", timeout=10), range(90))
            return Counter(answer.split()[0].decode() for answer in answers)

    assert await asyncio.to_thread(calls) == {"a": 30, "b": 30, "c": 30}


async def test_s18_all_services_and_calls_share_one_connection_per_provider(
    providers: Any, say: Any
) -> None:
    x, *_ = await providers()
    peers: dict[str, set[str]] = {"a": set(), "b": set(), "c": set()}
    for _ in range(6):
        for channel in (
            x.pool.channel("echo", "v1"),
            x.pool.get_conn("echo", "v1"),
            x.pool.channel("other", "v1"),
        ):
            node_id, _, connection, _ = await say(channel)
            peers[node_id].add(connection)
    assert {node_id: len(seen) for node_id, seen in peers.items()} == {"a": 1, "b": 1, "c": 1}


async def test_s18_a_provider_at_a_new_address_gets_a_new_connection(
    start: Any, until: Any, provider: Any, say: Any
) -> None:
    x = await start("x")
    a = await start("a", x, **provider("a"))
    await until(lambda: "a" in x.topology.nodes)
    channel = x.pool.channel("echo", "v1")
    assert (await say(channel))[0] == "a"
    await a.stop(grace=0)
    again = await start("a", x, **provider("a"))
    await until(lambda: x.topology.nodes["a"].address == again.address)
    assert (await say(channel))[0] == "a"


async def test_s19_all_four_kinds_of_calls_pass_through_the_mesh(providers: Any) -> None:
    x, *_ = await providers()
    channel = x.pool.channel("echo", "v1")

    async def requests() -> AsyncIterator[bytes]:
        for word in (b"x", b"y", b"z"):
            yield word

    counted = [number async for number in channel.unary_stream("/test.Echo/Count")(b"3")]
    assert counted == [b"0", b"1", b"2"]
    assert await channel.stream_unary("/test.Echo/Join")(requests()) == b"x+y+z"
    chatted = [word async for word in channel.stream_stream("/test.Echo/Chat")(requests())]
    assert chatted == [b"re: x", b"re: y", b"re: z"]


async def test_s19_deadlines_end_calls(providers: Any) -> None:
    x, *_ = await providers()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await x.pool.channel("echo", "v1").unary_unary("/test.Echo/Hang")(b"", timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


class Counting(grpc.aio.ServerInterceptor, grpc.aio.UnaryUnaryClientInterceptor):
    """Counts calls, on the server or on the client."""

    def __init__(self) -> None:
        self.methods: Counter[str] = Counter()

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.methods[details.method] += 1
        return await continuation(details)

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        method = details.method
        self.methods[method.decode() if isinstance(method, bytes) else method] += 1
        return await continuation(details, request)


async def test_s19_interceptors_work_on_both_sides(
    start: Any, until: Any, provider: Any, say: Any
) -> None:
    server, client = Counting(), Counting()
    a = await start("a", interceptors=[server], **provider("a"))
    x = await start("x", a)
    pool = discovery_aio.ServiceClientPool(x, x.tls, interceptors=[client])
    for _ in range(3):
        assert (await say(pool.channel("echo", "v1")))[0] == "a"
    await pool.close()
    assert client.methods == {"/test.Echo/Say": 3}
    assert server.methods["/test.Echo/Say"] == 3


EMBEDDED = """
import sys

PROCESSES = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system")
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event in PROCESSES else None)

from aegis_core import Node, ServiceInfo

identities = sys.argv[1]
with Node("a", address="127.0.0.1:0", cert_dir=identities, services=[ServiceInfo("s", "v1")]) as a:
    with Node("b", address="127.0.0.1:0", cert_dir=identities, seed_peers=[a.address]) as b:
        print(*b.topology.nodes, [node.id for node in b.topology.get_service_providers("s", "v1")])
print(seen)
"""


def test_s20_a_mesh_is_a_library_and_starts_no_process(cert_dir: Path, identity: Any) -> None:
    identity("a"), identity("b")
    done = subprocess.run(
        [sys.executable, "-c", EMBEDDED, str(cert_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == ["a b ['a']", "[]"]
