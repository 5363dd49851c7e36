"""A mesh on its own network, started once and reset before each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..conftest import keep
from .cluster import Cluster
from .network import Network, NetworkError

NODES = "abcdefg"
"""More than six nodes: in a smaller mesh, every node watches all others."""
STARTED = pytest.StashKey[Cluster]()


@pytest.fixture(scope="session")
def make_network() -> Iterator[Callable[[int], Network]]:
    """Makes networks; skips the test if the machine does not permit them, except in CI."""
    made: list[Network] = []

    def make(size: int) -> Network:
        try:
            network = Network(size)
        except NetworkError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"network namespaces are not available: {error}")
        made.append(network)
        return network

    yield make
    for network in made:
        network.close()


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest,
    make_network: Callable[[int], Network],
    identity: Callable[[str], Any],
    cert_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Cluster:
    """Seven nodes in one mesh, all alive, with equal topologies."""

    @contextmanager
    def start() -> Iterator[Cluster]:
        network = make_network(len(NODES) + 1)
        for node_id in (*NODES, "client"):
            identity(node_id)
        cluster = Cluster(network, NODES, cert_dir, tmp_path_factory.mktemp("logs"))
        yield cluster
        cluster.close()

    started = keep(request, STARTED, start)
    started.reset()
    return started
