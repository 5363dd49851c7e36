"""Shared by the tests of the mesh: processes on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .process import PATIENCE, NodeProcess, Process


@pytest.fixture
def spawn(identity: Any, cert_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts the process of a node, or with `seeds=` of a client; kills all at the end."""
    started: list[Process] = []

    def start(node_id: str, *seeds: NodeProcess, **options: Any) -> Process:
        identity(node_id)
        options.setdefault("cert_dir", str(cert_dir))
        log = tmp_path / f"{node_id}.log"
        process: Process
        if "seeds" in options:
            process = Process("client_process.py", {"node_id": node_id, **options}, log)
        else:
            options.setdefault("seed_peers", [seed.address for seed in seeds])
            process = NodeProcess(node_id, log, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def trio(spawn: Callable[..., Any]) -> list[NodeProcess]:
    """Three node processes in one mesh, each of which sees the others alive."""
    a = spawn("a")
    nodes = [a, spawn("b", a), spawn("c", a)]
    assert all(node.address for node in nodes)
    deadline = time.monotonic() + PATIENCE
    while True:
        views = [node.ask("topology") for node in nodes]
        same = len({view["digest"] for view in views}) == 1
        if same and all(view["topology"] == dict.fromkeys("abc", "alive") for view in views):
            return nodes
        assert time.monotonic() < deadline, views
