"""Seed peers with a valid certificate that do not serve a client."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from aegis_discovery import aio
from aegis_discovery.proto import mesh_pb2

from .attacker import Attacker


class BadSeed(Attacker):
    """Sends a complete message with its own record, and then serves badly."""

    then = "silence"
    is_mute = False

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.feeds_served += 1
        chains = [mesh_pb2.Chain(certificates=self.chain)]
        first = mesh_pb2.WatchResponse(
            chains=chains, records=[self.record("bait")], complete=True, cursor=b"any"
        )
        if not self.is_mute:
            yield first.SerializeToString()
        while self.then == "garbage":
            yield b"\xff" * 64
        while self.then == "never complete":
            yield mesh_pb2.WatchResponse(
                chains=chains, records=[self.record("bait")], cursor=b"any"
            ).SerializeToString()
            await asyncio.sleep(0.5)
        if self.then == "silence":
            await asyncio.Event().wait()


StartSeed = Callable[..., Awaitable[BadSeed]]


@pytest.fixture
async def bad_seed(identity: Any) -> AsyncIterator[StartSeed]:
    started: list[BadSeed] = []

    async def start(node_id: str, then: str, *, is_mute: bool = False) -> BadSeed:
        seed = BadSeed(identity(node_id))
        seed.then, seed.is_mute = then, is_mute
        await seed.start()
        started.append(seed)
        return seed

    yield start
    for seed in started:
        await seed.stop()


@pytest.fixture
def silent_address() -> Iterator[str]:
    """An address that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("then", ["silence", "garbage", "end"])
async def test_a_client_leaves_a_seed_that_serves_it_badly_after_one_message(
    then: str, bad_seed: StartSeed, start: Any, identity: Any, until: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "aegis")
    bad, a = await bad_seed("mallory", then), await start("a")
    async with aio.connect(bad.address, a.address, tls=identity("client")) as mesh:
        await until(lambda: "a" in mesh.topology.nodes)
    assert bad.feeds_served == 1
    assert [record for record in caplog.records if record.exc_info] == []
    lines = [record.getMessage() for record in caplog.records if record.name == "aegis.client"]
    said = {"silence": "sent nothing for 4 s", "garbage": "sent what is no message of a feed"}
    assert len([line for line in lines if said.get(then, "mallory") in line]) == (then in said)


async def test_a_client_leaves_a_seed_whose_topology_is_never_complete(
    bad_seed: StartSeed, start: Any, identity: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aegis")
    bad, a = await bad_seed("mallory", "never complete", is_mute=True), await start("a")
    async with aio.connect(bad.address, a.address, tls=identity("client"), timeout=20) as mesh:
        assert "a" in mesh.topology.nodes
    assert "mallory did not send the whole topology in time" in caplog.text


async def test_an_address_where_a_node_is_not_does_not_keep_a_client_from_its_other_address(
    start: Any, identity: Any
) -> None:
    a, b = await start("a"), await start("b")
    seeds = [f"a@{b.address}", "a@127.0.0.1:9", a.address]
    async with aio.connect(*seeds, tls=identity("client"), timeout=8) as mesh:
        assert "a" in mesh.topology.nodes


async def test_a_client_finds_the_one_good_seed_among_three_bad_ones(
    bad_seed: StartSeed, silent_address: str, start: Any, identity: Any, until: Any
) -> None:
    mute, garbage = await bad_seed("m1", "silence", is_mute=True), await bad_seed("m2", "garbage")
    a = await start("a")
    seeds = [silent_address, mute.address, garbage.address, a.address]
    async with aio.connect(*seeds, tls=identity("client")) as mesh:
        await until(lambda: "a" in mesh.topology.nodes)


async def test_a_node_logs_one_named_line_where_a_peer_sends_garbage(
    attacked: Any, logged: Callable[..., list[str]], until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = await attacked("a", "b")
    await mesh.wait_until_watched()
    mesh.attacker.send_bytes(b"\xff" * 64)
    await until(lambda: len(logged("mallory", "no message of a feed")) == 2)  # one for each node
    assert [record for record in caplog.records if record.exc_info] == []
