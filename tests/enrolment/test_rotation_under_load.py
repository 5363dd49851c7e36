"""The CA of a mesh is replaced while calls run, by itself and by three commands."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, IssuerAddress, KeyType, RotationPhase

from ..mesh.process import NodeProcess, Process

SECOND = 1 / 86400  # days
TIME = float(os.environ.get("AEGIS_ROTATION_SECONDS", "75"))
CALLERS = 16


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
