"""Shared by the tests of registries: etcd, and meshes that are in it or in feeds."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, TLSConfig
from aegis_core.aio import Node

from ..conftest import keep
from .etcd import EXECUTABLE, Etcd

StartEtcd = Callable[..., Etcd]


def check_installed() -> None:
    """Skips a test on a machine without etcd; CI always has it."""
    if EXECUTABLE is None:
        if os.environ.get("CI"):
            pytest.fail("etcd is not installed; .ci/run installs it")
        pytest.skip("etcd is not installed (etcd-server in Debian)")


SHARED = pytest.StashKey[Etcd]()
_numbers = itertools.count(1)


@pytest.fixture
def shared_etcd(
    request: pytest.FixtureRequest,
    ca: CertificateAuthority,
    identity: Callable[[str], TLSConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Etcd:
    """One member for many tests, each of which has a mesh of its own in it."""
    check_installed()

    @contextmanager
    def start() -> Iterator[Etcd]:
        cluster = Etcd(tmp_path_factory.mktemp("etcd"), ca)
        cluster.start()
        try:
            operator = identity("operator")
            # The first test that asks for it may run in an event loop.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(lambda: asyncio.run(cluster.wait_ready(operator))).result()
            yield cluster
        finally:
            cluster.kill()

    return keep(request, SHARED, start)


@pytest.fixture
def start_etcd(
    ca: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartEtcd]:
    """Starts clusters of etcd; kills them at the end."""
    check_installed()
    started: list[Etcd] = []

    def start(size: int = 1, **options: bool) -> Etcd:
        cluster = Etcd(tmp_path_factory.mktemp("etcd"), ca, size, **options)
        started.append(cluster)
        cluster.start()
        return cluster

    yield start
    for cluster in started:
        cluster.kill()


class MeshIn:
    """A mesh in a registry: how its nodes and clients find each other.

    Attributes:
        name: The name of the mesh.
        nodes: The nodes that were started.
    """

    def __init__(self, etcd: Etcd | None, identity: Callable[[str], TLSConfig]) -> None:
        self.name = f"mesh-{next(_numbers)}"
        self.nodes: list[Node] = []
        self.etcd = etcd
        self._identity = identity

    def node_options(self) -> dict[str, Any]:
        """Returns the options of a further node."""
        if self.etcd is not None:
            return {"mesh": self.name, "registry": self.etcd.url}
        return {"mesh": self.name, "seed_peers": [node.address for node in self.nodes[:1]]}

    def client_arguments(self) -> tuple[list[str], dict[str, Any]]:
        """Returns what a client is called with."""
        options = self.node_options()
        return list(options.pop("seed_peers", [])), options

    async def start(self, node_id: str, **options: Any) -> Node:
        """Starts a node."""
        options = {"address": "127.0.0.1:0", **self.node_options(), **options}
        if "cert_dir" not in options:
            options["tls"] = options.get("tls") or self._identity(node_id)
        node = Node(node_id, **options)
        await node.start()
        self.nodes.append(node)
        return node


@pytest.fixture(params=["feed", "etcd"])
async def mesh_in(
    request: pytest.FixtureRequest, identity: Callable[[str], TLSConfig]
) -> AsyncIterator[MeshIn]:
    """A mesh in each kind of registry."""
    etcd = request.getfixturevalue("shared_etcd") if request.param == "etcd" else None
    mesh = MeshIn(etcd, identity)
    yield mesh
    await asyncio.gather(*(node.stop(grace=0) for node in mesh.nodes))


@pytest.fixture
async def mesh_in_etcd(
    shared_etcd: Etcd, identity: Callable[[str], TLSConfig]
) -> AsyncIterator[MeshIn]:
    """A mesh in etcd."""
    mesh = MeshIn(shared_etcd, identity)
    yield mesh
    await asyncio.gather(*(node.stop(grace=0) for node in mesh.nodes))
