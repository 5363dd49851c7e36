"""Clients: in no topology, and told plainly why they are not let in."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, KeyType
from aegis_core import Node
from aegis_discovery import ConnectError, NotOwnerError, connect
from aegis_discovery import aio as discovery_aio


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """Something that is no node: it answers every connection with these bytes, or with nothing."""
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
    assert "no seed peer let this client in within 2 s" in str(caught.value)


def test_a_connect_without_anywhere_to_go_or_anyone_to_be_is_refused(identity: Any) -> None:
    with pytest.raises(ConnectError, match="no seed peer was given"):
        connect(tls=identity("client"))
    with pytest.raises(ConnectError, match="who connects"):
        connect("127.0.0.1:1")


def test_a_failed_connect_leaves_no_thread_behind(identity: Any, closed_port: str) -> None:
    with pytest.raises(ConnectError):
        connect(closed_port, tls=identity("client"), timeout=0.3)
    assert [thread.name for thread in threading.enumerate() if "aegis" in thread.name] == []


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


async def test_a_client_with_a_certificate_for_clients_only_is_let_in(
    start: Any, ca: CertificateAuthority, provider: Any, say: Any
) -> None:
    a = await start("a", **provider("a"))
    tls = ca.issue_in_memory("visitor", client_only=True)
    async with await discovery_aio.connect(a.address, tls=tls) as mesh:
        assert (await say(mesh.pool.channel("echo", "v1")))[:2] == ["a", "visitor"]


async def test_a_client_waits_for_a_mesh_that_comes_later(
    start: Any, identity: Any, closed_port: str
) -> None:
    connecting = asyncio.create_task(
        discovery_aio.connect(closed_port, tls=identity("client"), timeout=15)
    )
    await start("a", address=closed_port)
    async with await connecting as mesh:
        assert list(mesh.topology.nodes) == ["a"]
