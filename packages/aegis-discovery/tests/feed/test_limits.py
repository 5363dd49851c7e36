from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from aegis_discovery import InvalidRecordError
from aegis_discovery.aio.feed import follow
from aegis_discovery.feed import request_problem, split_message
from aegis_discovery.feed._limits import (
    MAX_CHECKS,
    MAX_JOIN_CHECKS,
    MIN_JOIN_CHECKS,
    PART_SECONDS,
)
from aegis_discovery.feed._parts import PartSize
from aegis_discovery.proto import mesh_pb2
from aegis_discovery.records import Opinion

from .conftest import MESH, MakeSide, Side, vouch, vouch_for


def test_a_chain_that_would_swell_every_feed_is_refused(side: MakeSide) -> None:
    server, watcher = side("server"), side("watcher")
    junk = (*server.chain, *[server.chain[0]] * 50)
    with pytest.raises(InvalidRecordError, match="51 certificates"):
        watcher.verifier.add_chain(junk)


def test_a_message_of_more_items_than_any_honest_one_is_ignored(
    server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture
) -> None:
    reader = side("reader")
    flood = mesh_pb2.WatchResponse(records=[server.record()])
    flood.records.extend(mesh_pb2.SignedRecord() for _ in range(100_000))
    assert not reader.reader.receive(flood, source="liar").complete
    statuses = mesh_pb2.WatchResponse(complete=True)
    statuses.statuses.extend(mesh_pb2.DerivedStatus() for _ in range(100_000))
    assert not reader.reader.receive(statuses, source="liar").complete
    assert list(reader.topology.nodes) == ["reader"]
    (logged,) = [record.message for record in caplog.records]
    assert logged.startswith("from liar: a message of 100001 records")


def test_a_source_that_keeps_sending_rubbish_does_not_fill_the_log(
    server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture
) -> None:
    reader = side("reader")
    rubbish = mesh_pb2.WatchResponse()
    rubbish.records.extend(mesh_pb2.SignedRecord(body=b"\xff%d" % i) for i in range(1000))
    for source in ("liar", "other-liar"):
        reader.reader.receive(rubbish, source=source)
        reader.reader.receive(rubbish, source=source)
    lines = [record.message for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["from liar", "from other-liar"]


def test_a_cursor_that_would_swell_every_request_is_ignored(
    server: Side, side: MakeSide, caplog: pytest.LogCaptureFixture
) -> None:
    client = side("client", is_node=False)
    client.pull(client.open(server))
    client.reader.receive(mesh_pb2.WatchResponse(cursor=bytes(100_000)), source="server")
    assert client.reader.request(MESH, source="server").cursor == b""
    (logged,) = [record.message for record in caplog.records]
    assert logged == "from server: a cursor of 100000 bytes was ignored; the limit is 64"
    client.pull(client.open(server))
    assert client.reader.request(MESH, source="server").cursor


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (mesh_pb2.WatchRequest(cursor=bytes(65_536)), "the limit is 65536"),
        (
            mesh_pb2.WatchRequest(services=[mesh_pb2.Service(name="x")] * 65),
            "65 services were requested, the limit is 64",
        ),
        (
            mesh_pb2.WatchRequest(services=[mesh_pb2.Service(name="x" * 257)]),
            "256 characters at most",
        ),
        (
            mesh_pb2.WatchRequest(services=[mesh_pb2.Service(name="x", version="1" * 257)]),
            "256 characters at most",
        ),
        (mesh_pb2.WatchRequest(services=[mesh_pb2.Service(version="v1")]), "has no name"),
        (
            mesh_pb2.WatchRequest(
                services=[mesh_pb2.Service(name="x")], record=mesh_pb2.SignedRecord()
            ),
            "a node needs the whole feed",
        ),
        (mesh_pb2.WatchRequest(services=[mesh_pb2.Service(name="x")] * 64), ""),
        (mesh_pb2.WatchRequest(record=mesh_pb2.SignedRecord(body=bytes(4096))), ""),
    ],
)
def test_a_request_beyond_the_limits_of_a_feed_is_refused(
    request_: mesh_pb2.WatchRequest, problem: str
) -> None:
    why = request_problem(request_)
    assert problem in why
    assert bool(problem) == bool(why)


def checks_of(message: mesh_pb2.WatchResponse) -> int:
    chains = sum(len(chain.certificates) for chain in message.chains)
    return len(message.records) + len(message.verdicts) + chains


def test_a_large_message_is_split_into_parts_that_stand_alone(server: Side, side: MakeSide) -> None:
    for number in range(MAX_CHECKS):
        voucher = side(f"voucher-{number}")
        vouch_for(voucher, [f"go-{number}-{i}" for i in range(3)])
        server.pull(server.open(voucher))
        server.topology.publish_verdict(voucher.id, Opinion.SUSPECT)
    watcher = side("watcher")
    whole = mesh_pb2.WatchResponse()
    for message in watcher.open(server).messages():
        whole.MergeFrom(message)
    cut = list(split_message(whole))
    assert len(cut) > 5
    assert max(map(checks_of, cut)) <= MAX_CHECKS + 1
    assert sum(map(checks_of, cut)) == checks_of(whole)
    results = []
    for part in cut:
        results.append(watcher.reader.receive(part, source="server"))
        watcher.verifier.retain(watcher.topology.signers)
    assert [received.complete for received in results] == [False] * (len(cut) - 1) + [True]
    assert [bool(part.cursor) for part in cut] == [False] * (len(cut) - 1) + [True]
    assert watcher.topology.nodes.keys() == server.topology.nodes.keys() | {"watcher"}
    assert all(watcher.topology.get_verdict(f"voucher-{i}", "server") for i in range(MAX_CHECKS))
    assert watcher.open(server).heartbeat().digest == server.topology.digest


def test_chains_that_nothing_needs_are_spread_over_the_parts(server: Side, other_ca: Any) -> None:
    stranger = Side(other_ca.issue_in_memory("stranger"))
    junk = mesh_pb2.Chain(certificates=[*server.chain, *stranger.chain * 7])
    needless = mesh_pb2.Chain(certificates=stranger.chain * 8)
    good = mesh_pb2.Chain(certificates=server.chain)
    message = mesh_pb2.WatchResponse(
        chains=[good, *[junk, needless] * 50, mesh_pb2.Chain()], records=[server.record()]
    )
    cut = list(split_message(message))
    assert max(map(checks_of, cut)) <= MAX_CHECKS + 8
    assert [len(part.records) for part in cut] == [0] * (len(cut) - 1) + [1]
    assert list(cut[-1].chains)[-1] == good
    assert sum(len(part.chains) for part in cut) == 102


def test_a_message_that_will_be_ignored_is_not_split() -> None:
    flood = mesh_pb2.WatchResponse(chains=[mesh_pb2.Chain()] * 5000)
    assert [len(part.chains) for part in split_message(flood)] == [5000]


class Tape:
    """The messages of a feed, as `follow` reads them off a channel."""

    def __init__(self, *messages: mesh_pb2.WatchResponse) -> None:
        self._messages = list(messages)

    def unary_stream(self, *_: object, **__: object) -> Callable[..., Tape]:
        return lambda _request: self

    async def read(self) -> object:
        return self._messages.pop(0).SerializeToString() if self._messages else grpc.aio.EOF

    def cancel(self) -> None:
        """As a call."""


async def test_other_tasks_run_while_a_large_message_is_received(
    server: Side, side: MakeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aegis_discovery._client.follow.SLICE", 0.0)
    for number in range(150):
        vouch(server, f"go-{number}")
    watcher = side("watcher")
    (message,) = watcher.open(server).messages()
    known: list[int] = []

    async def look() -> None:
        while True:
            known.append(len(watcher.topology.nodes))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    request = watcher.reader.request(MESH, source="server")
    feed: Any = Tape(message)
    await follow(feed, watcher.reader, request, source="server", on_message=lambda _: None)
    looking.cancel()
    assert len(watcher.topology.nodes) == 152
    assert len(set(known)) >= 2, "it saw the number grow"


@pytest.mark.parametrize(("burst", "pauses"), [(0.0, 4), (60.0, 1)])
async def test_a_feed_pauses_after_bursts_until_it_is_complete(
    server: Side, side: MakeSide, monkeypatch: pytest.MonkeyPatch, burst: float, pauses: int
) -> None:
    monkeypatch.setattr("aegis_discovery._client.follow.SLICE", 0.0)
    monkeypatch.setattr("aegis_discovery._client.follow.BURST", burst)
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr("aegis_discovery._client.follow.loop_timers.sleep", sleep)
    for number in range(150):
        vouch(server, f"go-{number}")
    watcher = side("watcher")
    (message,) = watcher.open(server).messages()
    assert len(list(split_message(message, lambda: MAX_JOIN_CHECKS))) == 2
    request = watcher.reader.request(MESH, source="server")
    feed: Any = Tape(message, mesh_pb2.WatchResponse(version=message.version))
    began = time.monotonic()
    await follow(feed, watcher.reader, request, source="server", on_message=lambda _: None)
    assert len(paused) == pauses + 1, "the last one after a message on the complete feed"
    assert sum(paused) <= time.monotonic() - began, "it pauses for as long as it worked"


@pytest.mark.parametrize(
    ("per_check", "largest"),
    [
        (0.05e-3, MAX_JOIN_CHECKS),  # RSA keys
        (0.6e-3, 41),  # P-384 keys
        (1.8e-3, MAX_CHECKS),  # the same on a slow machine: the first two parts only
    ],
)
async def test_parts_of_a_join_are_as_large_as_the_time_of_a_check_allows(
    server: Side, side: MakeSide, monkeypatch: pytest.MonkeyPatch, per_check: float, largest: int
) -> None:
    for number in range(150):
        vouch(server, f"go-{number}")
    watcher = side("watcher")
    (message,) = watcher.open(server).messages()
    message.complete = False
    used = 0.0
    sizes: list[int] = []
    receive = watcher.reader.receive

    def receive_slowly(part: Any, *, source: str) -> object:
        nonlocal used
        sizes.append(checks_of(part))
        used += sizes[-1] * per_check
        return receive(part, source=source)

    monkeypatch.setattr(watcher.reader, "receive", receive_slowly)
    monkeypatch.setattr(time, "thread_time", lambda: used)
    request = watcher.reader.request(MESH, source="server")
    feed: Any = Tape(message, message, message)
    await follow(feed, watcher.reader, request, source="server", on_message=lambda _: None)
    assert len(watcher.topology.nodes) == 152
    assert largest - 1 <= max(sizes) <= largest + 1
    assert max(sizes[2:]) <= max(PART_SECONDS / per_check, MIN_JOIN_CHECKS) + 1


def test_cheap_parts_of_a_join_make_the_next_ones_larger_only_slowly() -> None:
    size, part = PartSize(), mesh_pb2.WatchResponse(records=[mesh_pb2.SignedRecord()] * 32)
    size.received(part, PART_SECONDS, complete=False)
    before = size()
    size.received(part, 0.0, complete=False)
    assert before < size() <= 1.3 * before
    for _ in range(10):
        size.received(part, 0.0, complete=False)
    assert size() == MAX_JOIN_CHECKS
    size.received(part, PART_SECONDS, complete=False)
    assert size() == MAX_JOIN_CHECKS, "it may have been the garbage collector"
    size.received(part, PART_SECONDS, complete=False)
    assert size() == before
    size.received(part, 0.0, complete=True)
    assert size() == MAX_CHECKS
