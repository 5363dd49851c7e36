"""What etcd adds to the contract of a registry: it is not trusted, and may be away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_cli.cli import aegis
from aegis_core import JoinError, NodeStatus
from aegis_core.aio import Node
from aegis_discovery import ConnectError, EventKind
from aegis_discovery.aio import connect
from click.testing import CliRunner

from ..mesh.process import NodeProcess
from .conftest import MeshIn


class Load:
    """Calls a service all the time, and keeps what failed."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._method = channel.unary_unary("/test.Echo/Say")
        self.answers = 0
        self.failures: list[str] = []

    async def run(self) -> None:
        while True:
            try:
                await self._method(b"x", timeout=10)
                self.answers += 1
            except grpc.aio.AioRpcError as error:
                self.failures.append(str(error))
            await asyncio.sleep(0.005)


@asynccontextmanager
async def load(mesh: Any) -> AsyncIterator[Load]:
    calls = Load(mesh.pool.channel("echo", "v1"))
    task = asyncio.create_task(calls.run())
    try:
        yield calls
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert calls.answers > 0
    assert calls.failures == []


def failures(*topologies: Any) -> list[str]:
    """Returns a list that receives the ids of nodes that fail."""
    found: list[str] = []
    for topology in topologies:
        topology.subscribe(
            lambda event: found.append(event.node.id) if event.kind is EventKind.FAILED else None
        )
    return found


async def test_deleted_and_overwritten_keys_are_written_again_and_nobody_fails(
    mesh_in_etcd, identity, until, provider
):
    nodes = [await mesh_in_etcd.start(node_id, **provider(node_id)) for node_id in "abcd"]
    etcd, name = mesh_in_etcd.etcd, mesh_in_etcd.name
    _, options = mesh_in_etcd.client_arguments()
    async with connect(tls=identity("client"), **options) as client, load(client):
        failed = failures(client.topology, *(node.topology for node in nodes))
        suspected: list[str] = []
        client.topology.subscribe(lambda event: suspected.append(event.kind))
        async with etcd.member(identity("operator")) as member:
            for node_id in "abcd":
                await member.delete(f"aegis/{name}/nodes/{node_id}".encode())
            await until(lambda: EventKind.SUSPECTED in suspected)
            statuses = [n.status for n in client.topology.nodes.values()]
            await until(
                lambda: all(n.status is NodeStatus.ALIVE for n in client.topology.nodes.values())
            )
            await member.put(f"aegis/{name}/nodes/a".encode(), b"garbage", 0)
            value = (await etcd.contents(identity("operator")))[f"aegis/{name}/nodes/b"]
            await member.put(f"aegis/{name}/nodes/c".encode(), value, 0)

            async def is_mended() -> bool:
                held = await etcd.contents(identity("operator"))
                keys = [held.get(f"aegis/{name}/nodes/{i}", b"") for i in "abc"]
                return len(set(keys)) == 3 and b"garbage" not in keys

            await etcd.until(is_mended)
        assert failed == []
        assert NodeStatus.FAILED not in statuses


async def test_without_etcd_a_start_goes_on_or_fails_as_the_options_say(identity):
    url = "etcd://127.0.0.1:9/aegis"
    with pytest.raises(JoinError, match=r"127\.0\.0\.1:9: it refused the connection; is etcd"):
        await Node(
            "a",
            address="127.0.0.1:0",
            tls=identity("a"),
            registry=url,
            join_timeout=0.3,
            require_join=True,
        ).start()
    async with Node(
        "a", address="127.0.0.1:0", tls=identity("a"), registry=url, join_timeout=0.1
    ) as node:
        assert list(node.topology.nodes) == ["a"]
    with pytest.raises(ConnectError, match="the registry did not serve this client"):
        await connect(registry=url, tls=identity("client"), timeout=0.3)


async def test_etcd_must_prove_the_name_of_its_address(mesh_in_etcd, identity):
    port = mesh_in_etcd.etcd.clients["etcd-1"]
    for name in ("127.0.0.1", "etcd-1@127.0.0.1"):
        url = f"etcd://{name}:{port}/aegis"
        async with connect(registry=url, tls=identity("client")):
            pass
    for name in ("localhost", "etcd-2@127.0.0.1"):
        url = f"etcd://{name}:{port}/aegis"
        with pytest.raises(ConnectError):
            await connect(registry=url, tls=identity("client"), timeout=0.5)


async def test_an_etcd_of_another_ca_is_named_as_such(mesh_in_etcd, tmp_path):
    tls = CertificateAuthority.create(tmp_path / "certs", key_type=KeyType.P256).issue(
        "a", key_type=KeyType.P256
    )
    with pytest.raises(ConnectError, match=r"its certificate is not trusted .*certificates of one"):
        await connect(registry=mesh_in_etcd.etcd.url, tls=tls, timeout=0.5)


async def test_after_a_compaction_everything_is_read_anew(start_etcd, identity, until):
    etcd = start_etcd()
    await etcd.wait_ready(identity("operator"))
    mesh = MeshIn(etcd, identity)
    await mesh.start("a")
    async with connect(registry=etcd.url, tls=identity("client"), mesh=mesh.name) as client:
        etcd.kill()
        etcd.start()
        async with etcd.member(identity("operator")) as member:
            await etcd.wait_ready(identity("operator"))
            b = await mesh.start("b")
            await until(lambda: "b" in client.topology.nodes)
            follower = client._client._registry._etcd
            follower._revision = 1  # as after a long time away
            revision = await member.put(b"aegis/other", b"x", 0)
            compact = member._channel.unary_unary("/etcdserverpb.KV/Compact")
            await compact(bytes([8, *varint(revision), 16, 1]))
            follower._session.cancel()
            await b.stop(grace=0)
            await until(lambda: list(client.topology.nodes) == ["a"])
    await mesh.nodes[0].stop(grace=0)


def varint(value: int) -> list[int]:
    found = []
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return [*found, value]


async def test_mesh_status_reads_a_registry(mesh_in_etcd, cert_dir, identity):
    await mesh_in_etcd.start("a")
    command = [
        *("mesh", "status", "--registry", mesh_in_etcd.etcd.url, "--mesh", mesh_in_etcd.name),
        *("--cert-dir", str(cert_dir), "--json"),
    ]
    done = await asyncio.to_thread(CliRunner().invoke, aegis, command)
    assert done.exit_code == 0, done.output
    [node] = json.loads(done.output)["nodes"]
    assert (node["id"], node["status"]) == ("a", "alive")


async def test_a_renewed_identity_goes_on_under_its_lease(mesh_in_etcd, identity, ca, until):
    a, b = await mesh_in_etcd.start("a"), await mesh_in_etcd.start("b")
    failed = failures(b.topology)
    await until(lambda: "a" in b.topology.nodes)
    before = b.topology.get_record("a").signer
    a.change_identity(ca.issue_in_memory("a"))
    await until(lambda: b.topology.get_record("a").signer != before)
    assert failed == []


@pytest.mark.soak
async def test_a_killed_node_is_failed_within_13_seconds_and_calls_leave_it_at_once(
    mesh_in_etcd, identity, until, provider, cert_dir, tmp_path
):
    nodes = [await mesh_in_etcd.start(node_id, **provider(node_id)) for node_id in "abcd"]
    etcd, name = mesh_in_etcd.etcd, mesh_in_etcd.name
    identity("killed")
    process = NodeProcess(
        "killed", tmp_path / "log", registry=etcd.url, mesh=name, cert_dir=str(cert_dir)
    )
    assert process.address
    _, options = mesh_in_etcd.client_arguments()
    async with connect(tls=identity("client"), **options) as client, load(client):
        await until(lambda: "killed" in client.topology.nodes)
        topologies = [client.topology, *(node.topology for node in nodes)]
        killed_at = time.monotonic()
        await asyncio.to_thread(process.kill)
        # The lease of ten seconds, a check each half second, and the pings.
        await etcd.until(
            lambda: all(t.get_node("killed").status is NodeStatus.FAILED for t in topologies)
        )
        print(f"failed everywhere after {time.monotonic() - killed_at:.1f} s")
        held = await etcd.contents(identity("operator"))
        said = [key for key in held if key.startswith(f"aegis/{name}/verdicts/killed/")]
        assert len(said) >= 3


@pytest.mark.soak
async def test_a_cluster_of_three_loses_one_member_and_then_two(
    start_etcd, identity, until, provider, monkeypatch
):
    etcd = start_etcd(3)
    operator = identity("operator")
    await etcd.wait_ready(operator)
    mesh = MeshIn(etcd, identity)
    nodes = [await mesh.start(node_id, **provider(node_id)) for node_id in "abc"]
    async with (
        connect(registry=etcd.url, tls=identity("client"), mesh=mesh.name) as client,
        load(client),
    ):
        failed = failures(client.topology, *(node.topology for node in nodes))
        readings: list[str] = []
        monkeypatch.setattr(client._client._registry._contents, "begin", readings.append)
        leader = await etcd.leader(operator)
        etcd.kill(leader)
        d = await mesh.start("d", **provider("d"), join_timeout=20)
        await until(lambda: all("d" in n.topology.nodes for n in (*nodes, client)))
        assert readings == []  # the watch went on at the next revision
        second = next(name for name in etcd.clients if name != leader)
        etcd.kill(second)  # one of three is left: no quorum, so etcd is away
        await asyncio.sleep(4)
        assert failed == []
        assert all(n.status is not NodeStatus.FAILED for n in client.topology.nodes.values())
        etcd.start(leader, second)
        await etcd.wait_ready(operator)
        await d.stop(grace=0)
        await until(lambda: all("d" not in n.topology.nodes for n in (*nodes, client)))

        async def all_there() -> bool:
            return await etcd.keys(operator) >= {"a", "b", "c"}

        await etcd.until(all_there)
        assert failed == []
    await asyncio.gather(*(node.stop(grace=0) for node in nodes))


@pytest.mark.soak
async def test_an_etcd_that_lost_its_data_is_given_everything_again(
    start_etcd, identity, until, provider, ca, cert_dir
):
    etcd, operator = start_etcd(), identity("operator")
    await etcd.wait_ready(operator)
    mesh = MeshIn(etcd, identity)
    ca.issue("issuer-1", key_type=KeyType.P256)
    issuer = await mesh.start("issuer-1", cert_dir=cert_dir, issuer=True, rotate="manual")
    nodes = [issuer, *[await mesh.start(node_id, **provider(node_id)) for node_id in "ab"]]
    async with (
        connect(registry=etcd.url, tls=identity("client"), mesh=mesh.name) as client,
        load(client),
    ):
        failed = failures(client.topology, *(node.topology for node in nodes))
        await etcd.until(lambda: len(client.documents) > 0)
        before = etcd.contents(operator)
        held = {key for key in await before if "/nodes/" in key or "/documents/" in key}
        etcd.kill()
        etcd.lose_data()
        etcd.start()
        await etcd.wait_ready(operator)

        async def is_whole() -> bool:
            return (await etcd.contents(operator)).keys() >= held

        await etcd.until(is_whole)
        late = await mesh.start("late")
        await until(lambda: "late" in client.topology.nodes)
        await until(lambda: all(n.status == "alive" for n in client.topology.nodes.values()))
        assert failed == []
        assert len(late._parts.state.documents) > 0
    await asyncio.gather(*(node.stop(grace=0) for node in mesh.nodes))


@pytest.mark.soak
async def test_a_mesh_moves_to_etcd_and_back_without_a_failed_call(
    mesh_in_etcd, identity, until, provider
):
    """As the guide says: all nodes have both, then the clients move, then the feeds end."""
    etcd, name, ids = mesh_in_etcd.etcd, mesh_in_etcd.name, "abcd"
    nodes: dict[str, Node] = {}

    def seeds() -> list[str]:
        return [node.address for node in nodes.values()][-2:]

    async def restart(node_id: str, **options: Any) -> None:
        if (old := nodes.pop(node_id, None)) is not None:
            await old.stop()
        node = Node(
            node_id,
            address="127.0.0.1:0",
            tls=identity(node_id),
            mesh=name,
            **provider(node_id),
            **options,
        )
        await node.start()
        nodes[node_id] = node
        for other in nodes.values():
            await until(lambda seen=other: set(seen.topology.nodes) >= nodes.keys())

    for node_id in ids:
        await restart(node_id, seed_peers=seeds())
    feeds = connect(*seeds(), tls=identity("client"), mesh=name)
    async with feeds as by_feed, load(by_feed):
        for node_id in ids:
            await restart(node_id, seed_peers=seeds(), registry=etcd.url)
        in_etcd = connect(registry=etcd.url, tls=identity("other"), mesh=name)
        async with in_etcd as by_registry, load(by_registry):
            for node_id in ids:
                await restart(node_id, registry=etcd.url)
            assert {node.topology.get_node(i).registry for i, node in nodes.items()} == {"etcd"}
            for node_id in ids:
                await restart(node_id, seed_peers=seeds(), registry=etcd.url)
            views = (by_feed.topology, by_registry.topology)
            for topology in views:
                await until(
                    lambda seen=topology: [n.status for n in seen.nodes.values()] == ["alive"] * 4
                )
        for node_id in ids:
            await restart(node_id, seed_peers=seeds())
        await until(lambda: list(by_feed.topology.nodes) == sorted(ids))
    await asyncio.gather(*(node.stop(grace=0) for node in nodes.values()))
