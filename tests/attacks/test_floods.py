"""A member of the mesh sends too much: of everything that costs the others memory or time."""

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
from .attacker import Attacker, held

MIB = 1 << 20


def peak_of(process: NodeProcess) -> int:
    """The most memory that a process ever held, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)


async def outcome(call: Any) -> grpc.StatusCode:
    """Reads one message; OK where there was one."""
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_thousand_feeds_are_64(attacked: Any, logged: Any) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    a, attacker = mesh.nodes[0], mesh.attacker
    before = held(FeedWriter)
    calls = [attacker.watch(a, attacker.request()) for _ in range(1000)]
    outcomes = await asyncio.gather(*map(outcome, calls))
    open_now = outcomes.count(grpc.StatusCode.OK)
    assert open_now <= 64
    assert outcomes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 1000 - open_now
    assert held(FeedWriter) <= before + 64
    assert len(logged("a feed for mallory was refused")) <= 2, "a line a minute for each reason"
    await mesh.settle()
    await mesh.is_right()
    for call in calls:
        call.cancel()
    await mesh.until(lambda: held(FeedWriter) <= before)

    async with asyncio.timeout(15):
        while await outcome(attacker.watch(a, attacker.request())) is not grpc.StatusCode.OK:
            pass  # one that it may open comes every 50 ms


async def test_a_request_of_100_mb_is_refused_before_it_is_held(
    victim: NodeProcess, attacker: Attacker
) -> None:
    # gRPC refuses it before any code of a node runs, so nothing of a node can log it.
    request = attacker.request()
    request.cursor = bytes(100 * MIB)
    before = peak_of(victim)
    for _ in range(3):
        code = await outcome(attacker.watch(victim, request))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak_of(victim) < before + 10 * MIB
    assert victim.ask("topology")["topology"]["a"] == "alive"


async def test_a_request_that_grpc_takes_is_measured_again(attacked: Any, logged: Any) -> None:
    mesh = await attacked("a", "b")
    large = mesh.attacker.request()
    large.cursor = bytes(2 * MIB)
    many = mesh.attacker.request()
    many.services.extend(mesh_pb2.Service(name=f"s-{n}") for n in range(1000))
    for request in (large, many):
        code = await outcome(mesh.attacker.watch(mesh.nodes[0], request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    await mesh.is_right()
    assert logged("a feed for mallory was refused: the request has", "the limit is 65536")
    assert logged("a feed for mallory was refused: 1000 services were requested")


async def test_a_message_of_100_mb_ends_its_feed_and_nothing_else(
    attacked: Any, logged: Any
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    mesh.attacker.say(bytes(100 * MIB))
    for node in mesh.nodes:
        await mesh.until(lambda: len(logged("no feed from mallory", "larger than max")) >= 2)
        assert await node.ping_peer("b" if node.id == "a" else "a") > 0
    await mesh.settle()
    await mesh.is_right()


async def test_a_message_of_100_mb_is_refused_before_it_is_held(
    victim: NodeProcess, attacker: Attacker, until: Any
) -> None:
    await attacker.join(victim)
    await until(lambda: attacker.watchers)
    before = peak_of(victim)
    for number in range(3):
        attacker.say(bytes(100 * MIB))
        await until(lambda n=number: attacker.feeds_served > n + 1)
    assert peak_of(victim) < before + 10 * MIB
    assert victim.ask("topology")["topology"]["a"] == "alive"
    lines = [line for line in victim.log.read_text().splitlines() if "mallory" in line]
    assert len(lines) == 1, "once a minute"
    assert lines[0].startswith("no feed from mallory")
    assert "larger than max" in lines[0]


async def test_a_record_of_a_megabyte_is_refused_and_not_kept(attacked: Any, logged: Any) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    large = mesh.attacker.record(name="x" * 1_000_000)
    before = held(Record)
    for _ in range(20):
        mesh.attacker.tell(large)
    await mesh.settle()
    await mesh.is_right()
    assert held(Record) <= before + 2
    lines = logged("from mallory: record of an unknown node refused", "the limit is 4096")
    assert len(lines) == len(mesh.nodes), "once at each, however often"


async def test_a_message_of_a_million_nothings_is_left_unread(attacked: Any, logged: Any) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    nothings = mesh_pb2.WatchResponse()
    nothings.records.extend(mesh_pb2.SignedRecord() for _ in range(400_000))
    mesh.attacker.say(nothings.SerializeToString())
    await mesh.settle()
    await mesh.is_right()
    assert len(logged("from mallory: a message of 400000 records")) == len(mesh.nodes)


async def test_a_flood_of_joins_is_slowed_down_and_forgotten(attacked: Any, logged: Any) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    a, attacker = mesh.nodes[0], mesh.attacker
    before = held(Record)
    refused = 0
    for number in range(300):
        call = attacker.watch(a, attacker.request(attacker.record(f"life-{number}")))
        refused += await outcome(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
        call.cancel()
    assert refused > 100
    assert len(logged("a feed for mallory was refused: mallory opens more than 20")) == 1
    await mesh.settle()
    await mesh.is_right()
    assert held(Record) <= before + 4


async def test_a_flood_of_changes_is_a_trickle_at_the_next_edge(
    attacked: Any, identity: Any
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    b, attacker = mesh.nodes[1], mesh.attacker
    before = held(Record)
    visitor = Attacker(identity("visitor"))
    feed = visitor.watch(b, visitor.request())
    assert (await feed.read()).complete
    flood = [attacker.record(f"change-{number}") for number in range(1500)]
    for record in flood:
        attacker.tell(record)
    marker = attacker.mark()
    messages = 0
    while True:
        message = await feed.read()
        messages += bool(message.records)
        if any(marker.encode() in record.body for record in message.records):
            break
    assert messages < 100, "1 500 changes at its source"
    await mesh.is_right()
    assert held(Record) <= before + 4
    feed.cancel()
    await visitor.stop()


async def test_a_full_mesh_lets_in_nobody_else_and_forgets_nobody(
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
    await mesh.is_right()
    assert "c" not in mesh.nodes[1].topology.nodes
    await c.stop()


async def test_a_watcher_that_does_not_read_gets_the_latest_and_costs_nothing(
    attacked: Any, identity: Any
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    a, attacker = mesh.nodes[0], mesh.attacker
    feed = attacker.watch(a, attacker.request())
    assert (await feed.read()).complete
    before = held(Record)
    written = 200
    for number in range(written):
        attacker.tell(attacker.record("x" * 3000, f"change-{number}"))
        await mesh.until(lambda n=number: a.topology.get_service_providers(f"change-{n}", "v1"))
    last = f"change-{written - 1}".encode()
    assert held(Record) <= before + 50, "what gRPC holds of it is bytes, and a window full"
    told = []
    while not told or last not in told[-1]:
        told += [record.body for record in (await feed.read()).records]
    assert len(told) < written / 2
    await mesh.is_right()
    feed.cancel()


async def test_a_server_that_is_apart_all_the_time_is_named_and_dialled_after_a_pause(
    attacked: Any, logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_core._peers.feed.MIN_PAUSE", 3600)
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    a, attacker = mesh.nodes[0], mesh.attacker
    beat = mesh_pb2.WatchResponse(digest=b"another").SerializeToString()
    before = attacker.feeds_served
    for _ in range(5000):
        attacker.say(beat)
    await mesh.until(lambda: len(logged("no feed from mallory", "again and again")) == 2)
    await a.ping_peer("b")
    assert attacker.feeds_served == before + 2, "once each at once, and no more"
    news = attacker.watch(a, attacker.request(attacker.record("news")))
    await mesh.until(lambda: attacker.feeds_served == before + 4)
    news.cancel()


async def test_what_fails_in_an_exchange_with_a_lost_node_names_it(
    attacked: Any, logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = await attacked("a", "b")
    a, attacker = mesh.nodes[0], mesh.attacker
    session = a._running.session

    def fail(_received: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(session, "message_received", fail)
    session._exchange(PeerInfo("mallory", attacker.address), time.monotonic(), 5.0)
    await mesh.until(lambda: logged(f"an exchange with mallory at {attacker.address} failed"))
