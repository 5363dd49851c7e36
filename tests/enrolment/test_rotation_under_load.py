"""The CA of a mesh is replaced while calls run, by itself and by three commands.

An hour in real time, and 50 nodes, by hand:

    AEGIS_ROTATION_SECONDS=3600 uv run pytest -s -m soak -k two_minutes tests/enrolment
    AEGIS_ROTATION_NODES=50 uv run pytest -s -m soak -k three_commands tests/enrolment
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from aegis_certs import CertificateAuthority, IssuerAddress, KeyType, RotationPhase, Token
from aegis_core import ServiceInfo
from aegis_core.aio import Node
from aegis_discovery.aio import connect

from ..mesh.process import NodeProcess, Process

SECOND = 1 / 86400  # days
TIME = float(os.environ.get("AEGIS_ROTATION_SECONDS", "110"))
NODES = int(os.environ.get("AEGIS_ROTATION_NODES", "6"))
CALLERS = 16
AEGIS = Path(sysconfig.get_path("scripts")) / "aegis"
ECHO = ServiceInfo("echo", "v1")


@pytest.fixture
def spawned() -> Iterator[Callable[[Process], Process]]:
    started: list[Process] = []

    def add(process: Process) -> Process:
        started.append(process)
        return process

    yield add
    for process in started:
        process.kill()


def free_address() -> str:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.soak
@pytest.mark.timeout(TIME + 200)
def test_a_ca_of_two_minutes_replaces_itself_and_no_call_fails(
    tmp_path: Path, spawned: Any
) -> None:
    """It is one minute old at first, so that all steps of a rotation fit into the time."""
    born = datetime.now(UTC) - timedelta(seconds=60)
    home = CertificateAuthority.create(
        tmp_path / "home", key_type=KeyType.P256, days=120 * SECOND, at=born
    )
    first, address = home.name, free_address()
    at = [IssuerAddress("ca-1", address)]
    tokens = {
        node_id: str(home.create_token(node_id, days=20 * SECOND, issuers=at))
        for node_id in ("p-1", "p-2", "web-1")
    }
    home.issue("ca-1", key_type=KeyType.P256, days=20 * SECOND, address="127.0.0.1:1")
    options: dict[str, Any] = {"cert_dir": str(home.directory), "issuer": True, "address": address}
    spawned(NodeProcess("ca-1", tmp_path / "ca-1.log", **options))
    providers = [
        spawned(
            NodeProcess(
                node_id,
                tmp_path / f"{node_id}.log",
                cert_dir=str(tmp_path / node_id),
                token=tokens[node_id],
                seed_peers=[address],
            )
        )
        for node_id in ("p-1", "p-2")
    ]
    options = {
        "node_id": "web-1",
        "cert_dir": str(tmp_path / "web-1"),
        "token": tokens["web-1"],
        "seeds": [provider.address for provider in providers],
        "callers": CALLERS,
    }
    client = spawned(Process("client_process.py", options, tmp_path / "web-1.log"))
    client.wait(lambda message: message.get("calls"), within=60)
    ends = time.monotonic() + TIME
    while time.monotonic() < ends or home.rotation().phase is not RotationPhase.NONE:
        client.wait(lambda message: message.get("calls"), since=client.position())
    client.close_input()
    outcome = client.wait(lambda message: "answered" in message)
    assert outcome["failures"] == []
    assert {"p-1", "p-2"} <= set(outcome["answered"])
    log = (home.directory / "audit.jsonl").read_text()
    steps = [log.count(f'"rotate-{step}"') for step in ("prepare", "activate", "retire")]
    assert min(steps) >= 1, steps
    assert home.rotation().issuing != first
    print(f"{sum(outcome['answered'].values())} calls, {steps[2]} rotations")


class Load:
    """Callers that call without a pause, and keep what fails."""

    def __init__(self) -> None:
        self.calls, self.failures = 0, list[str]()

    async def call(self, method: Any) -> None:
        while True:
            try:
                await method(b"", timeout=20)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")
            self.calls += 1
            await asyncio.sleep(0.01)


def register(server: grpc.aio.Server) -> None:
    async def say(request: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request

    handlers = {"Say": grpc.unary_unary_rpc_method_handler(say)}
    generic = grpc.method_handlers_generic_handler("test.Echo", handlers)
    server.add_generic_rpc_handlers((generic,))


async def aegis(*arguments: str) -> str:
    command = [AEGIS, "certs", "rotate-ca", *arguments]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def until(reached: Callable[[], object]) -> None:
    async with asyncio.timeout(240):
        while not reached():  # noqa: ASYNC110 - files and records set no event
            await asyncio.sleep(0.2)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_three_commands_replace_the_ca_of_nodes_with_directories_of_their_own(
    home: CertificateAuthority,
    token_for: Callable[..., Token],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aegis_certs._identity.renewal_schedule._LONGEST_EARLY", 10.0)
    home.issue("ca-1", key_type=KeyType.P256, address="127.0.0.1:1")
    address, old = free_address(), home.certificate
    issuer = Node("ca-1", address=address, cert_dir=home.directory, issuer=True, rotate="manual")
    await issuer.start()
    at, nodes = [IssuerAddress("ca-1", address)], [issuer]
    for number in range(NODES):
        name = f"node-{number}"
        node = Node(
            name,
            address="127.0.0.1:0",
            cert_dir=tmp_path / name,
            token=token_for(name, days=1 / 12, issuers=at),
            seed_peers=[address],
            services=[ECHO],
            registrars=[register],
        )
        await node.start()
        nodes.append(node)
    load, began = Load(), time.monotonic()
    token = token_for("web-1", days=1 / 12, client_only=True, issuers=at)
    async with await connect(
        *(node.address for node in nodes[1:4]),
        node_id="web-1",
        cert_dir=tmp_path / "web-1",
        token=token,
    ) as mesh:
        method = mesh.pool.channel("echo", "v1").unary_unary("/test.Echo/Say")
        callers = [asyncio.create_task(load.call(method)) for _ in range(CALLERS)]
        where = ("--dir", str(home.directory))
        await aegis("prepare", *where)
        trusts = home.rotation().trusts
        await until(lambda: all(map(trusts, bundles_seen_by(issuer))))
        await aegis("activate", "--node", f"ca-1@{address}", *where)
        await until(lambda: not home.rotation().old_leaves)
        await aegis("retire", *where)
        retired = home.rotation().bundle_fingerprint
        await until(lambda: {*bundles_seen_by(issuer)} == {retired})
        places = [*(tmp_path / f"node-{n}" for n in range(NODES)), tmp_path / "web-1"]
        await until(lambda: not any(old in load_bundle(place) for place in places))
        before = load.calls
        await until(lambda: load.calls > before + 10 * CALLERS)
        for caller in callers:
            caller.cancel()
    for node in reversed(nodes):
        await node.stop(0)
    assert load.failures == []
    print(f"{load.calls} calls, {NODES} nodes, {time.monotonic() - began:.0f} s")


def bundles_seen_by(node: Any) -> list[str]:
    return [one.trust_bundle for one in node.topology.nodes.values()]


def load_bundle(directory: Path) -> list[Any]:
    from cryptography import x509

    return x509.load_pem_x509_certificates((directory / "ca-cert.pem").read_bytes())
