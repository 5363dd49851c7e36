"""Clients are in no topology, and learn why they are refused."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType, UsageError
from aegis_core import Node, NodeStatus, ServiceInfo, aio
from aegis_discovery import (
    DEFAULT_MESH,
    ClosedError,
    ConnectError,
    NodeInfo,
    NoProvidersError,
    NotOwnerError,
    connect,
)
from aegis_discovery import aio as discovery_aio
from aegis_discovery.aio.transport import open_channel
from aegis_discovery.feed import FeedReader
from aegis_discovery.identity import IdentityEvent, IdentityEventKind
from aegis_discovery.proto import mesh_pb2, mesh_pb2_grpc

ECHO, OTHER = ServiceInfo("echo", "v1"), ServiceInfo("other", "v1")


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """Runs a TCP server that is not a node and answers every connection with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1024)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_connect_that_fails_says_why_for_each_address(
    identity: Any, tmp_path: Path, closed_port: str
) -> None:
    other_ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256)
    tls = other_ca.issue_in_memory("a")
    with (
        listening(b"SSH-2.0-no\r\n") as no_tls,
        Node("a", address="127.0.0.1:0", tls=tls, grace=0) as node,
    ):
        stranger = node.address
        with pytest.raises(ConnectError) as caught:
            connect(closed_port, no_tls, stranger, tls=identity("client"), timeout=2)
    causes = caught.value.causes
    assert set(causes) == {closed_port, no_tls, stranger}
    assert "is a node listening there?" in causes[closed_port]
    assert "not with TLS" in causes[no_tls]
    assert "its certificate is not trusted" in causes[stranger]
    assert all(f"{address}: {why}" in str(caught.value) for address, why in causes.items())
    assert "no seed peer accepted this client within 2 s" in str(caught.value)


def test_a_connect_without_a_seed_peer_or_an_identity_is_refused(identity: Any) -> None:
    with pytest.raises(ConnectError, match="no seed peer was given"):
        connect(tls=identity("client"))
    with pytest.raises(ConnectError, match="the client has no identity"):
        connect("127.0.0.1:1")


def test_a_failed_connect_leaves_no_thread_behind(identity: Any, closed_port: str) -> None:
    before = {*threading.enumerate()}  # nodes of earlier tests may still be closing
    with pytest.raises(ConnectError):
        connect(closed_port, tls=identity("client"), timeout=0.3)
    left = [thread.name for thread in {*threading.enumerate()} - before if "aegis" in thread.name]
    assert left == []


async def test_clients_are_in_no_topology_and_change_none(
    start: Any, until: Any, agree: Any, identity: Any
) -> None:
    a = await start("a")
    b = await start("b", a)
    await until(lambda: agree(a, b))
    async with await discovery_aio.connect(a.address, tls=identity("client")) as mesh:
        await until(lambda: mesh.topology.digest == b.topology.digest)
        with pytest.raises(NotOwnerError):
            mesh.topology.add_node(mesh.topology.nodes["a"])
        c = await start("c", b)
        await until(lambda: "c" in mesh.topology.nodes)
        await until(lambda: agree(a, b, c))
        assert mesh.get_certificate("c") == c.tls.certificate
        assert mesh.get_certificate("client") is None


async def test_a_client_only_certificate_is_enough_for_a_client(
    start: Any, ca: CertificateAuthority, provider: Any, say: Any
) -> None:
    a = await start("a", **provider("a"))
    tls = ca.issue_in_memory("visitor", client_only=True)
    async with await discovery_aio.connect(a.address, tls=tls) as mesh:
        assert (await say(mesh.pool.channel("echo", "v1")))[:2] == ["a", "visitor"]


async def test_an_async_client_that_calls_has_no_timer_in_its_loop(
    start: Any, until: Any, identity: Any
) -> None:
    """One that waits makes each turn of the loop more expensive, and so each call."""
    loop: Any = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("timers of this loop cost nothing")
    a = await start("a")
    async with discovery_aio.connect(a.address, tls=identity("client")) as mesh:
        assert mesh.pool
        heard = mesh._client._heard_at
        await until(lambda: mesh._client._heard_at > heard)
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []


async def test_an_async_client_makes_its_pool_on_first_use(
    start: Any, ca: CertificateAuthority, provider: Any, say: Any
) -> None:
    a = await start("a", **provider("a"))
    mesh = await discovery_aio.connect(a.address, tls=ca.issue_in_memory("first"))
    second = ca.issue_in_memory("second")
    # Stands for a renewal, after which the identity with which it connected may be over.
    mesh._client._on_identity(IdentityEvent(IdentityEventKind.CHANGED, second))
    pool = mesh.pool
    assert mesh.pool is pool
    assert (await say(pool.channel("echo", "v1")))[:2] == ["a", "second"]
    await mesh.close()
    with pytest.raises(ClosedError):
        mesh.pool.channel("echo", "v1")


async def test_an_async_client_that_was_closed_makes_no_pool(start: Any, identity: Any) -> None:
    a = await start("a")
    async with discovery_aio.connect(a.address, tls=identity("client")) as mesh:
        pass
    with pytest.raises(ClosedError):
        _ = mesh.pool


async def test_a_server_only_certificate_is_refused_at_once(ca: CertificateAuthority) -> None:
    tls = ca.issue_in_memory("a", server_only=True)
    with pytest.raises(UsageError, match="must not be used as a client"):
        await discovery_aio.connect("127.0.0.1:1", tls=tls)


async def test_a_client_waits_for_a_mesh_that_starts_later(
    start: Any, identity: Any, closed_port: str
) -> None:
    connecting = asyncio.create_task(
        discovery_aio.connect(closed_port, tls=identity("client"), timeout=15)
    )
    await start("a", address=closed_port)
    async with await connecting as mesh:
        assert list(mesh.topology.nodes) == ["a"]


def test_a_client_may_start_before_any_node(
    identity: Any, closed_port: str, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(closed_port, tls=identity("client"), wait=False) as mesh:
        call = mesh.pool.channel("echo", "v1").unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(NoProvidersError, match="wait_for_ready=True"):
            call(b"", timeout=10)
        answer = call.future(b"", timeout=60, wait_for_ready=True)
        blocked = threading.Thread(target=call, args=(b"", 60), kwargs={"wait_for_ready": True})
        blocked.start()
        with Node("a", address=closed_port, tls=identity("a"), services=[ECHO], grace=0):
            answer.result()
            blocked.join()
    assert "no seed peer accepts this client yet" in caplog.text


async def test_an_async_client_may_start_before_any_node(identity: Any, closed_port: str) -> None:
    async with discovery_aio.connect(closed_port, tls=identity("client"), wait=False) as mesh:
        call = mesh.pool.channel("echo", "v1").unary_unary("/grpc.health.v1.Health/Check")
        answer = asyncio.ensure_future(call(b"", timeout=60, wait_for_ready=True).code())
        async with aio.Node("a", address=closed_port, tls=identity("a"), services=[ECHO], grace=0):
            assert await answer is grpc.StatusCode.OK


def test_closing_a_client_that_reached_nobody_ends_its_calls(
    identity: Any, closed_port: str
) -> None:
    mesh = connect(closed_port, tls=identity("client"), wait=False)
    call = mesh.pool.channel("echo", "v1").unary_unary("/grpc.health.v1.Health/Check")
    answer: Any = call.future(b"", wait_for_ready=True)
    mesh.close()
    assert answer.code() is grpc.StatusCode.CANCELLED


async def test_an_async_mesh_is_entered_with_or_without_await(identity: Any, start: Any) -> None:
    a = await start("a")
    async with discovery_aio.connect(a.address, tls=identity("client")) as mesh:
        assert set(mesh.topology.nodes) == {"a"}
    task = asyncio.create_task(discovery_aio.connect(a.address, tls=identity("client")))
    async with await task as mesh:
        assert set(mesh.topology.nodes) == {"a"}
    with pytest.raises(ConnectError):
        async with discovery_aio.connect("127.0.0.1:1", tls=identity("client"), timeout=0.1):
            pass


async def test_a_client_of_some_services_knows_only_their_providers(
    start: Any, until: Any, identity: Any, provider: Any, say: Any
) -> None:
    a = await start("a", services=[OTHER])
    b = await start("b", a, **provider("b"))
    async with await discovery_aio.connect(
        a.address, tls=identity("client"), services=[ECHO]
    ) as mesh:
        await until(lambda: list(mesh.topology.nodes) == ["b"])
        assert (await say(mesh.pool.channel("echo", "v1")))[0] == "b"
        await start("c", a, **provider("c", OTHER))
        await until(lambda: list(mesh.topology.nodes) == ["b", "c"])
        b.topology.update_node(NodeInfo("b", address=b.address, services=(OTHER,)))
        await until(lambda: list(mesh.topology.nodes) == ["c"])
        b.topology.update_node(NodeInfo("b", address=b.address, services=(ECHO,)))
        await until(lambda: list(mesh.topology.nodes) == ["b", "c"])
        await b.stop()
        await until(lambda: list(mesh.topology.nodes) == ["c"])


def test_a_blocking_client_of_some_services_knows_only_their_providers(identity: Any) -> None:
    with (
        Node("a", address="127.0.0.1:0", tls=identity("a"), services=[OTHER], grace=0) as a,
        Node(
            "b",
            address="127.0.0.1:0",
            tls=identity("b"),
            services=[ECHO],
            seed_peers=[a.address],
            grace=0,
        ),
        connect(a.address, tls=identity("client"), services=[ServiceInfo("echo", "")]) as mesh,
    ):
        assert list(mesh.topology.nodes) == ["b"]


def test_a_client_cannot_request_more_services_than_a_feed_allows(identity: Any) -> None:
    with pytest.raises(ConnectError, match="65 services were requested, the limit is 64"):
        connect("127.0.0.1:1", tls=identity("client"), services=[ECHO] * 65)


async def test_a_feed_of_some_services_sends_heartbeats_while_other_services_change(
    start: Any, until: Any, identity: Any
) -> None:
    a = await start("a", services=[OTHER])

    async def change_forever() -> None:
        while True:
            a.topology.republish()
            await asyncio.sleep(0.001)

    request = mesh_pb2.WatchRequest(mesh=DEFAULT_MESH)
    request.services.add(name="echo", version="v1")
    async with open_channel(identity("client"), "a", a.address) as channel:
        call = mesh_pb2_grpc.MeshStub(channel).Watch(request, timeout=10)
        assert (await call.read()).complete
        changing = asyncio.create_task(change_forever())
        beat = await call.read()
        changing.cancel()
        assert beat.version > 0
        assert not beat.records


class Proxy:
    """A TCP proxy to a node, whose connections can be cut."""

    def __init__(self, address: str) -> None:
        self._target = address.split(":")
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.address = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._target[0], int(self._target[1]))
        self._open |= {writer, back}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        self._open -= {writer, back}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


async def test_a_client_that_reconnects_receives_only_what_it_missed(
    start: Any, until: Any, identity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[mesh_pb2.WatchResponse] = []
    receive = FeedReader.receive

    def record_and_receive(
        reader: FeedReader, message: mesh_pb2.WatchResponse, *, source: str
    ) -> Any:
        if source == "a" and reader._trusts_statuses:
            received.append(message)
        return receive(reader, message, source=source)

    monkeypatch.setattr(FeedReader, "receive", record_and_receive)
    a = await start("a")
    b = await start("b", a)
    await until(lambda: len(a.topology.nodes) == len(b.topology.nodes) == 2)
    proxy = Proxy(a.address)
    await proxy.start()
    async with await discovery_aio.connect(f"a@{proxy.address}", tls=identity("client")) as mesh:
        await until(lambda: len(mesh.topology.nodes) == 2)
        received.clear()
        proxy.cut()
        a.topology.update_node(NodeInfo("a", address=a.address, services=(ECHO,)))
        await until(lambda: mesh.topology.get_service_providers("echo", "v1"))
        records = [record for message in received for record in message.records]
        assert len(records) == 1, "no record of b, which did not change"
        assert any(message.complete for message in received)
    await proxy.close()


async def test_a_client_follows_another_node_when_its_node_leaves(
    start: Any, until: Any, identity: Any
) -> None:
    a = await start("a")
    nodes = {"a": a, "b": await start("b", a), "c": await start("c", a)}
    await until(lambda: len(a.topology.nodes) == 3)
    async with await discovery_aio.connect(a.address, tls=identity("client")) as mesh:
        for left in (2, 1):
            await until(lambda: any("client" in n.server.watchers for n in nodes.values()))
            (serving,) = [i for i, node in nodes.items() if "client" in node.server.watchers]
            await nodes.pop(serving).stop()
            await until(lambda n=left: len(mesh.topology.nodes) == n)
        (last,) = nodes.values()
        await start("d", last)
        await until(lambda: sorted(mesh.topology.nodes) == sorted([last.id, "d"]))


async def test_a_client_is_served_by_its_region_fails_over_and_returns(
    identity: Any,
    start: Any,
    until: Any,
    provider: Any,
    say: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegis_discovery._client.home.LOOK_EVERY", 0.1)
    far = await start("far", region="us", **provider("far"))
    near = await start("near", far, region="eu", **provider("near"))
    await until(lambda: len(far.topology.nodes) == 2)
    clients = {"one", "two"}
    answered: list[str] = []

    async def call_all_the_time(mesh: Any) -> None:
        channel = mesh.pool.channel("echo", "v1")
        while True:
            answered.append((await say(channel))[0])
            await asyncio.sleep(0.005)

    async with discovery_aio.connect(far.address, tls=identity("one"), region="eu") as mesh:
        with await asyncio.to_thread(
            connect, far.address, tls=identity("two"), region="eu"
        ) as blocking:
            await until(lambda: clients <= set(near.server.watchers))
            assert not clients & set(far.server.watchers)
            calls = asyncio.create_task(call_all_the_time(mesh))
            await until(lambda: "near" in answered)
            changes: list[str] = []
            mesh.topology.subscribe(lambda event: changes.append(event.node.id))
            await near.stop()
            await until(lambda: clients <= set(far.server.watchers))
            assert all(one.topology.get_node("far") is not None for one in (mesh, blocking))
            await until(lambda: answered[-1] == "far")
            back = await start("near", far, region="eu", **provider("near"))
            await until(lambda: clients <= set(back.server.watchers))
            await until(lambda: answered[-1] == "near")
            assert not calls.done(), "a call failed"
            assert set(changes) == {"near"}, "two new feeds, and nothing changed but this node"
            calls.cancel()
            await asyncio.to_thread(blocking.close)


async def test_a_client_reconnects_after_all_nodes_of_the_mesh_were_restarted(
    start: Any, until: Any, identity: Any, provider: Any, say: Any
) -> None:
    a = await start("a", **provider("a"))
    b = await start("b", a, **provider("b"))
    async with await discovery_aio.connect(a.address, tls=identity("client")) as mesh:
        await until(lambda: len(mesh.topology.nodes) == 2)
        addresses = a.address, b.address
        await asyncio.gather(a.stop(), b.stop())
        await until(lambda: not mesh.topology.nodes)
        a = await start("a", address=addresses[0], **provider("a"))
        b = await start("b", a, address=addresses[1], **provider("b"))
        await until(lambda: mesh.topology.digest == a.topology.digest == b.topology.digest)
        assert [node.status for node in mesh.topology.nodes.values()] == [NodeStatus.ALIVE] * 2
        channel = mesh.pool.channel("echo", "v1")
        assert {(await say(channel))[0] for _ in range(4)} == {"a", "b"}


async def test_all_addresses_of_a_seed_peers_host_name_are_tried(
    start: Any, until: Any, identity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start("a", address="127.0.0.2:0")
    port = a.address.rpartition(":")[2]
    hosts = ["127.0.0.4", "127.0.0.2", "127.0.0.3"]
    resolve = socket.getaddrinfo

    def resolve_mesh_test(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host != b"mesh.test":
            return resolve(host, port, *rest, **options)
        return [found for ip in hosts for found in resolve(ip, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve_mesh_test)
    async with await discovery_aio.connect(f"mesh.test:{port}", tls=identity("client")) as mesh:
        assert list(mesh.topology.nodes) == ["a"]
        await a.stop()
        await until(lambda: not mesh.topology.nodes)
        await start("b", address=f"127.0.0.3:{port}")
        await until(lambda: list(mesh.topology.nodes) == ["b"])
    hosts.remove("127.0.0.3")
    with pytest.raises(ConnectError) as caught:
        await discovery_aio.connect(f"mesh.test:{port}", tls=identity("client"), timeout=1)
    assert set(caught.value.causes) == {f"127.0.0.4:{port}", f"127.0.0.2:{port}"}
