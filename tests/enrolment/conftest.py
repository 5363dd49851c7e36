"""Shared by the tests of enrolment: a CA of its own directory, issuers, and tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aegis_core
import pytest
from aegis_certs import CertificateAuthority, KeyType, Token
from aegis_core import aio

StartNode = Callable[..., Awaitable[Any]]


@pytest.fixture
def home(tmp_path: Path) -> CertificateAuthority:
    """The CA of this mesh, and the directory of its first issuer, `ca-1`."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    ca = CertificateAuthority.create(tmp_path / "home", key_type=KeyType.P256, at=yesterday)
    ca.issue("ca-1", key_type=KeyType.P256, address="127.0.0.1:1")
    return ca


class Nodes:
    """Starts nodes of either face in this process."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self.started: list[Any] = []

    async def __call__(self, node_id: str, **options: Any) -> Any:
        node = self._make(node_id, **{"address": "127.0.0.1:0", **options})
        await self._run(node.start)
        self.started.append(node)
        return node

    async def stop(self, node: Any) -> None:
        self.started.remove(node)
        await self._run(node.stop, 0)

    async def _run(self, work: Any, *arguments: Any) -> None:
        if asyncio.iscoroutinefunction(work):
            await work(*arguments)
        else:
            await asyncio.to_thread(work, *arguments)


@pytest.fixture(params=[aio.Node, aegis_core.Node], ids=["aio", "blocking"])
async def both(request: pytest.FixtureRequest) -> AsyncIterator[Nodes]:
    """Starts nodes, first all of asyncio, then all blocking."""
    nodes = Nodes(request.param)
    yield nodes
    for node in list(nodes.started):
        await nodes.stop(node)


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    """Starts nodes of asyncio."""
    nodes = Nodes(aio.Node)
    yield nodes
    for node in list(nodes.started):
        await nodes.stop(node)


@pytest.fixture
def token_for(home: CertificateAuthority) -> Callable[..., Token]:
    def make(node_id: str, **options: Any) -> Token:
        options.setdefault("ttl", timedelta(minutes=15))
        return home.create_token(node_id, **options)

    return make
