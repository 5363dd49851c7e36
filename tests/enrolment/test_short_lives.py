"""Machines that live on certificates of seconds, under load, in real processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, IssuerAddress, KeyType

from ..mesh.process import NodeProcess, Process

DAY = 86400.0
LIFE, TIME = 20.0, 60.0
"""Seconds that a certificate lives, and that the test takes."""


@pytest.fixture
def spawned() -> Iterator[Callable[[Process], Process]]:
    started: list[Process] = []

    def add(process: Process) -> Process:
        started.append(process)
        return process

    yield add
    for process in started:
        process.kill()


def _renewals(home: CertificateAuthority, node_id: str) -> int:
    lines = (home.directory / "audit.jsonl").read_text().splitlines()
    return sum('"renew"' in line and f'"{node_id}"' in line for line in lines)


@pytest.mark.soak
@pytest.mark.timeout(240)
def test_no_call_fails_while_certificates_of_20_seconds_are_renewed(
    home: CertificateAuthority, tmp_path: Path, spawned: Any
) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def issuer() -> NodeProcess:
        options = {"cert_dir": str(home.directory), "issuer": True, "address": address}
        return spawned(NodeProcess("ca-1", tmp_path / "ca-1.log", **options))

    # Before the issuer has ever run.
    at = [IssuerAddress("ca-1", address)]
    tokens = {
        node_id: str(home.create_token(node_id, days=LIFE / DAY, issuers=at))
        for node_id in ("p-1", "p-2", "web-1")
    }
    home.issue("ca-1", key_type=KeyType.P256, days=LIFE / DAY, address="127.0.0.1:1")
    first = issuer()
    assert first.address == address
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
    seeds = [provider.address for provider in providers]
    client = spawned(
        Process(
            "client_process.py",
            {
                "node_id": "web-1",
                "cert_dir": str(tmp_path / "web-1"),
                "token": tokens["web-1"],
                "seeds": seeds,
            },
            tmp_path / "web-1.log",
        )
    )
    client.wait(lambda message: message.get("calls"), within=60)
    began = time.monotonic()
    restarted = False
    while time.monotonic() - began < TIME:
        client.wait(lambda message: message.get("calls"), since=client.position())
        if not restarted and time.monotonic() - began > TIME / 2:
            restarted = True
            first.signal(signal.SIGTERM)
            assert first.wait_exit() == 0
            assert issuer().address == address
    client.close_input()
    outcome = client.wait(lambda message: "answered" in message)
    assert outcome["failures"] == []
    assert {"p-1", "p-2"} <= set(outcome["answered"])
    renewed = {one: _renewals(home, one) for one in ("p-1", "p-2", "web-1")}
    # Each is renewed at two thirds of its life, and lives at the end of three of them.
    assert min(renewed.values()) >= 3, renewed
    for node_id in ("p-1", "p-2", "web-1"):
        assert "expired" not in (tmp_path / f"{node_id}.log").read_text()
