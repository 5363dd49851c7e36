"""A malicious node sends too much of everything that costs other nodes memory or time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_core import PeerInfo
from aegis_discovery.feed import FeedWriter
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import Record

from ..mesh.process import NodeProcess
from .attacker import Attacker, count_instances

MIB = 1 << 20


def peak_memory(process: NodeProcess) -> int:
    """Returns the peak resident memory of a process, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)


async def outcome(call: Any) -> grpc.StatusCode:
    """Reads one message and returns the status of the call; OK if there was a message."""
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_one_peer_can_open_at_most_64_feeds(attacked: Any, logged: Any) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    a, attacker = mesh.nodes[0], mesh.attacker
    before = count_instances(FeedWriter)
    calls = [attacker.watch(a, attacker.request()) for _ in range(500)]
    outcomes = await asyncio.gather(*map(outcome, calls))
    open_now = outcomes.count(grpc.StatusCode.OK)
    assert open_now <= 64
    assert outcomes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 500 - open_now
    assert count_instances(FeedWriter) <= before + 64
    assert len(logged("a feed for mallory was refused")) <= 2, "one line a minute for each reason"
    await mesh.settle()
    await mesh.assert_intact()
    for call in calls:
        call.cancel()
    await mesh.until(lambda: count_instances(FeedWriter) <= before)

    async with asyncio.timeout(15):
        while await outcome(attacker.watch(a, attacker.request())) is not grpc.StatusCode.OK:
            pass  # the limit allows a new feed every 50 ms


async def test_a_request_of_100_mb_is_refused_before_it_is_in_memory(
    victim: NodeProcess, attacker: Attacker
) -> None:
    # gRPC refuses it before any code of the node runs, so the node cannot log it.
    request = attacker.request()
    request.cursor = bytes(100 * MIB)
    before = peak_memory(victim)
    for _ in range(3):
        code = await outcome(attacker.watch(victim, request))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak_memory(victim) < before + 10 * MIB
    assert victim.ask("topology")["topology"]["a"] == "alive"


async def test_a_request_below_the_limit_of_grpc_must_meet_the_limits_of_the_feed(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked("a", "b")
    large = mesh.attacker.request()
    large.cursor = bytes(2 * MIB)
    many = mesh.attacker.request()
    many.services.extend(mesh_pb2.Service(name=f"s-{n}") for n in range(1000))
    for request in (large, many):
        code = await outcome(mesh.attacker.watch(mesh.nodes[0], request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    await mesh.assert_intact()
    assert logged("mallory sent a request for /aegis.mesh.v1.Mesh/Watch", "the limit is 65536")
    assert logged("a feed for mallory was refused: 1000 services were requested")


async def test_a_message_of_100_mb_ends_only_its_own_feed(attacked: Any, logged: Any) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    mesh.attacker.send_bytes(bytes(100 * MIB))
    for node in mesh.nodes:
        await mesh.until(lambda: len(logged("no feed from mallory", "larger than max")) >= 2)
        assert await node.ping_peer("b" if node.id == "a" else "a") > 0
    await mesh.settle()
    await mesh.assert_intact()


async def test_a_message_of_100_mb_is_refused_before_it_is_in_memory(
    victim: NodeProcess, attacker: Attacker, until: Any
) -> None:
    await attacker.join(victim)
    await until(lambda: attacker.watchers)
    before = peak_memory(victim)
    for number in range(3):
        attacker.send_bytes(bytes(100 * MIB))
        await until(lambda n=number: attacker.feeds_served > n + 1)
    assert peak_memory(victim) < before + 10 * MIB
    assert victim.ask("topology")["topology"]["a"] == "alive"
    lines = [line for line in victim.log.read_text().splitlines() if "mallory" in line]
    assert len(lines) == 1, "once a minute"
    assert lines[0].startswith("no feed from mallory")
    assert "larger than max" in lines[0]


async def test_a_record_of_a_megabyte_is_refused_and_not_stored(attacked: Any, logged: Any) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    large = mesh.attacker.record(name="x" * 1_000_000)
    before = count_instances(Record)
    for _ in range(20):
        mesh.attacker.send(large)
    await mesh.settle()
    await mesh.assert_intact()
    assert count_instances(Record) <= before + 2
    lines = logged("from mallory: record of an unknown node refused", "the limit is 4096")
    assert len(lines) == len(mesh.nodes), "one line at each node for all 20 records"


async def test_a_message_of_400_000_empty_records_is_not_read(attacked: Any, logged: Any) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    message = mesh_pb2.WatchResponse()
    message.records.extend(mesh_pb2.SignedRecord() for _ in range(400_000))
    mesh.attacker.send_bytes(message.SerializeToString())
    await mesh.settle()
    await mesh.assert_intact()
    assert len(logged("from mallory: a message of 400000 records")) == len(mesh.nodes)


async def test_a_flood_of_joins_is_rate_limited_and_leaves_nothing_in_memory(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    a, attacker = mesh.nodes[0], mesh.attacker
    before = count_instances(Record)
    refused = 0
    for number in range(300):
        call = attacker.watch(a, attacker.request(attacker.record(f"life-{number}")))
        refused += await outcome(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
        call.cancel()
    assert refused > 100
    assert len(logged("a feed for mallory was refused: mallory opens more than 20")) == 1
    await mesh.settle()
    await mesh.assert_intact()
    assert count_instances(Record) <= before + 4


async def test_a_flood_of_changes_is_relayed_in_few_messages(attacked: Any, identity: Any) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    b, attacker = mesh.nodes[1], mesh.attacker
    before = count_instances(Record)
    visitor = Attacker(identity("visitor"))
    feed = visitor.watch(b, visitor.request())
    assert (await feed.read()).complete
    flood = [attacker.record(f"change-{number}") for number in range(1500)]
    for record in flood:
        attacker.send(record)
    marker = attacker.publish_marker()
    messages = 0
    while True:
        message = await feed.read()
        messages += bool(message.records)
        if any(marker.encode() in record.body for record in message.records):
            break
    assert messages < 100, "1 500 changes at its source"
    await mesh.assert_intact()
    assert count_instances(Record) <= before + 4
    feed.cancel()
    await visitor.stop()


async def test_a_full_mesh_refuses_new_nodes_and_keeps_its_own(
    attacked: Any, start: Any, logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    monkeypatch.setattr("aegis_discovery._topology.limits.MAX_NODES", 3)
    c = await start("c", mesh.nodes[0], join_timeout=0.5)
    assert logged("a feed for c was refused: the mesh is full with 3 nodes; c cannot join")
    assert logged("no feed from a", "the mesh is full with 3 nodes; c cannot join")
    update = mesh.attacker.record("still-there")
    assert await outcome(mesh.attacker.watch(mesh.nodes[0], mesh.attacker.request(update))) is (
        grpc.StatusCode.OK
    )
    await mesh.assert_intact()
    assert "c" not in mesh.nodes[1].topology.nodes
    await c.stop()


async def test_a_watcher_that_does_not_read_costs_little_memory_and_later_gets_the_latest_records(
    attacked: Any, identity: Any
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    a, attacker = mesh.nodes[0], mesh.attacker
    feed = attacker.watch(a, attacker.request())
    assert (await feed.read()).complete
    before = count_instances(Record)
    written = 200
    for number in range(written):
        attacker.send(attacker.record("x" * 3000, f"change-{number}"))
        await mesh.until(lambda n=number: a.topology.get_service_providers(f"change-{n}", "v1"))
    last = f"change-{written - 1}".encode()
    assert count_instances(Record) <= before + 50, (
        "gRPC buffers bytes, at most one flow-control window"
    )
    received: list[bytes] = []
    while not received or last not in received[-1]:
        received += [record.body for record in (await feed.read()).records]
    assert len(received) < written / 2
    await mesh.assert_intact()
    feed.cancel()


async def test_a_node_whose_digest_always_differs_is_logged_and_dialled_again_after_a_pause(
    attacked: Any, logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core._peers.feed.MIN_PAUSE", 3600)
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    a, attacker = mesh.nodes[0], mesh.attacker
    beat = mesh_pb2.WatchResponse(digest=b"another").SerializeToString()
    before = attacker.feeds_served
    for _ in range(5000):
        attacker.send_bytes(beat)
    await mesh.until(lambda: len(logged("no feed from mallory", "again and again")) == 2)
    await a.ping_peer("b")
    assert attacker.feeds_served == before + 2, (
        "each node watched it again once, at once, and then paused"
    )
    joining = attacker.watch(a, attacker.request(attacker.record("news")))
    await mesh.until(lambda: attacker.feeds_served == before + 4)
    joining.cancel()


async def test_an_error_in_an_exchange_with_a_lost_node_is_logged_with_its_name(
    attacked: Any, logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await attacked("a", "b")
    a, attacker = mesh.nodes[0], mesh.attacker
    session = a._running.session

    def fail(_received: Any) -> None:
        raise RuntimeError("an internal error")

    monkeypatch.setattr(session, "message_received", fail)
    session._exchange(PeerInfo("mallory", attacker.address), time.monotonic(), 5.0, None)
    await mesh.until(lambda: logged(f"an exchange with mallory at {attacker.address} failed"))
