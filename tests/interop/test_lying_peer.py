"""A peer without signatures may say what it likes; the mesh stays as it is."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from aegis_core import NodeStatus, PeerInfo, ServiceInfo
from aegis_core._unsigned_peers.vouching import MAX_INTRODUCED
from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc

HIGHEST = 2**63 - 1
STEP = 2**20


@pytest.fixture
def mesh(start: Any, start_go: Any, until: Any) -> Any:
    """Starts two nodes that provide `py`, and a liar that the first polls."""

    async def make() -> tuple[Any, Any, Any]:
        a = await start("a", services=[ServiceInfo("py", "v1")])
        b = await start("b", a, services=[ServiceInfo("py", "v1")])
        liar = await start_go("liar", "py")
        a.add_peer(PeerInfo("liar", liar.address))
        await until(lambda: all("liar" in node.topology.nodes for node in (a, b)))
        return a, b, liar

    return make


@pytest.fixture
def heard(until: Any) -> Any:
    """Waits until every node has asked the liar twice more, and so has taken in its answer."""

    async def wait(liar: Any, *nodes: Any) -> None:
        before = {node.id: liar.asked.count(node.id) for node in nodes}
        await until(lambda: all(liar.asked.count(i) > n + 1 for i, n in before.items()))

    return wait


async def agreed(until: Any, a: Any, b: Any) -> None:
    await until(
        lambda: (a.topology.version, a.topology.digest) == (b.topology.version, b.topology.digest)
    )


async def test_an_empty_topology_at_the_highest_version_wipes_nothing(
    mesh: Any, heard: Any, until: Any
) -> None:
    a, b, liar = await mesh()
    before = a.topology.version
    liar.nodes, liar.version = {}, HIGHEST
    await heard(liar, a, b)
    liar.version = -HIGHEST
    await heard(liar, a, b)
    await agreed(until, a, b)
    assert list(a.topology.nodes) == ["a", "b", "liar"]
    steps = len(liar.asked) + 1
    assert before < a.topology.version <= before + steps * STEP, "it moves on, but by small steps"
    a.topology.update_node(a.topology.nodes["a"])
    await agreed(until, a, b)


async def test_asking_at_the_highest_version_does_not_use_the_versions_up(
    mesh: Any, until: Any
) -> None:
    a, b, liar = await mesh()
    before = a.topology.version
    for version in (HIGHEST, -HIGHEST - 1, HIGHEST):
        answer = await liar.call("SyncTopology", "a", a.address, version=version)
        assert sorted(node.id for node in answer.nodes) == ["a", "b", "liar"]
    assert a.topology.version <= before + 3 * STEP
    await agreed(until, a, b)


async def test_a_wiped_list_removes_no_signed_record(mesh: Any, heard: Any) -> None:
    a, b, liar = await mesh()
    await liar.sync(a)
    assert sorted(liar.nodes) == ["a", "b", "liar"]
    records = [a.topology.get_record(node_id) for node_id in ("a", "b")]
    liar.nodes.clear()
    liar.version += 1
    await heard(liar, a, b)
    assert [a.topology.get_record(node_id) for node_id in ("a", "b")] == records
    assert [node.id for node in a.topology.get_service_providers("py", "v1")] == ["a", "b", "liar"]


async def test_another_nodes_id_with_another_address_changes_nothing(mesh: Any, heard: Any) -> None:
    a, b, liar = await mesh()
    records = [a.topology.get_record(node_id) for node_id in ("a", "b")]
    for node_id in ("a", "b"):
        liar.put(node_id, liar.address, "stolen")
    await heard(liar, a, b)
    assert [a.topology.get_record(node_id) for node_id in ("a", "b")] == records
    assert a.topology.get_service_providers("stolen", "v1") == ()
    assert {node.status for node in a.topology.nodes.values()} == {NodeStatus.ALIVE}


async def test_a_node_that_left_does_not_come_back_by_hearsay(
    mesh: Any, heard: Any, until: Any
) -> None:
    a, b, liar = await mesh()
    await liar.sync(a)
    await b.stop()
    await until(lambda: "b" not in a.topology.nodes)
    assert "b" in liar.nodes
    await heard(liar, a)
    assert "b" not in a.topology.nodes


async def test_the_id_of_a_node_that_is_not_there_yet_is_given_up_to_it(
    mesh: Any, start: Any, until: Any
) -> None:
    a, _, liar = await mesh()
    liar.put("c", liar.address, "stolen")
    await until(lambda: "c" in a.topology.nodes)
    c = await start("c", a)
    await until(lambda: a.topology.nodes["c"].address == c.address)
    assert a.topology.nodes["c"].vouched_by is None
    assert a.topology.get_service_providers("stolen", "v1") == ()


@pytest.mark.parametrize("seconds", [-1, -(2**63), 2**63 - 1, 253_402_300_800, 0])
async def test_times_out_of_any_range_are_taken_for_unknown(
    mesh: Any, until: Any, seconds: int
) -> None:
    a, b, liar = await mesh()
    liar.put("liar", liar.address, "late", joined_at=seconds, updated_at=seconds)
    for node in (a, b):
        await until(lambda n=node: n.topology.get_service_providers("late", "v1"))
        joined_at = node.topology.nodes["liar"].joined_at
        assert joined_at is None or joined_at.timestamp() == seconds
    answer = await liar.call("GetTopology", "a", a.address)
    assert sorted(node.id for node in answer.nodes) == ["a", "b", "liar"]


@pytest.mark.parametrize(
    "node_id", ["../x", "localhost", "127.0.0.1", "Upper", "", "ca", "x" * 300, "x y", "\u202e"]
)
async def test_an_id_that_cannot_be_one_is_left_out_and_the_rest_is_not(
    mesh: Any, until: Any, caplog: pytest.LogCaptureFixture, node_id: str
) -> None:
    a, b, liar = await mesh()
    liar.put(node_id, "127.0.0.1:9", "bad")
    liar.put("good", "127.0.0.1:9", "good")
    for node in (a, b):
        await until(lambda n=node: n.topology.get_service_providers("good", "v1"))
        assert sorted(node.topology.nodes) == ["a", "b", "good", "liar"]
    assert "liar lists an invalid node" in caplog.text


@pytest.mark.parametrize(
    "address", ["", "nowhere", ":1", "127.0.0.1:0", "0.0.0.0:1", "unix:/tmp/x", "x" * 3000]
)
async def test_an_address_that_cannot_be_dialled_does_no_harm(
    mesh: Any, until: Any, heard: Any, address: str
) -> None:
    a, b, liar = await mesh()
    liar.put("odd", address, "odd")
    liar.put("good", "127.0.0.1:9", "good")
    await until(lambda: b.topology.get_service_providers("good", "v1"))
    await heard(liar, a, b)
    assert {node.status for node in map(a.topology.get_node, "ab")} == {NodeStatus.ALIVE}
    assert await b.ping_peer("a") > 0


async def test_more_services_than_a_record_holds_are_left_out(
    mesh: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, liar = await mesh()
    liar.put("big", "127.0.0.1:9", *(f"service-{i}" for i in range(1000)))
    liar.put("good", "127.0.0.1:9", "good")
    for node in (a, b):
        await until(lambda n=node: n.topology.get_service_providers("good", "v1"))
        assert "big" not in node.topology.nodes
    assert "big cannot be vouched for" in caplog.text


async def test_an_answer_that_is_too_large_is_an_error_of_this_peer_only(
    mesh: Any, until: Any
) -> None:
    a, _, liar = await mesh()
    liar.nodes = {"x": liar.nodes["liar"]}
    liar.nodes["x"].name = "x" * (5 << 20)
    await until(lambda: a.topology.nodes["liar"].status is NodeStatus.FAILED)
    assert list((await a.sync_topology_with_all_peers()).failed) == ["liar"]
    assert await a.ping_peer("b") > 0


async def test_a_liar_cannot_speak_for_another_node(mesh: Any) -> None:
    a, _, liar = await mesh()
    for name in ("Ping", "GetHealth", "GetNodeInfo", "SyncTopology", "GetTopology"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await liar.call(name, "a", a.address, sender_id="b")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == "sender_id is 'b', the certificate says liar"


async def test_a_provider_that_it_invents_is_never_taken_for_another_node(
    mesh: Any, until: Any, provider: Any, start: Any, say: Any
) -> None:
    a, b, liar = await mesh()
    c = await start("c", a, **provider("c"))
    liar.put("ghost", c.address, "echo")
    await until(lambda: len(b.topology.get_service_providers("echo", "v1")) == 2)
    channel = b.pool.channel("echo", "v1")
    answers = await asyncio.gather(*(say(channel) for _ in range(10)))
    assert {answered for answered, *_ in answers} == {"c"}


def invent(liar: Any, address: str, *ids: str) -> None:
    """Replaces all that the liar lists, but itself, by these."""
    for node_id in [i for i in liar.nodes if i != "liar"]:
        liar.drop(node_id)
    for node_id in ids:
        liar.put(node_id, address)


async def test_nodes_that_it_invents_are_few_whatever_it_lists_and_it_is_named(
    mesh: Any, heard: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, liar = await mesh()
    for answer in range(4):
        invent(liar, "127.0.0.1:9", *(f"ghost-{answer}-{number}" for number in range(2000)))
        await heard(liar, a, b)
    for node in (a, b):
        kept = node.topology.snapshot().records
        assert len(kept) <= 3 + 2 * (MAX_INTRODUCED + 2), "ghosts and tombstones"
        assert {node.topology.nodes[i].status for i in "ab"} == {NodeStatus.ALIVE}
    assert "liar lists more new nodes" in caplog.text
    assert "vouches for" not in caplog.text, "the honest are blamed for nothing"
    invent(liar, "127.0.0.1:9")
    await agreed(until, a, b)
    await until(lambda: list(a.topology.nodes) == ["a", "b", "liar"])


async def test_a_list_of_any_length_is_read_so_far(
    mesh: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, _, liar = await mesh()
    liar.nodes = dict.fromkeys(map(str, range(100_000)), type(liar.nodes["liar"])())
    await until(lambda: "liar lists 100000 nodes; only the first 40000" in caplog.text)
    assert list(a.topology.nodes) == ["a", "b", "liar"]


async def test_an_address_that_it_invents_many_nodes_at_is_left_in_peace(
    mesh: Any,
    heard: Any,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("aegis_core._peers.session.DIALS", 4)
    monkeypatch.setattr("aegis_core._peers.session.DIALS_PER_SECOND", 1e-6)
    dials = 0

    def on_connect(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dials
        dials += 1
        writer.close()

    victim = await asyncio.start_server(on_connect, "127.0.0.1", 0)
    a, b, liar = await mesh()
    address = f"127.0.0.1:{victim.sockets[0].getsockname()[1]}"
    invent(liar, address, *(f"ghost-{number}" for number in range(MAX_INTRODUCED)))
    for node in (a, b):
        await until(lambda n=node: len(n.topology.nodes) == 3 + MAX_INTRODUCED)
    await until(lambda: dials >= 4)
    await heard(liar, a, b)
    assert dials <= 8, "four by each node"
    assert caplog.text.count("no feed from ghost-") <= 4, "a line for each voucher and reason"
    victim.close()


async def test_a_peer_without_a_feed_reads_the_topology_so_often(
    mesh: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, _, liar = await mesh()
    outcomes = []
    async with liar.channel(a.address, "a") as channel:
        stub = aegis_pb2_grpc.MeshServiceStub(channel)
        for number in range(200):
            read = stub.GetTopology if number % 2 else stub.SyncTopology
            kind = aegis_pb2.GetTopologyRequest if number % 2 else aegis_pb2.TopologySyncRequest
            outcomes.append(await read(kind()).code())
    refused = outcomes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert outcomes.count(grpc.StatusCode.OK) == 200 - refused
    assert outcomes[:64].count(grpc.StatusCode.OK) == 64
    assert refused > 0
    assert caplog.text.count("the topology was refused: liar opens more than 5 reads") == 1
    assert await liar.call("Ping", "a", a.address)
