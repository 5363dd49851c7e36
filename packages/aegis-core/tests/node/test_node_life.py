"""Starts and stops in any order, interrupted at any moment."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, NotFoundError, TLSConfig
from aegis_core import (
    AddressInUseError,
    ConfigError,
    FunctionHealthChecker,
    HealthStatus,
    JoinError,
    NodeStateError,
    TopologyEvent,
)
from aegis_core.aio import HealthMonitor, Node
from aegis_discovery import InvalidAddressError
from aegis_discovery.aio import connect

MakeIdentity = Callable[[str], TLSConfig]
Until = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def own_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if "aegis" in task.get_name()}


def files_in(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


async def bounded(work: Awaitable[Any]) -> None:
    await asyncio.wait_for(work, 10)


async def test_a_node_that_could_not_start_can_be_stopped_and_waited_for(
    identity: MakeIdentity, taken: str
) -> None:
    node = Node("a", address=taken, tls=identity("a"))
    with pytest.raises(AddressInUseError):
        await node.start()
    await bounded(node.stop())
    await bounded(node.wait_for_termination())
    assert own_tasks() == set()


@pytest.mark.parametrize("moment", ["at once", "after one step", "in its first health check"])
async def test_a_node_that_is_stopped_while_it_starts_never_runs(
    identity: MakeIdentity, moment: str
) -> None:
    checked = asyncio.Event()

    async def slow() -> None:
        checked.set()
        await asyncio.Event().wait()

    node = Node(
        "a",
        address="127.0.0.1:0",
        tls=identity("a"),
        health_checkers=[FunctionHealthChecker("slow", slow)],
    )
    starting = asyncio.create_task(node.start())
    if moment == "at once":
        starting.cancel()
    else:
        await bounded(asyncio.sleep(0) if moment == "after one step" else checked.wait())
        await bounded(node.stop())
    with pytest.raises((NodeStateError, asyncio.CancelledError)):
        await bounded(starting)
    await bounded(node.stop())
    assert own_tasks() == set()
    with pytest.raises(NodeStateError):
        _ = node.address


async def test_a_stop_continues_after_its_caller_gave_up(identity: MakeIdentity) -> None:
    node = Node("a", address="127.0.0.1:0", tls=identity("a"), grace=0.3)
    await node.start()
    address = node.address
    stopping = asyncio.create_task(node.stop())
    await asyncio.sleep(0)  # lets the stop begin
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await bounded(node.stop())
    with socket.socket() as probe:
        host, port = address.split(":")
        assert probe.connect_ex((host, int(port))) != 0
    assert own_tasks() == set()


async def test_a_failing_subscriber_does_not_prevent_the_stop(
    identity: MakeIdentity,
) -> None:
    node = Node("a", address="127.0.0.1:0", tls=identity("a"), grace=0)
    await node.start()

    def broken(event: TopologyEvent) -> None:
        raise RuntimeError("a fault in the code of the user")

    node.topology.subscribe(broken)
    await bounded(node.stop())
    assert own_tasks() == set()


async def test_a_seed_peer_that_hangs_does_not_delay_the_start(
    identity: MakeIdentity, taken: str
) -> None:
    async with (
        Node("a", address="127.0.0.1:0", tls=identity("a"), grace=0) as a,
        Node("b", address="127.0.0.1:0", tls=identity("b"), grace=0, join_timeout=60,
             seed_peers=[taken, a.address]) as b,
    ):  # fmt: skip
        assert list(b.topology.nodes) == ["a", "b"]


@pytest.mark.parametrize("seed", ["0.0.0.0:50051", "a..b:1", "Bad Id@127.0.0.1:1"])
def test_an_invalid_seed_peer_is_refused(identity: MakeIdentity, seed: str) -> None:
    with pytest.raises(InvalidAddressError):
        Node("a", address="127.0.0.1:0", tls=identity("a"), seed_peers=[seed])


async def test_a_key_of_another_certificate_is_refused(ca: CertificateAuthority) -> None:
    one, other = ca.issue_in_memory("a"), ca.issue_in_memory("a")
    mixed = TLSConfig("a", one.certificate_chain, other.private_key, one.trust_bundle)
    with pytest.raises(ConfigError, match="not that of a's certificate"):
        await Node("a", address="127.0.0.1:0", tls=mixed).start()


async def test_a_client_only_identity_cannot_be_a_node(ca: CertificateAuthority) -> None:
    tls = ca.issue_in_memory("a", client_only=True)
    with pytest.raises(ConfigError, match="a cannot be a node"):
        await Node("a", address="127.0.0.1:0", tls=tls).start()


async def test_a_server_only_identity_cannot_be_a_node(ca: CertificateAuthority) -> None:
    tls = ca.issue_in_memory("a", server_only=True)
    with pytest.raises(ConfigError, match="may only serve, and a node calls its peers"):
        await Node("a", address="127.0.0.1:0", tls=tls).start()


async def test_callers_of_another_trust_domain_are_refused(
    ca: CertificateAuthority, identity: MakeIdentity, tmp_path: Any
) -> None:
    from aegis_core._access.authorization import CallerVerifier
    from aegis_core._access.caller import Caller

    tls = identity("a")
    verifier = CallerVerifier(tls.bundle, tls.trust_domain, clock=lambda: 0.0)
    certificate = tls.certificate
    stranger = Caller("evil", certificate, "staging.example", not_after=1.0)
    friend = Caller("a", certificate, tls.trust_domain, not_after=1.0)
    assert verifier.check(friend) is None
    assert "trust domain staging.example" in str(verifier.check(stranger))


async def test_a_check_that_hangs_is_unhealthy_and_is_not_started_twice(until: Until) -> None:
    import threading

    release, runs = threading.Event(), []

    def hang() -> None:
        runs.append(1)
        release.wait()

    checker = FunctionHealthChecker("hang", hang)
    monitor = HealthMonitor("a", [checker], on_change=lambda _: None)
    task = asyncio.create_task(checker.check())
    await until(lambda: runs)
    info = await monitor.check()
    assert info.status is HealthStatus.UNHEALTHY
    assert "its last run has not ended" in info.error
    assert len(runs) == 1
    release.set()
    assert await task is HealthStatus.HEALTHY


async def test_a_claimed_sender_cannot_forge_log_lines(
    identity: MakeIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    from aegis_discovery.aio.transport import open_channel
    from aegis_discovery.proto import aegis_pb2, aegis_pb2_grpc

    async with Node("a", address="127.0.0.1:0", tls=identity("a"), grace=0) as a:
        channel = open_channel(identity("b"), "a", a.address)
        stub = aegis_pb2_grpc.MeshServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Ping(aegis_pb2.PingRequest(sender_id="x\nERROR forged" + "y" * 60_000))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await channel.close()
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert all(len(record.getMessage()) < 300 for record in caplog.records)


@pytest.mark.parametrize("has_certificate", [False, True])
async def test_a_mistyped_directory_makes_no_second_mesh(
    identity: MakeIdentity, tmp_path: Path, has_certificate: bool
) -> None:
    mistyped = tmp_path / "typo"
    if has_certificate:
        mistyped.mkdir()
        (mistyped / "b-cert.pem").write_bytes(identity("b").certificate_chain)
        (mistyped / "b-key.pem").write_bytes(identity("b").private_key)
    before = files_in(tmp_path)
    async with Node("a", address="127.0.0.1:0", tls=identity("a"), grace=0) as a:
        node = Node("b", address="127.0.0.1:0", cert_dir=mistyped, seed_peers=[a.address])
        with pytest.raises(NotFoundError):
            await node.start()
        with pytest.raises(NotFoundError):
            await connect(a.address, node_id="b", cert_dir=mistyped)
    assert files_in(tmp_path) == before


async def test_a_node_that_must_join_fails_to_start_without_a_seed_peer(
    identity: MakeIdentity,
) -> None:
    options: dict[str, Any] = {"tls": identity("a"), "require_join": True}
    with pytest.raises(ConfigError, match="require_join"):
        Node("a", address="127.0.0.1:0", **options)
    seeds = ["127.0.0.1:1"]
    node = Node("a", address="127.0.0.1:0", join_timeout=0.1, seed_peers=seeds, **options)
    with pytest.raises(JoinError, match=r"127\.0\.0\.1:1"):
        await node.start()
    assert own_tasks() == set()


async def test_a_node_that_must_join_waits_for_its_seed_peer(identity: MakeIdentity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options: dict[str, Any] = {"require_join": True, "join_timeout": 60}
    node = Node("b", address="127.0.0.1:0", tls=identity("b"), seed_peers=[address], **options)
    starting = asyncio.create_task(node.start())
    await asyncio.sleep(0)
    async with Node("a", address=address, tls=identity("a"), grace=0):
        await bounded(starting)
        assert "a" in node.topology.nodes
        await node.stop(grace=0)
