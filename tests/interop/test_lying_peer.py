"""A malicious unsigned peer cannot change the records of signed nodes."""

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
    """Starts two nodes that provide `py`, and a malicious peer that the first one polls."""

    async def make() -> tuple[Any, Any, Any]:
        a = await start("a", services=[ServiceInfo("py", "v1")])
        b = await start("b", a, services=[ServiceInfo("py", "v1")])
        liar = await start_go("liar", "py")
        a.add_peer(PeerInfo("liar", liar.address))
        await until(lambda: all("liar" in node.topology.nodes for node in (a, b)))
        return a, b, liar

    return make


@pytest.fixture
def wait_for_polls(until: Any) -> Any:
    """Waits until every node polled the peer twice more, so that one new response was processed."""

    async def wait(liar: Any, *nodes: Any) -> None:
        before = {node.id: liar.sync_senders.count(node.id) for node in nodes}
        await until(lambda: all(liar.sync_senders.count(i) > n + 1 for i, n in before.items()))

    return wait


async def wait_for_equal_topologies(until: Any, a: Any, b: Any) -> None:
    await until(
        lambda: (a.topology.version, a.topology.digest) == (b.topology.version, b.topology.digest)
    )


async def test_an_empty_topology_with_the_highest_version_removes_nothing(
    mesh: Any, wait_for_polls: Any, until: Any
) -> None:
    a, b, liar = await mesh()
    before = a.topology.version
    liar.nodes, liar.version = {}, HIGHEST
    await wait_for_polls(liar, a, b)
    liar.version = -HIGHEST
    await wait_for_polls(liar, a, b)
    await wait_for_equal_topologies(until, a, b)
    assert list(a.topology.nodes) == ["a", "b", "liar"]
    steps = len(liar.sync_senders) + 1
    assert before < a.topology.version <= before + steps * STEP, (
        "the version rises only in small steps"
    )
    a.topology.update_node(a.topology.nodes["a"])
    await wait_for_equal_topologies(until, a, b)


async def test_a_request_at_the_highest_version_leaves_room_for_later_versions(
    mesh: Any, until: Any
) -> None:
    a, b, liar = await mesh()
    before = a.topology.version
    for version in (HIGHEST, -HIGHEST - 1, HIGHEST):
        answer = await liar.call("SyncTopology", "a", a.address, version=version)
        assert sorted(node.id for node in answer.nodes) == ["a", "b", "liar"]
    assert a.topology.version <= before + 3 * STEP
    await wait_for_equal_topologies(until, a, b)


async def test_an_emptied_list_removes_no_signed_record(mesh: Any, wait_for_polls: Any) -> None:
    a, b, liar = await mesh()
    await liar.sync(a)
    assert sorted(liar.nodes) == ["a", "b", "liar"]
    records = [a.topology.get_record(node_id) for node_id in ("a", "b")]
    liar.nodes.clear()
    liar.version += 1
    await wait_for_polls(liar, a, b)
    assert [a.topology.get_record(node_id) for node_id in ("a", "b")] == records
    assert [node.id for node in a.topology.get_service_providers("py", "v1")] == ["a", "b", "liar"]


async def test_a_false_address_for_a_signed_node_changes_nothing(
    mesh: Any, wait_for_polls: Any
) -> None:
    a, b, liar = await mesh()
    records = [a.topology.get_record(node_id) for node_id in ("a", "b")]
    for node_id in ("a", "b"):
        liar.put(node_id, liar.address, "stolen")
    await wait_for_polls(liar, a, b)
    assert [a.topology.get_record(node_id) for node_id in ("a", "b")] == records
    assert a.topology.get_service_providers("stolen", "v1") == ()
    assert {node.status for node in a.topology.nodes.values()} == {NodeStatus.ALIVE}


async def test_a_node_that_left_does_not_return_because_an_unsigned_peer_lists_it(
    mesh: Any, wait_for_polls: Any, until: Any
) -> None:
    a, b, liar = await mesh()
    await liar.sync(a)
    await b.stop()
    await until(lambda: "b" not in a.topology.nodes)
    assert "b" in liar.nodes
    await wait_for_polls(liar, a)
    assert "b" not in a.topology.nodes


async def test_a_node_that_joins_replaces_an_invented_node_with_its_id(
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
async def test_times_out_of_range_count_as_unknown(mesh: Any, until: Any, seconds: int) -> None:
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
async def test_only_the_node_with_an_invalid_id_is_ignored(
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
async def test_an_address_that_cannot_be_dialled_disturbs_no_other_node(
    mesh: Any, until: Any, wait_for_polls: Any, address: str
) -> None:
    a, b, liar = await mesh()
    liar.put("odd", address, "odd")
    liar.put("good", "127.0.0.1:9", "good")
    await until(lambda: b.topology.get_service_providers("good", "v1"))
    await wait_for_polls(liar, a, b)
    assert {node.status for node in map(a.topology.get_node, "ab")} == {NodeStatus.ALIVE}
    assert await b.ping_peer("a") > 0


async def test_a_node_with_more_services_than_fit_into_a_record_is_ignored(
    mesh: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, liar = await mesh()
    liar.put("big", "127.0.0.1:9", *(f"service-{i}" for i in range(1000)))
    liar.put("good", "127.0.0.1:9", "good")
    for node in (a, b):
        await until(lambda n=node: n.topology.get_service_providers("good", "v1"))
        assert "big" not in node.topology.nodes
    assert "big cannot be vouched for" in caplog.text


async def test_a_response_that_is_too_large_fails_only_this_peer(mesh: Any, until: Any) -> None:
    a, _, liar = await mesh()
    liar.nodes = {"x": liar.nodes["liar"]}
    liar.nodes["x"].name = "x" * (5 << 20)
    await until(lambda: a.topology.nodes["liar"].status is NodeStatus.FAILED)
    assert list((await a.sync_topology_with_all_peers()).failed) == ["liar"]
    assert await a.ping_peer("b") > 0


async def test_a_peer_cannot_send_the_id_of_another_node(mesh: Any) -> None:
    a, _, liar = await mesh()
    for name in ("Ping", "GetHealth", "GetNodeInfo", "SyncTopology", "GetTopology"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await liar.call(name, "a", a.address, sender_id="b")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == "sender_id is 'b', the certificate says liar"


async def test_calls_to_an_invented_provider_reach_only_the_real_one(
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
    """Replaces all nodes that the peer lists, except itself, with these."""
    for node_id in [i for i in liar.nodes if i != "liar"]:
        liar.drop(node_id)
    for node_id in ids:
        liar.put(node_id, address)


async def test_only_a_few_invented_nodes_are_kept_and_the_peer_is_named_in_the_log(
    mesh: Any, wait_for_polls: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, liar = await mesh()
    for answer in range(4):
        invent(liar, "127.0.0.1:9", *(f"ghost-{answer}-{number}" for number in range(500)))
        await wait_for_polls(liar, a, b)
    for node in (a, b):
        kept = node.topology.snapshot().records
        assert len(kept) <= 3 + 2 * (MAX_INTRODUCED + 2), "invented nodes and their tombstones"
        assert {node.topology.nodes[i].status for i in "ab"} == {NodeStatus.ALIVE}
    assert "liar lists more new nodes" in caplog.text
    assert "vouches for" not in caplog.text, "no honest node is named in a warning"
    invent(liar, "127.0.0.1:9")
    await wait_for_equal_topologies(until, a, b)
    await until(lambda: list(a.topology.nodes) == ["a", "b", "liar"])


async def test_only_the_first_part_of_a_very_long_list_is_read(
    mesh: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, _, liar = await mesh()
    liar.nodes = dict.fromkeys(map(str, range(41_000)), type(liar.nodes["liar"])())
    await until(lambda: "liar lists 41000 nodes; only the first 40000" in caplog.text)
    assert list(a.topology.nodes) == ["a", "b", "liar"]


async def test_an_address_with_many_invented_nodes_is_dialled_only_a_few_times(
    mesh: Any,
    wait_for_polls: Any,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("aegis_core._peers.session.DIALS", 4)
    monkeypatch.setattr("aegis_core._peers.session.DIALS_PER_SECOND", 1e-6)
    dialled: list[asyncio.StreamWriter] = []

    def on_connect(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.append(writer)  # left open at first: gRPC repeats connections that are closed

    victim = await asyncio.start_server(on_connect, "127.0.0.1", 0)
    a, b, liar = await mesh()
    address = f"127.0.0.1:{victim.sockets[0].getsockname()[1]}"
    invent(liar, address, *(f"ghost-{number}" for number in range(MAX_INTRODUCED)))
    for node in (a, b):
        await until(lambda n=node: len(n.topology.nodes) == 3 + MAX_INTRODUCED)
    await until(lambda: len(dialled) >= 4)
    await wait_for_polls(liar, a, b)
    assert len(dialled) <= 8, "at most four by each node"
    victim.close()
    for writer in dialled:
        writer.close()
    await until(lambda: "no feed from ghost-" in caplog.text)
    assert caplog.text.count("no feed from ghost-") <= 4, "one line for each voucher and reason"


async def test_reads_of_the_topology_by_an_unsigned_peer_are_rate_limited(
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
