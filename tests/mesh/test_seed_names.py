"""Seed peers that are host names: dead ones, and ones with the addresses of many nodes."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aegis_core import JoinError
from aegis_discovery import ConnectError
from aegis_discovery.aio import connect
from aegis_discovery.background import in_daemon_thread
from aegis_discovery.transport import _resolve

NAME = "mesh.test"
RESOLVED = ["127.0.0.4", "127.0.0.2"]
"""Two addresses, because gRPC itself resolves a name that has only one."""


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of `mesh.test`, in the order of their answers; it starts without any."""
    found: list[str] = []
    resolve = socket.getaddrinfo

    def look_up(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host not in (NAME, NAME.encode()):
            return resolve(host, port, *rest, **options)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [answer for ip in found for answer in resolve(ip, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return found


@pytest.fixture
def silent_name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps who looks up `mesh.test` waiting until the test ends."""
    over = threading.Event()
    resolve = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **options: Any) -> Any:
        if host in (NAME, NAME.encode()):
            over.wait()
        return resolve(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(_resolve, "RESOLVE_TIMEOUT", 0.3)
    yield
    over.set()


def port_of(node: Any) -> str:
    return str(node.address.rpartition(":")[2])


async def test_a_node_finds_others_behind_a_name_that_also_has_its_own_address(
    start: Any, until: Any, agree: Any, hosts: list[str]
) -> None:
    a = await start("a", address="127.0.0.2:0")
    seed = f"{NAME}:{port_of(a)}"
    hosts[:] = ["127.0.0.3"]
    # The own address is first, as resolvers sort.
    b = await start("b", address=f"127.0.0.3:{port_of(a)}", seed_peers=[seed])
    assert list(b.topology.nodes) == ["b"]
    hosts.append("127.0.0.2")
    await until(lambda: agree(a, b))


async def test_a_node_whose_only_seed_peer_is_itself_serves_at_once(start: Any, until: Any) -> None:
    with socket.create_server(("127.0.0.3", 0)) as free:
        address = f"127.0.0.3:{free.getsockname()[1]}"
    a = await start("a", address=address, seed_peers=[address], join_timeout=600)
    await until(lambda: not a.server._checks.is_joining)
    assert list(a.topology.nodes) == ["a"]


async def test_a_node_joins_through_the_one_that_answers_of_many_addresses(
    start: Any, until: Any, agree: Any, hosts: list[str]
) -> None:
    a = await start("a", address="127.0.0.9:0")
    hosts[:] = [f"127.0.0.{number}" for number in range(2, 10)]
    b = await start("b", seed_peers=[f"{NAME}:{port_of(a)}"], require_join=True)
    await until(lambda: agree(a, b))


async def test_a_node_whose_only_seed_is_a_dead_name_serves_and_joins_when_it_resolves(
    start: Any, until: Any, agree: Any, hosts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    a = await start("a", address="127.0.0.2:0")
    seed = f"{NAME}:{port_of(a)}"
    with pytest.raises(JoinError, match="cannot be resolved"):
        await start("b", seed_peers=[seed], require_join=True, join_timeout=0.5)
    b = await start("b", seed_peers=[seed])
    assert "b has not joined yet" in caplog.text
    assert list(b.topology.nodes) == ["b"]
    hosts += RESOLVED
    await until(lambda: agree(a, b))


async def test_a_client_whose_only_seed_is_a_dead_name_says_so_and_connects_when_it_resolves(
    start: Any, until: Callable[..., Any], identity: Any, hosts: list[str]
) -> None:
    a = await start("a", address="127.0.0.2:0")
    seed, tls = f"{NAME}:{port_of(a)}", identity("visitor")
    with pytest.raises(ConnectError, match="cannot be resolved"):
        await connect(seed, tls=tls, timeout=1)
    async with await connect(seed, tls=tls, wait=False) as mesh:
        await asyncio.sleep(0)
        assert not mesh.topology.nodes
        hosts += RESOLVED
        await until(lambda: list(mesh.topology.nodes) == ["a"])


@pytest.mark.usefixtures("silent_name_server")
async def test_a_name_server_that_is_silent_does_not_keep_a_client_from_its_other_seeds(
    start: Any, identity: Any
) -> None:
    a = await start("a")
    names = [f"{NAME}:{port}" for port in (1, 2)]
    async with connect(*names, a.address, tls=identity("visitor")) as mesh:
        assert list(mesh.topology.nodes) == ["a"]
    with pytest.raises(ConnectError, match="no name server answered within"):
        await connect(names[0], tls=identity("visitor"), timeout=1)


@pytest.mark.usefixtures("silent_name_server")
async def test_a_name_server_that_is_silent_does_not_keep_a_node_from_its_other_seeds(
    start: Any, until: Any, agree: Any
) -> None:
    with socket.create_server(("127.0.0.2", 0)) as free:
        late = f"127.0.0.2:{free.getsockname()[1]}"
    names = [f"{NAME}:{port}" for port in range(1, 41)]  # more than asyncio has threads
    b = await start("b", seed_peers=[*names, late], join_timeout=0.1)
    a = await start("a", address=late)
    await until(lambda: agree(a, b))


def test_a_look_up_that_hangs_does_not_delay_the_end_of_an_event_loop() -> None:
    over = threading.Event()

    async def look_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_daemon_thread(over.wait), 0.01)

    try:
        asyncio.run(asyncio.wait_for(look_up(), 10))
        hanging = [thread for thread in threading.enumerate() if thread.name == "aegis-wait"]
        assert [thread.daemon for thread in hanging] == [True]
    finally:
        over.set()
