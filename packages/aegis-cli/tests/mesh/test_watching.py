"""What lives longer than a moment: the reader of a watch, and answers that get old."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aegis_certs import CertificateAuthority, KeyType, TLSConfig
from aegis_cli._mesh import live
from aegis_cli._mesh.connecting import LastingReader, MeshPlace
from aegis_cli._mesh.live import Place
from aegis_cli._mesh.reader import Reader
from aegis_cli._view.model import Filter, View
from aegis_cli._view.status import status
from aegis_cli.errors import NoIdentityError
from aegis_core.aio import Node


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Mesh:
    """A mesh of one node, and the identities that a command takes one after another."""

    def __init__(self, ca: CertificateAuthority, node: Node) -> None:
        self.ca = ca
        self.node = node
        self.taken: list[TLSConfig] = []
        self.refuses = False

    def identity(self) -> TLSConfig:
        if self.refuses:
            raise NoIdentityError("certs", "there is none any more")
        days = 1 / 24
        self.taken.append(self.ca.issue_in_memory("aegis-cli", days=days, client_only=True))
        return self.taken[-1]


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Mesh]:
    ca = CertificateAuthority.create(tmp_path, key_type=KeyType.P256)
    node = Node("a", address="127.0.0.1:0", tls=ca.issue("a", key_type=KeyType.P256))
    await node.start()
    yield Mesh(ca, node)
    await node.stop(grace=0)


async def test_a_watch_takes_another_identity_before_the_last_one_ends(one: Mesh) -> None:
    ahead = timedelta()
    place = MeshPlace(one.node.address, one.identity, "aegis")
    reader = LastingReader(place, clock=lambda: datetime.now(UTC) + ahead)
    try:
        first = await reader.open()
        assert await reader.open() is first
        ahead = timedelta(minutes=31)
        one.refuses = True
        assert await reader.open() is first
        assert "there is none any more" in reader.trouble
        one.refuses = False
        ahead = timedelta(minutes=32)
        second = await reader.open()
        assert (second is not first, len(one.taken), reader.trouble) == (True, 2, "")
        assert [node.id for node in (await second.read(own=("standings",))).nodes] == ["a"]
        held = dict(second._held)
        await second.read(of_all=("calls",), replies=True)
        assert second._held == held  # one connection to each node, however often it is asked
    finally:
        await reader.close()


async def test_an_answer_that_hangs_is_marked_while_it_hangs(
    one: Mesh, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    """The screen must not show an old answer as if it was the present one."""
    monkeypatch.setattr(live, "INTERVAL", 0.01)
    out = Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    reads = 0

    async def read(reader: Reader) -> View:
        nonlocal reads
        reads += 1
        if reads > 1:
            await asyncio.Event().wait()
        view = await reader.read()
        return view._replace(taken_at=view.taken_at - timedelta(seconds=9))

    place = Place(one.node.address, one.identity, "aegis")
    watching = asyncio.create_task(
        place.live(read, lambda view: status(view, Filter()), json=False, interval=0.01)
    )
    await until(lambda: "STALE: this is 9s old" in out.getvalue())
    watching.cancel()
    assert await watching == 0
    assert out.getvalue().count("\x1b[?1049h") == out.getvalue().count("\x1b[?1049l") == 1
