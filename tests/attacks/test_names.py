"""A member whose certificate TLS also accepts for another node: it has that node's id as a host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_discovery.aio import connect
from aegis_discovery.aio.transport import open_channel

from .attacker import Attacker

each_server = pytest.mark.parametrize("server", ["aio", "blocking", "public"], indirect=True)


@pytest.fixture
def forger(ca: CertificateAuthority, tmp_path: Path) -> CertificateAuthority:
    """The same CA without its inventory: it cannot see that a host is the id of a node."""
    tmp_path.chmod(0o700)
    for name in ("ca-cert.pem", "ca-key.pem"):
        path = tmp_path / name
        path.write_bytes((ca.directory / name).read_bytes())
        path.chmod(0o600)
    return CertificateAuthority.load(tmp_path)


@pytest.fixture
async def impostor(
    forger: CertificateAuthority,
) -> AsyncIterator[Callable[[str], Awaitable[Attacker]]]:
    """Starts an attacker whose certificate has a host."""
    attackers: list[Attacker] = []

    async def start(host: str) -> Attacker:
        attacker = Attacker(forger.issue("mallory", hosts=[host], key_type=KeyType.P256))
        attackers.append(attacker)
        await attacker.start()
        return attacker

    yield start
    for attacker in attackers:
        await attacker.stop()


async def refusal(attacker: Attacker, node: Any) -> str:
    """Makes a call of a service of the node's; returns why it is refused."""
    async with open_channel(attacker.tls, node.id, node.address) as channel:
        call = channel.unary_unary("/test.Echo/Say")(b"", timeout=10)
        code = await call.code()
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
        return str(await call.details())


async def read_to_end(call: Any) -> None:
    async with asyncio.timeout(15):
        while await call.read() is not grpc.aio.EOF:
            pass


@each_server
@pytest.mark.usefixtures("server")
async def test_who_has_the_name_of_a_known_node_may_neither_call_nor_publish(
    start: Any, provider: Any, impostor: Any, until: Any, agree: Any
) -> None:
    a = await start("a", **provider("a"))
    b = await start("b", a, **provider("b"))
    await until(lambda: agree(a, b))
    mallory = await impostor("b")
    for node in (a, b):
        assert "mallory is also valid for 'b'" in await refusal(mallory, node)
        with pytest.raises(grpc.aio.AioRpcError, match="also valid for 'b'"):
            await mallory.join(node)
    assert a.topology.nodes.keys() == b.topology.nodes.keys() == {"a", "b"}


@each_server
@pytest.mark.usefixtures("server")
async def test_a_node_that_joins_ends_what_a_member_with_its_name_does(
    start: Any, provider: Any, identity: Any, impostor: Any, until: Any, logged: Any
) -> None:
    a = await start("a", **provider("a"))
    b = await start("b", a)
    mallory = await impostor("late")
    await mallory.join(a)
    assert await refusal(mallory, a) == ""
    call = mallory.watch(a, mallory.request())
    await call.read()
    async with await connect(b.address, tls=identity("visitor")) as client:
        views = [a.topology, b.topology, client.topology]
        await until(lambda: all("mallory" in view.nodes for view in views))
        late = await start("late", b)
        await until(lambda: [view for view in views if "late" not in view.nodes] == [])
        await until(lambda: [view for view in views if "mallory" in view.nodes] == [])
        assert "also valid for 'late'" in await refusal(mallory, a)
        with pytest.raises(grpc.aio.AioRpcError, match="also valid for 'late'"):
            await read_to_end(call)
        assert logged("mallory is refused from now on", "late")
        await late.stop()
        await until(lambda: [view for view in views if "late" in view.nodes] == [])
        assert await refusal(mallory, a) == "", "nobody has the name any more"
